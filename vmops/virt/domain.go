package virt

import (
	"context"

	"github.com/digitalocean/go-libvirt"
)

// Phase is what a machine does, as libvirt says.
type Phase int

// The phases.
const (
	Off     Phase = iota // it is defined and does not run
	Running              // its processors run, or wait
	Paused
	ShuttingDown
	Crashed // its guest has
)

// State is the phase and its reason, which is a number of libvirt's for that phase.
type State struct {
	Phase  Phase
	Reason int32
}

// ReasonIOError is the reason of a machine that is paused because its storage failed.
const ReasonIOError = int32(libvirt.DomainPausedIoerror)

// Alive says whether QEMU has the machine.
func (s State) Alive() bool { return s.Phase != Off && s.Phase != Crashed }

// Incoming says whether the machine waits for its state from another host.
func (s State) Incoming() bool {
	return s.Phase == Paused && libvirt.DomainPausedReason(s.Reason) == libvirt.DomainPausedMigration
}

func stateOf(state, reason int32) State {
	phase := Off
	switch libvirt.DomainState(state) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		phase = Running
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		phase = Paused
	case libvirt.DomainShutdown:
		phase = ShuttingDown
	case libvirt.DomainCrashed:
		phase = Crashed
	}
	return State{phase, reason}
}

// State says what the machine does now. It is not there: 1.
func (c *Client) State(ctx context.Context, vm string) (State, error) {
	return ask(ctx, c, vm, "tell the state of", askWithin, func(l *connection, d libvirt.Domain) (State, error) {
		state, reason, err := l.DomainGetState(d, 0)
		return stateOf(state, reason), err
	})
}

// XML is the machine's description as it is now, without secrets.
func (c *Client) XML(ctx context.Context, vm string) (string, error) {
	return ask(ctx, c, vm, "describe", askWithin, func(l *connection, d libvirt.Domain) (string, error) { return l.DomainGetXMLDesc(d, 0) })
}

// Create starts a machine that is gone when it goes down. One with its id runs: 4.
func (c *Client) Create(ctx context.Context, xml string, paused bool) error {
	var flags libvirt.DomainCreateFlags
	if paused {
		flags = libvirt.DomainStartPaused
	}
	_, err := call(ctx, c, "start a machine", startWithin, func(l *connection) (libvirt.Domain, error) { return l.DomainCreateXML(xml, flags) })
	return err
}

// Restore starts a machine from a file that Save has written, running or paused as asked. place gets the description of the machine that is in
// the file, and returns the one that it shall have, such as with other files of its disks; "" = that of the file.
func (c *Client) Restore(ctx context.Context, file string, place func(xml string) (string, error), paused bool) error {
	flags := libvirt.DomainSaveRunning
	if paused {
		flags = libvirt.DomainSavePaused
	}
	_, err := call(ctx, c, "restore a machine from "+file, startWithin, func(l *connection) (struct{}, error) {
		was, err := l.DomainSaveImageGetXMLDesc(file, uint32(libvirt.DomainSaveImageXMLSecure))
		if err != nil {
			return struct{}{}, err
		}
		xml, err := place(was)
		if err != nil {
			return struct{}{}, err
		}
		var given libvirt.OptString
		if xml != "" {
			given = libvirt.OptString{xml}
		}
		return struct{}{}, l.DomainRestoreFlags(file, given, uint32(flags))
	})
	return err
}

// Save writes the machine's state to a file and ends the machine. It returns at once; its end comes by the channel, and goes on
// in libvirt whatever becomes of the agent. While it runs Job shows it, and AbortJob cancels it.
func (c *Client) Save(ctx context.Context, vm, file string) <-chan error {
	done := make(chan error, 1)
	c.running.Go(func() {
		done <- c.act(ctx, vm, "save", saveWithin, func(l *connection, d libvirt.Domain) error {
			return l.DomainSaveFlags(d, file, nil, 0)
		})
	})
	return done
}

// Destroy ends the machine as a power cut does; with graceful only if QEMU can be ended by SIGTERM.
func (c *Client) Destroy(ctx context.Context, vm string, graceful bool) error {
	flags := libvirt.DomainDestroyDefault
	if graceful {
		flags = libvirt.DomainDestroyGraceful
	}
	return c.act(ctx, vm, "end", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainDestroyFlags(d, flags) })
}

// Shutdown asks the guest to go down by itself, or to start again.
func (c *Client) Shutdown(ctx context.Context, vm string, reboot bool) error {
	return c.act(ctx, vm, "shut down", actWithin, func(l *connection, d libvirt.Domain) error {
		if reboot {
			return l.DomainReboot(d, libvirt.DomainRebootAcpiPowerBtn)
		}
		return l.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
	})
}

// Suspend stops the machine's processors.
func (c *Client) Suspend(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "pause", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainSuspend(d) })
}

// Resume lets them go on.
func (c *Client) Resume(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "continue", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainResume(d) })
}
