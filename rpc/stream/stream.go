// Package stream carries JSON-RPC 2.0 over messages: it is the jsonrpc2.ObjectStream of the server, and under it lies a
// Framing that knows where a message begins and ends (Lines, for one). It splits batches, refuses by itself what is not
// JSON (-32700) or not JSON-RPC 2.0 (-32600), gathers the answers to a batch again, and hands a jsonrpc2.Conn only single
// requests that are valid: that Conn closes the connection on anything else.
//
// It knows no verb and no task. It may be imported by rpc, its transports and rpc/client.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"vdsm-agent/internal/code"

	"github.com/sourcegraph/jsonrpc2"
)

// Message is what one frame of the peer carries.
type Message struct {
	Body  []byte // one JSON text
	Flow  string // the correlation id of the frame, "" = none
	Reply string // where its answers go, in the framing's own words; "" if there is one place only, or none
}

// Outgoing is one message to the peer.
type Outgoing struct {
	Route string   // the Reply of the message that it answers, or one of the routes below
	Body  [][]byte // one JSON text in pieces, which are never changed
}

// Routes of messages that answer no message which could be read. No Reply is one of them.
const (
	EventRoute   = "\x00events"  // to where the peer wants events
	RefusalRoute = "\x00refusal" // the answer, with id null, to what is no request
)

// Framing carries messages over a connection. ReadMessage is called by one goroutine, Gather and WriteMessages by another, one
// at a time; Close may be called by any, more than once, and ends them all.
type Framing interface {
	// ReadMessage returns the next message; its body is valid until the next call. Errors: ErrTooLong when a message
	// was skipped, after which the next one can be read; io.EOF when the peer sends no more; any other ends the
	// connection.
	ReadMessage() (Message, error)
	// Gather is called when there is something to write, and returns when it is time to: at once, unless this peer must be
	// paced; what is answered meanwhile is then written with it. Errors are those of WriteMessages.
	Gather() error
	// WriteMessages writes messages in their order. An error, also that the peer does not read, ends the connection; io.EOF
	// is that the peer is gone.
	WriteMessages(all []Outgoing) error
	// Flush returns when the peer's side has taken what was written, or ctx has ended: only then may Close be a reset.
	Flush(ctx context.Context)
	// Listening says whether a peer that sends no more still reads.
	Listening() bool
	Close() error
}

// EventSource is a Framing whose peer says in the framing's own way that it wants events, or wants them no more.
type EventSource interface {
	// OnEvents names the function that is told. It is called before the first ReadMessage, and the function never blocks.
	OnEvents(tell func(wanted bool))
}

// Limits of one connection.
const (
	// MaxMessage is the most bytes of a message that a client may send.
	MaxMessage = 16 << 20
	// MaxBatch is the most requests in one batch.
	MaxBatch = 200
	// MaxUnread is the most bytes of answers that wait for a client to read them, besides the one that is being written.
	MaxUnread = 64 << 20
	// MaxEvents is how many messages may wait for a client before events that may be left out are.
	MaxEvents = 1000
	// mostEvents is how many messages may wait before a client that gets events is given up.
	mostEvents = 16 * MaxEvents
	// maxAnswers is how many answers may wait before no more requests are read.
	maxAnswers = 256
	// writeAtOnce is how many bytes are given to the framing at a time, if that is more than one message.
	writeAtOnce = 1 << 20
	// lookAgain is how often a peer that sends no more is looked at, whether it still reads.
	lookAgain = time.Second
)

// ErrTooLong is what a Framing answers for a message that it skipped.
var ErrTooLong = errors.New("the message is too long")

// ErrClosed is why a stream ends that was closed on this side.
var ErrClosed = errors.New("the connection was closed")

// Stream is a jsonrpc2.ObjectStream for a server. Every request, also a notification, reaches the Conn as a request
// with an id of ours and without its parameters (Call has them: the Conn would take them apart for nothing); answers
// to notifications are dropped. A message's answer is written when all its requests are answered.
//
// No goroutine is kept while nothing is to be written.
type Stream struct {
	framing Framing
	todo    []uint64 // requests that the Conn has not taken yet; of ReadObject alone

	mu      sync.Mutex // guards what follows; never held while anything blocks
	last    uint64
	calls   map[uint64]*Call // not answered yet
	out     []Outgoing
	unread  int // bytes in out
	taken   int // messages that are being written
	writing bool
	cause   error         // why the stream has ended, nil = it has not
	moved   chan struct{} // closed and replaced whenever something was answered or written, and at the end
}

var _ jsonrpc2.ObjectStream = (*Stream)(nil)

// New makes a stream over f.
func New(f Framing) *Stream {
	return &Stream{framing: f, calls: map[uint64]*Call{}, moved: make(chan struct{})}
}

// Call returns the request that reached the Conn with this id, nil when it was answered.
func (s *Stream) Call(id jsonrpc2.ID) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[id.Num]
}

// ReadObject stores the next request in v. It answers io.EOF when there will be none any more; Cause says why.
func (s *Stream) ReadObject(v any) error {
	for len(s.todo) == 0 {
		if err := s.await(context.Background(), func() bool { return len(s.out)+s.taken < maxAnswers }); err != nil {
			return io.EOF
		}
		m, err := s.framing.ReadMessage()
		switch {
		case errors.Is(err, ErrTooLong):
			s.refuse(fmt.Errorf("a message may have %d MiB at most; this one was skipped", MaxMessage>>20))
		case errors.Is(err, io.EOF):
			s.answerTheRest()
			s.end(io.EOF)
			return io.EOF
		case err != nil:
			s.end(err)
			return io.EOF
		default:
			s.take(m)
		}
	}
	id := s.todo[0]
	s.todo = s.todo[1:]
	method, err := json.Marshal(s.Call(jsonrpc2.ID{Num: id}).Method)
	if err != nil {
		return err
	}
	return json.Unmarshal(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":%s}`, id, method), v)
}

// take makes calls of a message, and answers what is wrong in it.
func (s *Stream) take(m Message) {
	items, batch, err := split(m.Body)
	if err != nil {
		s.refuse(err)
		return
	}
	r := &reply{batch: batch, route: m.Reply, answers: make([][][]byte, len(items)), open: len(items)}
	for i, item := range items {
		c, err := parse(item)
		c.Flow, c.reply, c.place = m.Flow, r, i
		if err != nil {
			s.settle(c, failure(c.id, code.InvalidRequest, err.Error()))
			continue
		}
		s.mu.Lock()
		s.last++
		s.calls[s.last] = c
		s.mu.Unlock()
		s.todo = append(s.todo, s.last)
	}
}

// refuse answers a message of which no request can be made.
func (s *Stream) refuse(err error) {
	number := code.InvalidRequest
	if errors.Is(err, errNotJSON) {
		number = code.ParseError
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(Outgoing{RefusalRoute, failure(nil, number, err.Error())})
}

// Push queues an event, as JSON that is never changed, and never waits for the client to read. One that may be left out is,
// if MaxEvents messages wait already; then Push answers false. When far more wait, the stream ends: what may not be left out
// would be.
func (s *Stream) Push(event []byte, mayBeLeftOut bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mayBeLeftOut && len(s.out) >= MaxEvents {
		return false
	}
	if len(s.out) >= mostEvents {
		s.stop(fmt.Errorf("the client does not read its events: %d wait for it", len(s.out)))
		return false
	}
	s.put(Outgoing{EventRoute, [][]byte{event}})
	return true
}

// Answer answers the request that reached the Conn with this id by its result, as JSON that is never changed. It never waits for the
// client to read. Errors: it was answered before; the stream's end.
func (s *Stream) Answer(id jsonrpc2.ID, result json.RawMessage) error {
	return s.answer(id, func(c *Call) [][]byte { return answer(c.id, "result", result) })
}

// Refuse answers a request by an error.
func (s *Stream) Refuse(id jsonrpc2.ID, number code.Code, message string) error {
	return s.answer(id, func(c *Call) [][]byte { return failure(c.id, number, message) })
}

func (s *Stream) answer(id jsonrpc2.ID, text func(*Call) [][]byte) error {
	s.mu.Lock()
	c := s.calls[id.Num]
	delete(s.calls, id.Num)
	s.mu.Unlock()
	switch {
	case c == nil:
		return fmt.Errorf("request %d was answered twice", id.Num)
	case c.id == nil:
		s.settle(c, nil)
	default:
		s.settle(c, text(c))
	}
	return s.Cause()
}

// WriteObject is the Conn's way to answer, which is not used: it would write a large answer four times over.
func (s *Stream) WriteObject(any) error {
	return errors.New("requests are answered by Answer and Refuse")
}

// settle keeps the answer to one request, and sends those to the whole message when it is the last. A nil text is no
// answer.
func (s *Stream) settle(c *Call, text [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := c.reply
	r.answers[c.place] = text
	r.open--
	if joined := r.join(); r.open == 0 && joined != nil {
		s.put(Outgoing{r.route, joined})
	}
	s.wake()
}

// put queues a message and sees that somebody writes it. A client that has left too much unread is given up. The
// caller holds mu.
func (s *Stream) put(m Outgoing) {
	size := m.size()
	switch {
	case s.cause != nil:
		return
	case len(s.out) > 0 && s.unread+size > MaxUnread:
		s.stop(fmt.Errorf("the client does not read its answers: %d MiB wait for it", s.unread>>20))
		return
	}
	s.out = append(s.out, m)
	s.unread += size
	if !s.writing {
		s.writing = true
		go s.write()
	}
}

func (m *Outgoing) size() (n int) {
	for _, piece := range m.Body {
		n += len(piece)
	}
	return n
}

// write writes what is queued, and ends when there is no more.
func (s *Stream) write() {
	for {
		err := s.framing.Gather()
		var all []Outgoing
		if err == nil {
			all = s.due()
		}
		if len(all) > 0 {
			err = s.framing.WriteMessages(all)
		}
		s.mu.Lock()
		if err != nil {
			s.stop(err)
		}
		s.taken = 0
		if len(s.out) == 0 || s.cause != nil {
			s.writing, s.out = false, nil
			s.wake()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// due takes what is written next out of the queue; nothing once the stream has ended.
func (s *Stream) due() (all []Outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return nil
	}
	size := 0
	for len(all) < len(s.out) && (size == 0 || size+s.out[len(all)].size() <= writeAtOnce) {
		size += s.out[len(all)].size()
		all = s.out[:len(all)+1]
	}
	s.out = s.out[len(all):]
	s.unread -= size
	s.taken = len(all)
	s.wake()
	return all
}

// answerTheRest lets the answers to what a peer asked reach it after it has said that it asks no more, as the end of
// a pipe does, until it does not read any more either.
func (s *Stream) answerTheRest() {
	for s.framing.Listening() {
		ctx, cancel := context.WithTimeout(context.Background(), lookAgain)
		err := s.Drain(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
}

// Drain waits until every request is answered and every answer is written, the stream has ended (then it says why), or
// ctx has.
func (s *Stream) Drain(ctx context.Context) error {
	err := s.await(ctx, func() bool { return len(s.calls) == 0 && len(s.out) == 0 && !s.writing })
	if err == nil {
		s.framing.Flush(ctx)
	}
	return err
}

// await waits until what holds, which is asked with mu held. Errors: the stream's end, ctx's.
func (s *Stream) await(ctx context.Context, holds func() bool) error {
	for {
		s.mu.Lock()
		done, cause, moved := holds(), s.cause, s.moved
		s.mu.Unlock()
		if cause != nil || done {
			return cause
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Cause says why the stream has ended: io.EOF if the peer did it, ErrClosed if this side, else what went wrong; nil while
// it has not.
func (s *Stream) Cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Close ends the stream. What is still queued is not written; Drain before.
func (s *Stream) Close() error {
	s.end(ErrClosed)
	return s.framing.Close()
}

func (s *Stream) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop(cause)
}

// stop ends the stream, once. The caller holds mu.
func (s *Stream) stop(cause error) {
	if s.cause != nil {
		return
	}
	s.cause = cause
	s.wake()
	_ = s.framing.Close() // its error says nothing that cause does not
}

// wake tells everybody who waits to look again. The caller holds mu.
func (s *Stream) wake() {
	close(s.moved)
	s.moved = make(chan struct{})
}
