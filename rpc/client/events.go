package client

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/sourcegraph/jsonrpc2"
)

// Event is something that an agent tells by itself.
type Event struct {
	Method string          `json:"method"` // "|tasks|status|<id>"
	Params json.RawMessage `json:"params"`
}

// maxEvents is how many events may wait to be taken.
const maxEvents = 1 << 16

// ErrTooSlow ends the events of a client that has not taken them for so long that some would be lost.
var ErrTooSlow = errors.New("events came faster than they were taken; subscribe again, and look at what there is now")

// Subscribe asks for the events of some topics, globs such as "|tasks|status|*"; none = all. Events that happen after it has
// returned are not missed: whoever lists then knows everything. Errors: as Call's.
func (c *Client) Subscribe(ctx context.Context, topics ...string) error {
	if c.ask != nil {
		if err := c.ask(); err != nil {
			return ErrConnectionLost
		}
	}
	if topics == nil {
		topics = []string{}
	}
	return c.Call(ctx, "Events.subscribe", map[string]any{"topics": topics}, nil)
}

// Next returns the next event, and waits for it. Errors: ErrConnectionLost when all that came before the end were taken; ErrTooSlow;
// ctx's. It is called by one goroutine.
func (c *Client) Next(ctx context.Context) (Event, error) { return c.events.next(ctx) }

// events keeps what has come and was not taken yet.
type events struct {
	mu    sync.Mutex
	queue []Event
	err   error
	more  chan struct{} // has a value when there is something to look at
}

func newEvents() *events { return &events{more: make(chan struct{}, 1)} }

// Handle is jsonrpc2.Handler's.
func (e *events) Handle(_ context.Context, _ *jsonrpc2.Conn, r *jsonrpc2.Request) {
	event := Event{Method: r.Method}
	if r.Params != nil {
		event.Params = *r.Params
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.err != nil:
	case len(e.queue) >= maxEvents:
		e.err = ErrTooSlow
	default:
		e.queue = append(e.queue, event)
	}
	e.wake()
}

func (e *events) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = ErrConnectionLost
	}
	e.wake()
}

// wake tells next to look. The caller holds mu.
func (e *events) wake() {
	select {
	case e.more <- struct{}{}:
	default:
	}
}

func (e *events) next(ctx context.Context) (Event, error) {
	for {
		if event, ok, err := e.take(); ok || err != nil {
			return event, err
		}
		select {
		case <-e.more:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (e *events) take() (event Event, ok bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return event, false, e.err
	}
	event, e.queue = e.queue[0], e.queue[1:]
	return event, true, nil
}
