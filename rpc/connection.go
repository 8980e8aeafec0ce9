package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/stream"

	"github.com/rs/zerolog"
	"github.com/sourcegraph/jsonrpc2"
)

// Limits of one connection.
const (
	// MaxRunning is how many requests of a connection are worked on at a time. Those that cancel something have as many places more,
	// and never wait for their turn. What is answered at once needs no place.
	MaxRunning = 100
	// MaxWaiting is how many more wait for their turn; any beyond is refused with 1100.
	MaxWaiting = 100
)

var errShutdown = errors.New("the agent is shutting down")

// connection works on the requests of one peer, each in a goroutine of its own, and answers in the order in which they
// end.
type connection struct {
	server  *Server
	serving context.Context // ends when the agent shuts down
	peer    Peer
	log     zerolog.Logger
	stream  *stream.Stream
	// asksByItself says that the peer has another way to say whether it wants events: STOMP's SUBSCRIBE.
	asksByItself bool
	left         bool // it is no listener any more; guarded by the hub's mu

	mu         sync.Mutex // guards what follows
	running    int        // of those that wait for their turn
	cancelling int        // of those that do not
	waiting    []func()   // in the order they came
}

// Handle is jsonrpc2.Handler's: it never blocks.
func (c *connection) Handle(ctx context.Context, _ *jsonrpc2.Conn, r *jsonrpc2.Request) {
	begun := time.Now()
	call := c.stream.Call(r.ID)
	m, err := c.server.find(r.Method)
	if c.serving.Err() != nil {
		err = code.Errorf(code.ShuttingDown, "the agent is shutting down; ask again when it is back")
	}
	if err == nil {
		err = c.allow(m)
	}
	told := c.server.unknown
	if m != nil {
		told = m.told
	}
	work := func() {
		raw, err := c.work(ctx, m, call)
		told(code.Of(err), time.Since(begun))
		if err != nil {
			c.refuse(r.ID, err)
		} else {
			c.sent(c.stream.Answer(r.ID, raw))
		}
	}
	switch {
	case err != nil:
	case m.Instant:
		work()
	default:
		err = c.admit(m.Cancels, work)
	}
	if err != nil {
		told(code.Of(err), time.Since(begun))
		c.refuse(r.ID, err)
	}
}

// allow refuses what the peer's role does not let it do.
func (c *connection) allow(m *Method) error {
	if c.peer.Role >= m.Role {
		return nil
	}
	c.log.Warn().Str("method", m.Name).Stringer("role", c.peer.Role).Stringer("needed", m.Role).Msg("refused: the client may not do this")
	return code.Errorf(code.NotAllowed, "%s needs the role %s, and %s has %s; an administrator of this host gives roles in section [access] of the configuration",
		m.Name, m.Role, c.peer.Name, c.peer.Role)
}

// admit runs work now, or when it is its turn.
func (c *connection) admit(urgent bool, work func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := &c.running
	if urgent {
		of = &c.cancelling
	}
	switch {
	case *of < MaxRunning:
		*of++
		go c.run(work, of)
	case !urgent && len(c.waiting) < MaxWaiting:
		c.waiting = append(c.waiting, work)
	default:
		return code.Errorf(code.ResourceExhausted,
			"this connection has %d requests in work and %d waiting; ask again when some are answered", c.running+c.cancelling, len(c.waiting))
	}
	return nil
}

// run does one request after the other, as long as some wait for the place that it has.
func (c *connection) run(work func(), of *int) {
	for work != nil {
		work()
		work = c.next(of)
	}
}

func (c *connection) next(of *int) (work func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of == &c.running && len(c.waiting) > 0 {
		work = c.waiting[0]
		c.waiting = c.waiting[1:]
		return work
	}
	*of--
	return nil
}

// work calls a method with a context that ends with the connection and with the agent.
func (c *connection) work(ctx context.Context, m *Method, call *stream.Call) (json.RawMessage, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.serving, func() { cancel(errShutdown) })()
	raw, err := c.server.answer(ctx, m, &Request{Params: call.Params, Who: c.peer.Name, Flow: call.Flow, conn: c})
	if err != nil && errors.Is(context.Cause(ctx), errShutdown) && (code.Of(err) == code.ResourceTimeout || errors.Is(err, context.Canceled)) {
		err = code.Errorf(code.ShuttingDown, "the agent is shutting down: %w", err)
	}
	return raw, err
}

func (c *connection) refuse(id jsonrpc2.ID, err error) {
	c.sent(c.stream.Refuse(id, code.Of(err), err.Error()))
}

// sent takes what became of an answer. When the peer is gone nobody misses it.
func (c *connection) sent(err error) {
	if err != nil {
		c.log.Debug().Err(err).Msg("the peer was gone before its answer")
	}
}
