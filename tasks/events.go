package tasks

import (
	"context"
	"errors"
	"sync"
	"time"

	"vdsm-agent/internal/code"
)

// Event is something that happened to a task, or to the subscription itself.
type Event struct {
	Kind EventKind
	At   time.Time
	Task Summary // of Moved and Progressed
	Flow string  // of Fenced
	Lost int     // of Lagged: how many events of progress were left out
}

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	Moved      EventKind = "moved"    // there is a new task, its state has changed, or it is paused or stuck now, or no longer
	Progressed EventKind = "progress" // at most once in progressEvery for each task
	Fenced     EventKind = "fenced"   // a flow was cancelled, or takes new tasks again
	Lagged     EventKind = "lagged"   // the subscriber was too slow for all events of progress
)

const (
	progressEvery = time.Second
	// queuedProgress is how many events may wait for a subscriber before progress is left out, and queuedEvents before the
	// subscription ends.
	queuedProgress = 256
	queuedEvents   = 1 << 16
)

// ErrLost ends a subscription whose subscriber did not take its events for so long that changes of states would be lost.
var ErrLost = errors.New("the subscriber is too slow: changes of states were lost; list the tasks and subscribe again")

// ErrUnsubscribed ends the waiting of a subscriber whose subscription was closed.
var ErrUnsubscribed = errors.New("the subscription was closed")

// bus hands events to subscribers. Those of one task come in the order in which they happened. Nobody who changes a task ever
// waits for a subscriber.
type bus struct {
	mu   sync.Mutex // never held while anything blocks
	subs map[*Subscription]bool
}

// Subscription is a queue of events for one subscriber. A slow one loses progress, and is told how much, but never a change of
// state: when so many of those wait that they cannot be kept, the subscription ends with ErrLost.
type Subscription struct {
	bus    *bus
	events []Event
	lost   int
	err    error
	more   chan struct{} // has a value when there is something to look at
}

// Subscribe returns a subscription to all events from now on. Close ends it.
func (e *Engine) Subscribe() *Subscription {
	s := &Subscription{bus: &e.events, more: make(chan struct{}, 1)}
	e.events.mu.Lock()
	defer e.events.mu.Unlock()
	if e.events.subs == nil {
		e.events.subs = map[*Subscription]bool{}
	}
	e.events.subs[s] = true
	return s
}

// Next returns the next event, and waits for it until ctx ends. Errors: 851 with ctx's, ErrLost, ErrUnsubscribed. It is called by one goroutine.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok, err := s.take(); ok || err != nil {
			return e, err
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return Event{}, code.Errorf(code.ResourceTimeout, "there was no event: %w", ctx.Err())
		}
	}
}

// Close ends the subscription; a Next that waits ends with ErrUnsubscribed.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	delete(s.bus.subs, s)
	s.events, s.lost, s.err = nil, 0, ErrUnsubscribed
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *Subscription) take() (Event, bool, error) {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	switch {
	case s.lost > 0:
		e := Event{Kind: Lagged, At: time.Now().UTC(), Lost: s.lost}
		s.lost = 0
		return e, true, nil
	case len(s.events) > 0:
		e := s.events[0]
		s.events[0] = Event{}
		s.events = s.events[1:]
		return e, true, nil
	}
	return Event{}, false, s.err
}

// publish queues an event for everybody. The summary is made under the lock, so that the order of events is that of what they
// tell.
func (b *bus) publish(kind EventKind, t *task) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subs) == 0 {
		return
	}
	b.queue(Event{Kind: kind, At: time.Now().UTC(), Task: t.summary()})
}

// fenced queues the event that a flow's fence is up or down now.
func (b *bus) fenced(flow string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue(Event{Kind: Fenced, At: time.Now().UTC(), Flow: flow})
}

// queue gives an event to every subscriber. The caller holds mu.
func (b *bus) queue(e Event) {
	for s := range b.subs {
		switch {
		case e.Kind == Progressed && len(s.events) >= queuedProgress:
			s.lost++
			continue
		case len(s.events) >= queuedEvents:
			s.err, s.events = ErrLost, nil
			delete(b.subs, s)
		default:
			s.events = append(s.events, e)
		}
		select {
		case s.more <- struct{}{}:
		default:
		}
	}
}
