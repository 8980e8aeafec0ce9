package stomp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vdsm-agent/rpc/stream"
)

// The destinations that clients know.
const (
	Requests     = "jms.topic.vdsm_requests"
	IRSRequests  = "jms.topic.vdsm_irs_requests"
	Responses    = "jms.topic.vdsm_responses" // where the answer to what is no request goes
	Events       = "jms.queue.events"
	contentType  = "content-type"
	jsonType     = "application/json"
	correlation  = "ovirtCorrelationId"
	destination  = "destination"
	subscription = "subscription"
)

// MaxName is the most bytes of a subscription's id or destination, so that the headers of its messages stay well under the 1000
// bytes that the engine's client can read.
const MaxName = 255

// Options are what a session needs to know.
type Options struct {
	Java Java
	// Secure says that the connection is TLS.
	Secure bool
	// MaxBody is the most bytes of a message that the client may send; 0 = stream.MaxMessage.
	MaxBody int
}

// Session is the server's side of one connection: it takes SUBSCRIBE and SEND before, and without, CONNECT, as the engine's
// client sends them.
//
// A request's answer goes to the requesting connection's subscriptions of its reply-to, and to nobody else: not, as with VDSM, to
// every client that has subscribed there. Without a reply-to, or a subscription, it is dropped.
type Session struct {
	conn   net.Conn
	in     *Reader
	out    *wire
	java   Java
	secure bool
	tell   func(wanted bool)

	telling sync.Mutex // held while tell, so that two changes are told in their order; Close, which tell's side calls, never takes it

	mu        sync.Mutex // guards what follows; never held while anything is written or told
	subs      []sub
	connected bool // CONNECT was answered, or an answer was sent without one
	asked     bool // a SEND came
	settled   bool // events may be sent
	wanted    bool // what tell was told last
	closed    bool
	losing    *time.Timer // calls connectLost
	settling  *time.Timer // calls settle
}

type sub struct{ id, destination string }

var (
	_ stream.Framing     = (*Session)(nil)
	_ stream.EventSource = (*Session)(nil)
)

// Commands that a client may begin with, and others that VDSM knows.
var commands = []string{"CONNECT", "CONNECTED", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "MESSAGE", "ERROR", "RECEIPT", "DISCONNECT"}

// detected is how many bytes must come before it is decided what a client speaks: those of the longest command.
const detected = len("UNSUBSCRIBE")

// refusal answers a client that wants to move an image.
const refusal = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 40\r\n\r\nThis agent moves no images over HTTP.\r\n\r\n"

// Open makes a session of a connection that speaks STOMP. It waits for the first bytes, as long as the connection's read deadline
// allows, and refuses what they are not. The caller closes the connection after an error.
func Open(conn net.Conn, o Options) (*Session, error) {
	if o.MaxBody == 0 {
		o.MaxBody = stream.MaxMessage
	}
	s := &Session{conn: conn, java: o.Java, secure: o.Secure, tell: func(bool) {}, out: newWire(conn)}
	s.out.paced.Store(o.Java == Always)
	s.in = NewReader(s.out, o.MaxBody)
	first, err := s.in.in.Peek(detected)
	switch word := string(first); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errors.New("it has said nothing yet, and was waited for long enough")
	case err != nil:
		return nil, fmt.Errorf("it went away before it had said anything: %w", err)
	case strings.HasPrefix(word, "GET /"), strings.HasPrefix(word, "PUT /"):
		_ = stream.Write(conn, []byte(refusal)) // the connection is closed anyway
		return nil, errors.New("it speaks HTTP, and here is no image transfer")
	case !slices.ContainsFunc(commands, func(c string) bool { return strings.HasPrefix(word, c) }):
		return nil, fmt.Errorf("it does not speak STOMP: it begins with %q", word)
	}
	resetAtClose(conn)
	return s, nil
}

// OnEvents is stream.EventSource's.
func (s *Session) OnEvents(tell func(wanted bool)) { s.tell = tell }

// ReadMessage returns the next SEND, and does what all other frames want. Errors: stream.ErrTooLong; io.EOF; any other is a frame
// that no client sends, or the client's silence when it had promised heart-beats.
func (s *Session) ReadMessage() (stream.Message, error) {
	for {
		f, err := s.in.Read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return stream.Message{}, errors.New("the client is silent, although it had promised heart-beats")
		case stream.Gone(err):
			return stream.Message{}, io.EOF
		case err != nil:
			return stream.Message{}, err
		}
		s.heard(f)
		message, isMessage, err := s.take(f)
		if isMessage || err != nil {
			return message, err
		}
	}
}

func (s *Session) take(f *Frame) (m stream.Message, isMessage bool, err error) {
	switch f.Command {
	case "SEND":
		return s.send(f)
	case "SUBSCRIBE":
		return m, false, s.subscribe(f)
	case "UNSUBSCRIBE":
		return m, false, s.unsubscribe(f)
	case "CONNECT":
		return m, false, s.connect(f)
	case "DISCONNECT":
		if receipt, asked := f.Lookup("receipt"); asked {
			return m, false, s.out.frame("RECEIPT", []Header{{"receipt-id", receipt}}, nil)
		}
		return m, false, io.EOF
	}
	return m, false, fmt.Errorf("the client sent a %.20q frame, which no client may", f.Command)
}

func (s *Session) send(f *Frame) (m stream.Message, isMessage bool, err error) {
	to, there := f.Lookup(destination)
	if !there {
		return m, false, errors.New("the client sent a message without a destination")
	}
	if !isFor(to, Requests) && !isFor(to, IRSRequests) {
		return m, false, s.complain("Subscription not available")
	}
	s.mu.Lock()
	s.asked = true
	s.mu.Unlock()
	return stream.Message{Body: f.Body, Flow: f.Get(correlation), Reply: f.Get("reply-to")}, true, nil
}

// isFor says whether a destination is a queue, or one below it.
func isFor(destination, queue string) bool {
	rest, ok := strings.CutPrefix(destination, queue)
	return ok && (rest == "" || rest[0] == '.')
}

func (s *Session) subscribe(f *Frame) error {
	id, to := f.Get("id"), f.Get(destination)
	switch {
	case id == "" || to == "":
		return s.complain("Missing destination or subscription id header")
	case len(escape(id)) > MaxName || len(escape(to)) > MaxName:
		return s.complain("Destination or subscription id is too long")
	}
	s.mu.Lock()
	if slices.ContainsFunc(s.subs, func(o sub) bool { return o.id == id }) {
		s.mu.Unlock()
		return s.complain("Subscription id already exists")
	}
	if len(s.subs) == maxSubscriptions {
		s.mu.Unlock()
		return s.complain("Too many subscriptions")
	}
	s.subs = append(s.subs, sub{id, to})
	if len(s.subs) == 1 && !s.connected {
		s.after(&s.losing, LostConnect, s.connectLost)
	}
	s.mu.Unlock()
	s.tellWanted()
	return nil
}

// maxSubscriptions is more than any client makes.
const maxSubscriptions = 100

func (s *Session) unsubscribe(f *Frame) error {
	id, there := f.Lookup("id")
	if !there {
		return s.complain("Missing id header")
	}
	s.mu.Lock()
	s.subs = slices.DeleteFunc(s.subs, func(o sub) bool { return o.id == id })
	s.mu.Unlock()
	s.tellWanted()
	return nil
}

// complain sends an ERROR as VDSM does: the text is the body, and the connection stays open.
func (s *Session) complain(text string) error {
	return s.out.frame("ERROR", nil, [][]byte{[]byte(text)})
}

// connect agrees on heart-beats: each side's number is what it gets, raised to a second at least.
func (s *Session) connect(f *Frame) error {
	if !slices.Contains(strings.Split(f.Get("accept-version"), ","), "1.2") {
		return s.complain("Version unsupported")
	}
	theirs, ours := heartBeats(f.Get("heart-beat"))
	s.out.expect(theirs)
	return s.greet(ours, theirs)
}

// greet writes CONNECTED, and sees to what it promises.
func (s *Session) greet(ours, theirs time.Duration) error {
	err := s.out.frame("CONNECTED", []Header{
		{"version", "1.2"}, {"heart-beat", fmt.Sprintf("%d,%d", ours.Milliseconds(), theirs.Milliseconds())},
	}, nil)
	s.out.beatEvery(ours)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected = true
	s.after(&s.settling, Settle, s.settle)
	return err
}

// heartBeats reads what a client can send, and what it wants; what is no pair of numbers counts as none.
func heartBeats(text string) (sends, wants time.Duration) {
	a, b, ok := strings.Cut(text, ",")
	x, errX := strconv.ParseUint(a, 10, 31)
	y, errY := strconv.ParseUint(b, 10, 31)
	if !ok || errX != nil || errY != nil {
		return 0, 0
	}
	return atLeastASecond(x), atLeastASecond(y)
}

func atLeastASecond(ms uint64) time.Duration {
	if ms == 0 {
		return 0
	}
	return max(time.Duration(ms)*time.Millisecond, time.Second)
}

// Gather is stream.Framing's: only the engine's client is paced.
func (s *Session) Gather() error {
	if s.out.paced.Load() {
		s.out.gather()
	}
	return nil
}

// WriteMessages writes a MESSAGE for each message and subscription of its route.
func (s *Session) WriteMessages(all []stream.Outgoing) error {
	if s.out.paced.Load() {
		return s.writeJava(all)
	}
	for _, m := range all {
		for _, to := range s.subscriptions(m.Route) {
			if err := s.out.message(to, m.Body); err != nil {
				return err
			}
		}
	}
	return nil
}

// subscriptions are this connection's of the destination that a route means.
func (s *Session) subscriptions(route string) (found []sub) {
	switch route {
	case stream.EventRoute:
		route = Events
	case stream.RefusalRoute:
		route = Responses
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.subs {
		if o.destination == route {
			found = append(found, o)
		}
	}
	return found
}

// heard looks at what every frame tells of the client.
func (s *Session) heard(f *Frame) {
	if s.java == Auto && looksLikeJava(f) {
		s.out.paced.Store(true)
	}
	if f.Command == "SEND" {
		s.settle()
	}
}

// settle lets events through: the client asks something, so it has read CONNECTED, or it has had the time to.
func (s *Session) settle() {
	s.mu.Lock()
	s.settled = true
	s.mu.Unlock()
	s.tellWanted()
}

// tellWanted tells whether the client gets events, if that has changed.
func (s *Session) tellWanted() {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	wanted := s.settled && !s.closed && slices.ContainsFunc(s.subs, func(o sub) bool { return o.destination == Events })
	changed := wanted != s.wanted
	s.wanted = wanted
	s.mu.Unlock()
	if changed {
		s.tell(wanted)
	}
}

// after calls f once, however often it is asked for, unless the session is closed before. The caller holds mu.
func (s *Session) after(timer **time.Timer, d time.Duration, f func()) {
	if *timer == nil && !s.closed {
		*timer = time.AfterFunc(d, f)
	}
}

// Listening is false: nobody ends only one direction of such a connection.
func (s *Session) Listening() bool { return false }

// Flush waits until the client's side has taken what was written, so that the reset of Close does not destroy it, or ctx ends.
func (s *Session) Flush(ctx context.Context) { flush(ctx, s.conn) }

// Close ends the connection with a reset: the engine's client does not notice any other end.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, t := range []*time.Timer{s.losing, s.settling} {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	err := reset(s.conn) // first, so that a write which nobody reads ends
	s.out.stop()
	return err
}
