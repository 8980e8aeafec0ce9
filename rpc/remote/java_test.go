package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
)

// java behaves as oVirt's client does when it receives, over TCP. Its reactor wakes up when there are bytes, a moment later, reads 1024 at
// most into the message that it is at, and gives at most one message away before it waits for more bytes. So what came with
// a message stays in its buffer until something else comes.
type java struct {
	conn net.Conn

	mu      sync.Mutex
	arrived []byte // in the kernel
	ended   bool
	more    chan struct{}

	buffer   []byte // read, and not given away
	beats    int    // line feeds at the head of a message
	messages chan string
	died     chan error // an exception: the connection is dropped
}

const (
	javaRead  = 1024
	javaWakes = time.Millisecond // bytes that come within this time are read together
)

func newJava(conn net.Conn) *java {
	j := &java{conn: conn, more: make(chan struct{}, 1), messages: make(chan string, 100_000), died: make(chan error, 1)}
	go j.receive()
	go j.react()
	return j
}

// receive is the kernel: it takes whatever comes.
func (j *java) receive() {
	b := make([]byte, 64<<10)
	for {
		n, err := j.conn.Read(b)
		j.mu.Lock()
		j.arrived = append(j.arrived, b[:n]...)
		j.ended = err != nil
		j.mu.Unlock()
		select {
		case j.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (j *java) react() {
	for range j.more {
		time.Sleep(javaWakes)
		for {
			j.mu.Lock()
			part := bytes.Clone(j.arrived[:min(len(j.arrived), javaRead)])
			j.arrived = j.arrived[len(part):]
			ended := j.ended
			j.mu.Unlock()
			if len(part) == 0 {
				if ended {
					j.died <- io.EOF
					return
				}
				break
			}
			j.buffer = append(j.buffer, part...)
			if err := j.one(len(part)); err != nil {
				j.died <- err
				_ = j.conn.Close()
				return
			}
		}
	}
}

// one gives away the message at the head of the buffer, if it is whole.
func (j *java) one(read int) error {
	for len(j.buffer) > 0 && j.buffer[0] == '\n' {
		j.buffer = j.buffer[1:]
		j.beats++
	}
	if j.beats >= javaRead {
		return nil // its header buffer is full of line feeds: it hears nothing any more
	}
	head, _, whole := bytes.Cut(j.buffer, []byte("\n\n"))
	switch {
	case len(j.buffer) == 0:
		return nil
	case !whole && len(j.buffer) >= 1000:
		return errors.New("the header is too long")
	case !whole:
		return nil
	case len(head) >= 1000:
		return errors.New("the header is too long")
	}
	body := j.buffer[len(head)+2:]
	length := 0
	for line := range strings.SplitSeq(string(head), "\n") {
		if text, ok := strings.CutPrefix(line, "content-length:"); ok {
			var err error
			if length, err = strconv.Atoi(text); err != nil {
				return err
			}
		}
	}
	if len(body) == 0 && length > 0 {
		return errors.New("the header came without a byte of the body")
	}
	if len(body) < length+1 {
		return nil
	}
	j.messages <- string(head) + "\n\n" + string(body[:length])
	j.buffer = bytes.Clone(body[length+1:])
	j.beats = 0
	return nil
}

// say sends frames; "^" is the NUL.
func (j *java) say(text string) { _, _ = io.WriteString(j.conn, strings.ReplaceAll(text, "^", "\x00")) }

func (j *java) call(id int, method, params string) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s,"id":"%d"}`, method, params, id)
	j.say(fmt.Sprintf("SEND\ndestination:jms.topic.vdsm_requests\nreply-to:jms.topic.vdsm_responses\ncontent-length:%d\n\n%s^", len(body), body))
}

// answers waits until so many have come, and answers after how long; events between them are counted.
func (j *java) answers(n int) (ids map[string]json.RawMessage, events int, err error) {
	ids = map[string]json.RawMessage{}
	for len(ids) < n {
		select {
		case m := <-j.messages:
			_, body, _ := strings.Cut(m, "\n\n")
			all := []json.RawMessage{json.RawMessage(body)}
			if strings.HasPrefix(body, "[") {
				if err := json.Unmarshal([]byte(body), &all); err != nil {
					return ids, events, err
				}
			}
			for _, one := range all {
				var r struct {
					ID     *string         `json:"id"`
					Result json.RawMessage `json:"result"`
				}
				if body == "" {
					continue // CONNECTED, RECEIPT
				}
				if err := json.Unmarshal(one, &r); err != nil {
					return ids, events, fmt.Errorf("%s: %w", one, err)
				}
				if r.ID == nil {
					events++
				} else {
					ids[*r.ID] = r.Result
				}
			}
		case err := <-j.died:
			return ids, events, err
		case <-time.After(3 * time.Minute): // vdsTimeout
			return ids, events, fmt.Errorf("only %d of %d answers have come", len(ids), n)
		}
	}
	return ids, events, nil
}

// TestJavaSuffers: the model suffers from a careless server as the real client does.
func TestJavaSuffers(t *testing.T) {
	frame := func(body string) string {
		return fmt.Sprintf("MESSAGE\ndestination:x\nsubscription:1\ncontent-length:%d\n\n%s\x00", len(body), body)
	}
	small, large := frame(`{"id":"1"}`), frame(`{"id":"2"`+strings.Repeat(" ", 1025)+`}`)
	cases := []struct {
		name  string
		sends []string // each in one write, "pause" 5 ms, "wait" 20 ms
		hears int
		dies  string
	}{
		{"one small frame", []string{small}, 1, ""},
		{"two in one write: the second is stuck", []string{small + small}, 1, ""},
		{"two back to back: stuck", []string{small, small}, 1, ""},
		{"stuck until more comes, and from then on one late", []string{small + small, "wait", small, "wait", small}, 3, ""},
		{"a pause between", []string{small, "pause", small}, 2, ""},
		{"large ones", []string{large, "pause", large}, 2, ""},
		{"a header without its body", []string{small[:len(small)-11], "wait", small[len(small)-11:]}, 0, "without a byte"},
		{"cut in the header", []string{small[:20], "wait", small[20:]}, 1, ""},
		{"cut in the body", []string{small[:len(small)-5], "wait", small[len(small)-5:]}, 1, ""},
		{"a long header", []string{strings.Replace(small, ":x", ":"+strings.Repeat("x", 1000), 1)}, 0, "too long"},
		{"1000 heart-beats", []string{strings.Repeat("\n", 1000), "wait", small}, 1, ""},
		{"1100 heart-beats: deaf", []string{strings.Repeat("\n", 1100), "wait", small}, 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				j := newJava(client)
				for _, s := range c.sends {
					switch s {
					case "pause":
						time.Sleep(stomp.Pause)
					case "wait":
						time.Sleep(20 * time.Millisecond)
					default:
						_, _ = io.WriteString(server, s)
					}
				}
				time.Sleep(time.Second)
				if len(j.messages) != c.hears {
					t.Errorf("it has heard %d, want %d", len(j.messages), c.hears)
				}
				server.Close()
				time.Sleep(time.Second)
				if err := <-j.died; c.dies != "" && !strings.Contains(err.Error(), c.dies) || c.dies == "" && err != io.EOF {
					t.Errorf("it died of %v", err)
				}
			})
		})
	}
}

// host is a whole server with the mock verb, in a bubble.
type host struct {
	t      *testing.T
	engine *tasks.Engine
	server *rpc.Server
	ctx    context.Context
	end    context.CancelFunc
	serves sync.WaitGroup
}

func newHost(t *testing.T) *host {
	h := &host{t: t}
	h.engine = tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
	if err := h.engine.Start(nil); err != nil {
		t.Fatal(err)
	}
	h.server = rpc.New(rpc.Options{Log: zerolog.Nop()})
	h.server.Handle(rpc.Methods(h.engine, nil))
	h.server.Handle([]rpc.Method{{Name: "Test.large", Doc: "Test.", Role: access.Observe, Result: "", Handle: func(context.Context, *rpc.Request) (any, error) {
		return strings.Repeat("x", 5<<20), nil
	}}})
	h.server.Feed(h.engine)
	h.server.SetReady()
	h.ctx, h.end = context.WithCancel(context.Background())
	return h
}

// connect is one client's connection, greeted by what it says first.
func (h *host) connect(secure bool, greeting string) *java {
	server, client := net.Pipe()
	j := newJava(client)
	h.serves.Go(func() {
		s, err := stomp.Open(server, stomp.Options{Secure: secure})
		if err != nil {
			h.t.Error(err)
			return
		}
		h.server.ServeMessages(h.ctx, s, rpc.Peer{Name: "engine", Role: access.Operate})
	})
	j.say(greeting)
	return j
}

// close ends everything, and lets the clients see it.
func (h *host) close(clients ...*java) {
	h.end()
	h.serves.Wait()
	for _, j := range clients {
		<-j.died
	}
	if err := h.engine.Close(context.Background()); err != nil {
		h.t.Error(err)
	}
}

var _ stream.Framing = (*stomp.Session)(nil)

const (
	subEvents  = "SUBSCRIBE\ndestination:jms.queue.events\nack:auto\nid:11111111-1111-4111-8111-111111111111\n\n^"
	subReplies = "SUBSCRIBE\ndestination:jms.topic.vdsm_responses\nack:auto\nid:22222222-2222-4222-8222-222222222222\n\n^"
	connect    = "CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n^"
)

// TestJavaIsServed: in whatever order it begins, and whatever happens meanwhile, it gets every answer, soon.
func TestJavaIsServed(t *testing.T) {
	for name, greeting := range map[string]string{
		"as over TLS": connect + subEvents + subReplies, "subscribe first": subEvents + subReplies + connect, "connect between": subEvents + connect + subReplies,
		"CONNECT lost": subEvents + subReplies, "a SUBSCRIBE lost": connect + subEvents,
	} {
		for _, secure := range []bool{true, false} {
			if secure && name == "CONNECT lost" {
				continue // over TLS none is
			}
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHost(t)
					j := h.connect(secure, greeting)
					if m := <-j.messages; !strings.HasPrefix(m, "CONNECTED\nversion:1.2\nheart-beat:15000,0") {
						t.Fatalf("greeted with %q", m)
					}
					j.call(0, "Mock.run", `{"steps":[{"slices":2000,"pace":1000000}],"tag":"spm"}`) // with events all the time
					if _, _, err := j.answers(1); err != nil {
						t.Fatal(err)
					}
					events := 0
					for round := range 50 {
						begun := time.Now()
						for i := range 8 {
							j.call(8*round+i+1, "Host.getAllTasksStatuses", `{}`)
						}
						got, n, err := j.answers(8)
						if err != nil {
							t.Fatalf("round %d: %v", round, err)
						}
						if took := time.Since(begun); took > 20*time.Millisecond {
							t.Errorf("round %d of %d answers took %s", round, len(got), took)
						}
						events += n
						time.Sleep(50 * time.Millisecond)
					}
					if events == 0 {
						t.Error("no events came")
					}
					j.call(1000, "Test.large", `{}`)
					if got, _, err := j.answers(1); err != nil || len(got["1000"]) != 5<<20+2 {
						t.Errorf("a large answer: %d bytes, %v", len(got["1000"]), err)
					}
					h.close(j)
				})
			})
		}
	}
}

// TestJavaTwice: the engine opens two connections, of which only one has events; what is asked on each is answered there.
func TestJavaTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		irs := strings.ReplaceAll(connect+subReplies, "vdsm_responses", "vdsm_irs_responses")
		both := []*java{h.connect(true, connect+subEvents+subReplies), h.connect(true, irs)}
		for i := range 20 {
			both[0].call(i, "Host.ping2", `{}`)
			body := fmt.Sprintf(`{"jsonrpc":"2.0","method":"Mock.run","params":{"steps":[],"tag":"spm"},"id":"%d"}`, 100+i)
			both[1].say(fmt.Sprintf("SEND\ndestination:jms.topic.vdsm_irs_requests\nreply-to:jms.topic.vdsm_irs_responses\ncontent-length:%d\n\n%s^", len(body), body))
			for n, j := range both {
				ids, events, err := j.answers(1)
				if want := fmt.Sprint(100*n + i); err != nil || len(ids) != 1 || ids[want] == nil || n == 1 && events > 0 {
					t.Errorf("connection %d has heard %v and %d events, want the answer to %s: %v", n, ids, events, want, err)
				}
			}
		}
		h.close(both...)
	})
}

// TestJavaIdle: after a day of nothing but heart-beats it still hears.
func TestJavaIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		j := h.connect(true, connect+subEvents+subReplies)
		time.Sleep(24 * time.Hour)
		j.call(1, "Host.ping2", `{}`)
		begun := time.Now()
		if _, _, err := j.answers(1); err != nil || time.Since(begun) > 20*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		h.close(j)
	})
}
