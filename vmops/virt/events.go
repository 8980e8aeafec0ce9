package virt

import (
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// Ended is how a machine went down.
type Ended int

// The ways down, as libvirt tells them.
const (
	EndedShutdown  Ended = iota // by its guest
	EndedDestroyed              // by a request
	EndedCrashed
	EndedMigrated // it runs elsewhere
	EndedSaved    // its state is in a file
	EndedFailed   // QEMU ended with an error
)

// watches are those who wait for signals.
type watches struct {
	mu    sync.Mutex
	wakes map[string]map[chan struct{}]bool // by machine
	ended func(vm string, how Ended)
}

// Watch returns a channel that gets a signal when something may have become of the machine: its life, a job of it, or the connection.
// It says only that it is time to ask. stop ends it.
func (c *Client) Watch(vm string) (wake <-chan struct{}, stop func()) {
	w := &c.watches
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wakes == nil {
		w.wakes = map[string]map[chan struct{}]bool{}
	}
	if w.wakes[vm] == nil {
		w.wakes[vm] = map[chan struct{}]bool{}
	}
	w.wakes[vm][ch] = true
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.wakes[vm], ch)
		if len(w.wakes[vm]) == 0 {
			delete(w.wakes, vm)
		}
	}
}

// OnEnd has f called, in their order, with the machines that go down from now on.
func (c *Client) OnEnd(f func(vm string, how Ended)) {
	c.watches.mu.Lock()
	defer c.watches.mu.Unlock()
	c.watches.ended = f
}

// signal wakes those who watch a machine; "" = all.
func (w *watches) signal(vm string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, all := range w.wakes {
		if vm != "" && vm != id {
			continue
		}
		for ch := range all {
			select {
			case ch <- struct{}{}:
			default: // it has a signal already
			}
		}
	}
}

// listen subscribes to what is of interest. The channels are closed when the connection is.
func (c *Client) listen(conn *connection) error {
	for _, id := range []libvirt.DomainEventID{libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDBlockJob2, libvirt.DomainEventIDJobCompleted} {
		events, err := conn.SubscribeEvents(c.ctx, id, libvirt.OptDomain{})
		if err != nil {
			return err
		}
		c.running.Go(func() {
			for e := range events {
				c.heard(e)
			}
		})
	}
	c.watches.signal("") // what happened meanwhile was not heard
	return nil
}

func (c *Client) heard(event any) {
	switch e := event.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		vm := text(e.Msg.Dom.UUID)
		if libvirt.DomainEventType(e.Msg.Event) == libvirt.DomainEventStopped {
			c.watches.mu.Lock()
			ended := c.watches.ended
			c.watches.mu.Unlock()
			if ended != nil {
				ended(vm, Ended(e.Msg.Detail))
			}
		}
		c.watches.signal(vm)
	case *libvirt.DomainEventCallbackJobCompletedMsg:
		c.watches.signal(text(e.Dom.UUID))
	default: // a block job: its message names no machine that can be read safely
		c.watches.signal("")
	}
}
