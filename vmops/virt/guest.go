package virt

import (
	"context"
	"errors"
	"time"

	"vdsm-agent/internal/code"

	"github.com/digitalocean/go-libvirt"
)

// GuestWithin is how long the agent in a guest has for an answer.
const GuestWithin = time.Minute

// Freeze asks the guest's agent to bring its file systems to rest. Errors: one that NoGuest knows, if nobody was there to be asked; one that
// Unreachable knows, if they may be at rest, or come to rest still; any other if they are not.
func (c *Client) Freeze(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "freeze the file systems of", actWithin+2*GuestWithin, func(l *connection, d libvirt.Domain) error {
		if _, err := l.DomainAgentSetResponseTimeout(d, int32(GuestWithin.Seconds()), 0); err != nil {
			return err
		}
		_, err := l.DomainFsfreeze(d, nil, 0)
		return err
	})
}

// Thaw asks it to let them go on. Those that are not at rest are no error.
func (c *Client) Thaw(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "thaw the file systems of", actWithin+2*GuestWithin, func(l *connection, d libvirt.Domain) error {
		_, err := l.DomainFsthaw(d, nil, 0)
		return err
	})
}

// Snapshot has the machine go on on new volumes, all of them or none, as xml says. The volumes are there.
func (c *Client) Snapshot(ctx context.Context, vm, xml string) error {
	const flags = libvirt.DomainSnapshotCreateDiskOnly | libvirt.DomainSnapshotCreateReuseExt | libvirt.DomainSnapshotCreateNoMetadata | libvirt.DomainSnapshotCreateAtomic
	return c.act(ctx, vm, "snapshot", actWithin, func(l *connection, d libvirt.Domain) error {
		_, err := l.DomainSnapshotCreateXML(d, xml, uint32(flags))
		return err
	})
}

// SnapshotMemory writes the machine's memory to a file as Save does, and then does what Snapshot does, as xml says. The machine is paused
// meanwhile, and then goes on. It returns at once; its end comes by the channel, and goes on in libvirt whatever becomes of the agent. While it
// runs Job shows it, and AbortJob cancels it.
func (c *Client) SnapshotMemory(ctx context.Context, vm, xml string) <-chan error {
	const flags = libvirt.DomainSnapshotCreateReuseExt | libvirt.DomainSnapshotCreateNoMetadata | libvirt.DomainSnapshotCreateAtomic
	done := make(chan error, 1)
	c.running.Go(func() {
		done <- c.act(ctx, vm, "snapshot the memory of", saveWithin, func(l *connection, d libvirt.Domain) error {
			_, err := l.DomainSnapshotCreateXML(d, xml, uint32(flags))
			return err
		})
	})
	return done
}

// guestError means that no agent in the guest took a request.
type guestError struct{ error }

func (e guestError) Unwrap() error { return e.error }

// NoGuest says whether err means that the guest has no agent, or one that did not take the request.
func NoGuest(err error) bool { return errors.As(err, new(guestError)) }

// guestExplained makes of libvirt's error one of the guest's agent; nil if it is none.
func guestExplained(what string, said libvirt.Error) error {
	switch libvirt.ErrorNumber(said.Code) {
	case libvirt.ErrConfigUnsupported, libvirt.ErrArgumentUnsupported, libvirt.ErrAgentUnresponsive, libvirt.ErrAgentUnsynced:
		return guestError{code.Errorf(code.GuestAgent, "the guest's agent could not be asked to %s: %w", what, said)}
	case libvirt.ErrAgentCommandTimeout:
		return unreachableError{code.Errorf(code.GuestAgent, "the guest's agent has not answered within %s when it was asked to %s: %w", GuestWithin, what, said)}
	}
	return nil
}

// ErrNoGuest makes an error that NoGuest knows, for what stands in for libvirt in tests.
func ErrNoGuest(text string) error {
	return guestError{code.Errorf(code.GuestAgent, "%s", text)}
}
