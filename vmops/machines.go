package vmops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/vmops/virt"
)

// VDSM's words for what a machine does.
const (
	statusDown      = "Down"
	statusIncoming  = "Migration Destination"
	statusPaused    = "Paused"
	statusGoingDown = "Powering down"
	statusRestoring = "Restoring state"
	statusSaving    = "Saving State"
	statusUp        = "Up"
	statusLaunching = "WaitForLaunch"
	statusLeaving   = "Migration Source"
)

// VDSM's numbers for why a machine is down.
const (
	exitGeneric     = 1
	exitLaunch      = 3
	exitMigrated    = 4
	exitSaved       = 5
	exitAdmin       = 6
	exitGuest       = 7
	exitCodeSuccess = 0
	exitCodeError   = 1
)

// machine is what the agent remembers of a machine.
type machine struct {
	doing   string    // a status that goes before what libvirt says, while something is done with it; "" = nothing
	exit    *exit     // it went down, and nobody has destroyed it yet; nil = not so
	byAdmin bool      // it was asked to go down
	dropped bool      // it was destroyed, and libvirt has not told yet that it went down
	since   time.Time // when the agent saw it alive first
	sample  sample    // the last look at its counters
	comes   *coming   // it is expected from another host; nil = not so
	leaves  leaves    // while it goes to one
}

// exit is how it went down.
type exit struct {
	code    int
	message string
	reason  int
	at      time.Time
}

// of returns what is remembered of a machine. The lock is held.
func (vms *VMs) of(vm string) *machine {
	m := vms.machines[vm]
	if m == nil {
		m = &machine{since: time.Now()}
		vms.machines[vm] = m
	}
	return m
}

// do notes what is done with a machine; until undo is called its status is that word.
func (vms *VMs) do(vm, word string) (undo func()) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	vms.of(vm).doing = word
	return func() {
		vms.mu.Lock()
		defer vms.mu.Unlock()
		if m := vms.machines[vm]; m != nil && m.doing == word {
			m.doing = ""
		}
	}
}

// launching says whether the machine is being started.
func (vms *VMs) launching(vm string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.machines[vm]
	return m != nil && (m.doing == statusLaunching || m.doing == statusRestoring)
}

// ended is told of each machine that went down.
func (vms *VMs) ended(vm string, how virt.Ended) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	vms.prune()
	m := vms.of(vm)
	switch {
	case m.dropped:
		delete(vms.machines, vm)
		return
	case m.doing == statusLaunching || m.doing == statusRestoring:
		return // its start says what became of it
	case m.comes != nil:
		delete(vms.machines, vm) // it has not come: it runs where it was
		return
	}
	e := &exit{code: exitCodeSuccess, at: time.Now()}
	switch how {
	case virt.EndedShutdown:
		e.message, e.reason = "the guest went down by itself", exitGuest
		if m.byAdmin {
			e.message, e.reason = "the guest went down as it was asked", exitAdmin
		}
	case virt.EndedDestroyed:
		e.message, e.reason = "ended by a request", exitAdmin
	case virt.EndedSaved:
		e.message, e.reason = "its state was saved", exitSaved
	case virt.EndedMigrated:
		e.message, e.reason = "it runs on another host", exitMigrated
	default:
		e.code, e.message, e.reason = exitCodeError, "QEMU ended with an error; libvirt's log of the machine has it", exitGeneric
	}
	m.exit = e
}

// launched notes what became of a start.
func (vms *VMs) launched(vm string, err error) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.of(vm)
	m.doing, m.since, m.exit = "", time.Now(), nil
	if err != nil {
		m.exit = &exit{exitCodeError, err.Error(), exitLaunch, time.Now()}
	}
}

// keepExits is how long it is remembered how a machine ended that nobody destroys: it may be none of ours.
const keepExits = 24 * time.Hour

// prune forgets machines that ended long ago, and those that did not come. The lock is held.
func (vms *VMs) prune() {
	for vm, m := range vms.machines {
		if m.exit != nil && time.Since(m.exit.at) > keepExits || m.comes != nil && m.sample.at.IsZero() && time.Since(m.comes.since) > keepExpected {
			delete(vms.machines, vm)
		}
	}
}

// forget drops what is remembered of a machine that is down; false: it is not.
func (vms *VMs) forget(vm string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.machines[vm]
	if m == nil || m.exit == nil {
		return false
	}
	delete(vms.machines, vm)
	return true
}

// drop is for a machine that was destroyed. Libvirt may have told so already, or will.
func (vms *VMs) drop(vm string) {
	if !vms.forget(vm) {
		vms.mu.Lock()
		defer vms.mu.Unlock()
		vms.of(vm).dropped = true
	}
}

// statusOf is VDSM's word for a machine that libvirt has in a state; the lock is held. m may be nil.
func statusOf(s virt.State, m *machine) string {
	switch {
	case m != nil && m.doing != "":
		return m.doing
	case s.Incoming():
		return statusIncoming
	}
	switch s.Phase {
	case virt.Running:
		return statusUp
	case virt.Paused:
		return statusPaused
	case virt.ShuttingDown:
		return statusGoingDown
	}
	return statusDown
}

// alive is the state of a machine that must run or be paused: not there: 1, down: 6.
func (vms *VMs) alive(ctx context.Context, vm string) (virt.State, error) {
	if err := vms.there(); err != nil {
		return virt.State{}, err
	}
	s, err := vms.hv.State(ctx, vm)
	vms.mu.Lock()
	m := vms.machines[vm]
	down := m != nil && m.exit != nil
	vms.mu.Unlock()
	if code.Of(err) == code.NoSuchVM && down || err == nil && !s.Alive() {
		return s, code.Errorf(code.VMIsDown, "virtual machine %s is down", vm)
	}
	return s, err
}
