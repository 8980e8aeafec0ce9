package vmops

import (
	"context"
	"errors"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/client"
	"vdsm-agent/tasks"
)

// peers are the agents of other hosts. After an error it is not known whether they did what was asked.
type peers interface {
	Prepare(ctx context.Context, s *tasks.Scope, address string, p arrivalParams) error
	Arrival(ctx context.Context, address string, p arrivalOf) (arrival, error)
	Dismiss(ctx context.Context, s *tasks.Scope, address string, p dismissParams) error
}

// agents are real ones.
type agents struct {
	dial func(ctx context.Context, address string) (*client.Client, error)
}

const (
	prepareWithin = 30 * time.Second // its storage may be slow
	peerWithin    = 5 * time.Second
)

func (a agents) Prepare(ctx context.Context, _ *tasks.Scope, address string, p arrivalParams) error {
	return a.call(ctx, address, prepareWithin, "VM.migrationCreate", p, nil)
}

func (a agents) Arrival(ctx context.Context, address string, p arrivalOf) (out arrival, err error) {
	err = a.call(ctx, address, peerWithin, "VM.migrationArrival", p, &out)
	return out, err
}

func (a agents) Dismiss(ctx context.Context, _ *tasks.Scope, address string, p dismissParams) error {
	return a.call(ctx, address, peerWithin, "VM.migrationDismiss", p, nil)
}

// call calls a verb of another host's agent.
func (a agents) call(ctx context.Context, address string, within time.Duration, verb string, params, result any) error {
	if a.dial == nil {
		return code.Errorf(code.ResourceUnavailable, "this agent has no certificates to reach other hosts with (section [tls] of its configuration)")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, code.Errorf(code.ResourceUnavailable, "it has not answered %s within %s", verb, within))
	defer cancel()
	c, err := a.dial(ctx, address)
	if err != nil {
		return code.Errorf(code.ResourceUnavailable, "the agent of %s cannot be reached: %w", address, err)
	}
	defer func() { _ = c.Close() }() // its answer is what counts
	err = c.Call(ctx, verb, params, result)
	var refused *client.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return code.Errorf(code.Code(refused.Code), "%s: %s", address, refused.Message)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return code.Errorf(code.ResourceUnavailable, "the agent of %s: %w", address, err)
}
