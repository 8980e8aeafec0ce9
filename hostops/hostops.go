// Package hostops is what the agent says of its host: Host.getCapabilities, Host.getStats and Host.echo, in the keys and types that
// engines read. It says what it can truthfully say and leaves out the rest: docs/host.md lists each key and where it comes from. It
// changes nothing. It may be imported by agent.
package hostops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
)

// Options are what a Host needs.
type Options struct {
	// Root is the directory under which proc, sys, etc and dev lie; "" = /.
	Root string
	// Domains answers the storage domains of this host as they are now. It returns in bounded time.
	Domains func(ctx context.Context) map[string]Domain
}

// Domain is how a storage domain answers.
type Domain struct {
	Version int
	Code    int           // 0, or VDSM's number of what is wrong
	Delay   time.Duration // that its answer took
	Claimed bool          // for this agent
}

// Host answers.
type Host struct {
	options Options
	last    sample
}

// New makes a host that reads the files below o.Root when it is asked.
func New(o Options) *Host {
	if o.Root == "" {
		o.Root = "/"
	}
	return &Host{options: o}
}

type echoParams struct {
	Message string `json:"message" doc:"what is answered"`
}

// Calls are the verbs.
func (h *Host) Calls() []tasks.Call {
	return []tasks.Call{
		{
			Name: "Host.echo", Role: access.Observe, Doc: "Answer the message.", Params: echoParams{}, Result: "",
			Answer: func(_ context.Context, raw json.RawMessage) (any, error) {
				var p echoParams
				err := param.Decode(raw, &p, param.Lenient)
				return p.Message, err
			},
		},
		{
			Name: "Host.getCapabilities", Role: access.Observe, Doc: "Answer what this host is and has.", Params: param.None{}, Result: Capabilities{},
			Answer: func(context.Context, json.RawMessage) (any, error) { return h.capabilities() },
		},
		{
			Name: "Host.getStats", Role: access.Observe, Doc: "Answer how busy this host is, and how its storage domains answer.", Params: param.None{}, Result: Stats{},
			Answer: func(ctx context.Context, _ json.RawMessage) (any, error) { return h.stats(ctx) },
		},
	}
}
