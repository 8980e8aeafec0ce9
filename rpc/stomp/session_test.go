package stomp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/rpc/stream"
)

// peer is a client of a session, both in a bubble. What it reads is kept as the writes of the session, one string for each, with
// the time.
type peer struct {
	t       *testing.T
	conn    net.Conn
	session *Session
	opened  error
	writes  chan string
	got     []stream.Message // messages of the client
	ended   chan error       // what ReadMessage ended with
	mu      sync.Mutex
	events  []bool // what was told about events; guarded by mu
	began   time.Time
}

// counting gives each Write to the test as one string.
type counting struct {
	net.Conn
	writes chan string
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.writes <- string(b[:n])
	return n, err
}

// newPeer opens a session with what the client says first.
func newPeer(t *testing.T, o Options, first string) *peer {
	t.Helper()
	server, client := net.Pipe()
	p := &peer{t: t, conn: client, writes: make(chan string, 10_000), ended: make(chan error, 1), began: time.Now()}
	go func() { _, _ = io.Copy(io.Discard, client) }()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		p.session, p.opened = Open(counting{server, p.writes}, o)
	}()
	p.say(first)
	<-opened
	t.Cleanup(func() { server.Close(); client.Close() })
	if p.opened != nil {
		p.ended <- p.opened
		return p
	}
	p.session.OnEvents(func(wanted bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, wanted)
	})
	go func() {
		for {
			m, err := p.session.ReadMessage()
			if err != nil {
				p.ended <- err
				_ = p.session.Close()
				return
			}
			m.Body = bytes.Clone(m.Body)
			p.got = append(p.got, m)
		}
	}()
	t.Cleanup(func() { _ = p.session.Close() })
	synctest.Wait()
	return p
}

// say sends frames as a test writes them: "^" is the NUL.
func (p *peer) say(text string) {
	go func() { _, _ = io.WriteString(p.conn, strings.ReplaceAll(text, "^", "\x00")) }()
	synctest.Wait()
}

// heard is all that was written since the last look, one line for each write: the time since the start, and the bytes.
func (p *peer) heard() string {
	synctest.Wait()
	var out []string
	for {
		select {
		case w := <-p.writes:
			w = strings.NewReplacer("\x00", "^", "\n", "|").Replace(strings.TrimRight(w, " "))
			out = append(out, w)
		default:
			return strings.Join(out, "\n")
		}
	}
}

func (p *peer) want(text string) {
	p.t.Helper()
	if got := p.heard(); got != text {
		p.t.Errorf("written:\n%s\nwant:\n%s", got, text)
	}
}

// wantEnd fails unless the connection has ended and says so.
func (p *peer) wantEnd(text string) {
	p.t.Helper()
	synctest.Wait()
	select {
	case err := <-p.ended:
		if !strings.Contains(err.Error(), text) {
			p.t.Errorf("it ended with %v, want %s", err, text)
		}
	default:
		p.t.Errorf("it goes on, want %s", text)
	}
}

func (p *peer) answer(route string, bodies ...string) {
	p.t.Helper()
	var all []stream.Outgoing
	for _, b := range bodies {
		all = append(all, stream.Outgoing{Route: route, Body: [][]byte{[]byte(b)}})
	}
	if err := p.session.Gather(); err != nil {
		p.t.Error(err)
	}
	if err := p.session.WriteMessages(all); err != nil {
		p.t.Error(err)
	}
}

const (
	connectPython = "CONNECT\naccept-version:1.2\nheart-beat:0,24000\n\n^"
	connectJava   = "CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n^"
	subscribe     = "SUBSCRIBE\ndestination:replies\nid:1\nack:auto\n\n^"
	subscribeEv   = "SUBSCRIBE\ndestination:jms.queue.events\nid:e\nack:auto\n\n^"
	sendPython    = "SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\nreply-to:replies\novirtCorrelationId:flow\ncontent-length:2\n\n{}^"
	sendJava      = "SEND\ndestination:jms.topic.vdsm_irs_requests\nreply-to:replies\ncontent-length:2\n\n{}^"
)

// TestSession plays what a client says, and compares what is written.
func TestSession(t *testing.T) {
	cases := []struct {
		name, says, hears string
		messages          int
		ends              string
	}{
		{"python connects", connectPython + subscribe + sendPython, "CONNECTED|version:1.2|heart-beat:24000,0||^", 1, ""},
		{"java connects", subscribeEv + subscribe + connectJava, "CONNECTED|version:1.2|heart-beat:15000,0||^", 0, ""},
		{"heart-beats are a second at least", "CONNECT\naccept-version:1.0,1.2\nheart-beat:1,750\n\n^", "CONNECTED|version:1.2|heart-beat:1000,1000||^", 0, ""},
		{"heart-beats that are none", "CONNECT\naccept-version:1.2\nheart-beat:x,y\n\n^", "CONNECTED|version:1.2|heart-beat:0,0||^", 0, ""},
		{"no heart-beats", "CONNECT\r\naccept-version:1.2\r\n\r\n^\r\n\n", "CONNECTED|version:1.2|heart-beat:0,0||^", 0, ""},
		{"another version", "CONNECT\naccept-version:1.0,1.1\n\n^" + sendPython, "ERROR|content-length:19||Version unsupported^", 1, ""},
		{"SEND without CONNECT", sendPython + sendPython, "", 2, ""},
		{"SUBSCRIBE without destination", "SUBSCRIBE\nid:1\n\n^", "ERROR|content-length:45||Missing destination or subscription id header^", 0, ""},
		{"SUBSCRIBE without id", "SUBSCRIBE\ndestination:x\n\n^", "ERROR|content-length:45||Missing destination or subscription id header^", 0, ""},
		{"SUBSCRIBE twice", subscribe + subscribe, "ERROR|content-length:30||Subscription id already exists^", 0, ""},
		{"SUBSCRIBE with a long id", "SUBSCRIBE\ndestination:x\nid:" + strings.Repeat("x", 256) + "\n\n^", "ERROR|content-length:42||Destination or subscription id is too long^", 0, ""},
		{"UNSUBSCRIBE", subscribe + "UNSUBSCRIBE\nid:1\n\n^UNSUBSCRIBE\nid:unknown\n\n^" + subscribe, "", 0, ""},
		{"UNSUBSCRIBE without id", "UNSUBSCRIBE\n\n^", "ERROR|content-length:17||Missing id header^", 0, ""},
		{"DISCONNECT with a receipt", "DISCONNECT\nreceipt:a\\cb\n\n^" + sendPython, "RECEIPT|receipt-id:a\\cb||^", 1, ""},
		{"DISCONNECT without", "DISCONNECT\n\n^", "", 0, "EOF"},
		{"a request of a queue below", strings.ReplaceAll(sendPython, "vdsm_requests", "vdsm_requests.x"), "", 1, ""},
		{"a request elsewhere", strings.ReplaceAll(sendPython, "jms.topic.vdsm_requests", "jms.topic.vdsm_requestsx"), "ERROR|content-length:26||Subscription not available^", 0, ""},
		{"a message to another client", strings.ReplaceAll(subscribe+sendPython, "jms.topic.vdsm_requests", "replies"), "ERROR|content-length:26||Subscription not available^", 0, ""},
		{"a request to nowhere", "SEND\nreply-to:x\n\n{}^", "", 0, "without a destination"},
		{"a receipt that is not for DISCONNECT", strings.Replace(sendPython, "SEND\n", "SEND\nreceipt:1\n", 1), "", 1, ""},
		{"ACK", sendPython + "ACK\nid:1\n\n^", "", 1, `"ACK" frame, which no client may`},
		{"MESSAGE", "MESSAGE\nid:12345\n\n^", "", 0, `"MESSAGE" frame`},
		{"CONNECTED", "CONNECTED\nversion:1.2\n\n^", "", 0, `"CONNECTED" frame`},
		{"lower case", "connect\naccept-version:1.2\n\n^", "", 0, "does not speak STOMP"},
		{"STOMP", "STOMP\naccept-version:1.2\n\n^", "", 0, "does not speak STOMP"},
		{"a line feed first", "\nCONNECT\naccept-version:1.2\n\n^", "", 0, "does not speak STOMP"},
		{"HTTP", "GET /images/1 HTTP/1.1\r\n\r\n", strings.NewReplacer("\r\n", "\r|").Replace(refusal), 0, "it speaks HTTP"},
		{"a header that is none", "CONNECT\nno colon here\n\n^", "", 0, "has no colon"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, Options{Secure: true}, c.says)
				p.want(c.hears)
				if len(p.got) != c.messages {
					t.Errorf("%d messages, want %d", len(p.got), c.messages)
				}
				if c.ends != "" {
					p.wantEnd(c.ends)
				}
			})
		})
	}
}

// TestMessages: a request has its headers, and an answer goes to the connection's subscriptions of its reply-to, and to no other.
func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{}, connectPython+subscribe+sendPython)
		p.heard()
		if m := p.got[0]; string(m.Body) != "{}" || m.Flow != "flow" || m.Reply != "replies" {
			t.Errorf("the message is %+v", m)
		}
		p.answer("replies", `{"id":1}`, `{"id":2}`)
		const head = "MESSAGE|destination:replies|content-type:application/json|subscription:1|content-length:8||"
		p.want(head + `{"id":1}^` + "\n" + head + `{"id":2}^`)
		p.answer("", `{"id":3}`)
		p.answer("elsewhere", `{"id":3}`)
		p.answer("replie", `{"id":3}`)
		p.answer(stream.EventRoute, `{}`)
		p.answer(stream.RefusalRoute, `{}`)
		p.want("")
		p.say("SUBSCRIBE\ndestination:replies\nid:2\n\n^SUBSCRIBE\ndestination:jms.topic.vdsm_responses\nid:3\n\n^" + subscribeEv)
		p.answer("replies", `{"id":4}`)
		p.want(head + `{"id":4}^` + "\n" + strings.Replace(head, "subscription:1", "subscription:2", 1) + `{"id":4}^`)
		p.answer(stream.RefusalRoute, `{"id":5}`)
		p.want(`MESSAGE|destination:jms.topic.vdsm_responses|content-type:application/json|subscription:3|content-length:8||{"id":5}^`)
		p.answer(stream.EventRoute, `{"id":6}`)
		p.want(`MESSAGE|destination:jms.queue.events|content-type:application/json|subscription:e|content-length:8||{"id":6}^`)
	})
}

// TestHeartBeats: one when nothing was written for as long as was agreed, and every frame puts it off.
func TestHeartBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{}, "CONNECT\naccept-version:1.2\nheart-beat:0,1000\n\n^"+subscribe)
		p.heard()
		time.Sleep(999 * time.Millisecond)
		p.want("")
		time.Sleep(time.Millisecond)
		p.want("|")
		time.Sleep(500 * time.Millisecond)
		p.answer("replies", "{}")
		p.heard()
		time.Sleep(999 * time.Millisecond)
		p.want("")
		time.Sleep(5001 * time.Millisecond)
		p.want("|\n|\n|\n|\n|\n|")
	})
}

// TestSilentClient: a client that promises to be heard may be silent for twice as long; one that promises nothing, for ever.
func TestSilentClient(t *testing.T) {
	for promise, ends := range map[string]time.Duration{"2000": 4 * time.Second, "1": 2 * time.Second, "0": 0} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, Options{}, "CONNECT\naccept-version:1.2\nheart-beat:"+promise+",0\n\n^")
			time.Sleep(time.Second)
			p.say("\n")
			if ends == 0 {
				time.Sleep(24 * time.Hour)
				p.conn.Close()
				p.wantEnd("EOF")
				return
			}
			time.Sleep(ends - time.Millisecond)
			synctest.Wait()
			if len(p.ended) > 0 {
				t.Error("it was ended too soon")
			}
			time.Sleep(time.Millisecond)
			p.wantEnd("silent")
		})
	}
}

// TestEventsAreHeldBack until the client has asked something, or has had the time to read CONNECTED.
func TestEventsAreHeldBack(t *testing.T) {
	told := func(t *testing.T, p *peer, want ...bool) {
		t.Helper()
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if fmt.Sprint(p.events) != fmt.Sprint(want) {
			t.Errorf("told %v, want %v", p.events, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{}, connectJava+subscribeEv)
		told(t, p)
		time.Sleep(Settle - time.Millisecond)
		told(t, p)
		time.Sleep(time.Millisecond)
		told(t, p, true)
		p.say("UNSUBSCRIBE\nid:e\n\n^" + subscribeEv)
		told(t, p, true, false, true)
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{}, connectJava+subscribeEv+sendJava)
		told(t, p, true)
	})
	synctest.Test(t, func(t *testing.T) { // without CONNECT, over TLS
		p := newPeer(t, Options{Secure: true}, subscribeEv)
		time.Sleep(LostConnect)
		told(t, p)
		time.Sleep(Settle)
		told(t, p, true)
		p.want("")
	})
}

// TestGivenUpWhileTold: who is told about events may close the session at that moment, as a connection does whose client does not read.
func TestGivenUpWhileTold(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	go func() { _, _ = io.WriteString(client, strings.ReplaceAll(subscribeEv+sendPython, "^", "\x00")) }() // it may be cut short
	s, err := Open(server, Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan bool, 1)
	s.OnEvents(func(wanted bool) {
		told <- wanted
		closed := make(chan struct{})
		go func() {
			_ = s.Close()
			close(closed)
		}()
		<-closed
	})
	if _, err := s.ReadMessage(); err != nil {
		t.Error(err)
	}
	if !<-told {
		t.Error("it is told that no events are wanted")
	}
}

// TestWidestHead: with the longest names that a client may choose, the headers of a message stay under what the engine's client reads.
func TestWidestHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := strings.Repeat("\\c", MaxName/2) // escaped, as it is written
		p := newPeer(t, Options{Secure: true}, "SUBSCRIBE\nid:"+name+"\ndestination:"+name+"\n\n^")
		p.answer(strings.Repeat(":", MaxName/2), strings.Repeat("x", 16<<20))
		head, _, _ := strings.Cut(p.heard(), "||")
		if !strings.Contains(head, "content-length:16777216") || strings.Count(head, name) != 2 || len(head)+len("||x") >= 1000 {
			t.Errorf("%d bytes: %s", len(head), head)
		}
	})
}

// TestLostConnect: a client that has lost its CONNECT is told that it is connected; others never are.
func TestLostConnect(t *testing.T) {
	const told = "CONNECTED|version:1.2|heart-beat:15000,0||^"
	cases := []struct {
		name, says, hears string
		o                 Options
	}{
		{"lost", subscribeEv + subscribe, told, Options{}},
		{"over TLS nothing is lost", subscribe, "", Options{Secure: true}},
		{"it asks already", subscribe + sendJava, "", Options{}},
		{"it connects", subscribe + connectJava, "CONNECTED|version:1.2|heart-beat:15000,0||^", Options{}},
		{"never Java", subscribe, "", Options{Java: Never}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, c.o, c.says)
				if c.hears == told && c.name == "lost" {
					time.Sleep(LostConnect - time.Millisecond)
					p.want("")
					time.Sleep(time.Millisecond)
				} else {
					time.Sleep(time.Second)
				}
				p.want(c.hears)
				time.Sleep(14900 * time.Millisecond)
				if c.name == "lost" {
					time.Sleep(100 * time.Millisecond)
					p.want("|")
				}
			})
		})
	}
}

// TestJava: frames are a pause apart, padded, and merged; a lost SUBSCRIBE does no harm; and nobody else gets any of that.
func TestJava(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		java Java
	}{
		"by its CONNECT": {connectJava + subscribe, Auto}, "by its SEND": {subscribe + sendJava, Auto}, "by configuration": {connectPython + subscribe + sendPython, Always},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, Options{Secure: true, Java: c.java}, c.says)
				p.heard()
				time.Sleep(time.Second)
				begun := time.Now()
				p.answer("replies", `{"id":1}`, `[{"id":2},{"id":3}]`, `{"id":4}`)
				if took := time.Since(begun); took != Collect {
					t.Errorf("the first took %s", took)
				}
				const head = "MESSAGE|destination:replies|content-type:application/json|subscription:1|content-length:1025||"
				text := strings.NewReplacer("\x00", "^", "\n", "|").Replace(<-p.writes)
				if len(text) < LeastBody || !strings.HasPrefix(text, head+`[{"id":1},{"id":2},{"id":3},{"id":4}]  `) {
					t.Errorf("%d bytes: %s", len(text), text)
				}
				p.answer("lost", `{"id":5}`)
				if took := time.Since(begun); took != Collect+Pause {
					t.Errorf("the second came after %s", took)
				}
				if text := <-p.writes; !strings.Contains(text, "subscription:lost\n") || !strings.Contains(text, "\n\n{\"id\":5}  ") {
					t.Error(text)
				}
				p.answer("", `{"id":6}`)
				p.want("")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{Java: Never}, connectJava+subscribe+sendJava)
		p.heard()
		begun := time.Now()
		p.answer("replies", `{"id":1}`, `{"id":2}`)
		if n := strings.Count(p.heard(), "content-length:8|"); n != 2 || time.Since(begun) != 0 {
			t.Errorf("%d plain messages after %s", n, time.Since(begun))
		}
	})
}

// TestJavaStaysAwake: after so many heart-beats a frame comes, before its buffer is full of line feeds.
func TestJavaStaysAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Options{}, strings.Replace(connectJava, "15000", "1000", 1))
		p.heard()
		time.Sleep(2*(beatsToFrame+1)*time.Second + time.Second/2)
		beats, frames := 0, 0
		for _, w := range strings.Split(p.heard(), "\n") {
			if beats++; strings.HasPrefix(w, "MESSAGE|destination:jms.queue.events|") && strings.Contains(w, `"method":"|agent|alive|no_id"`) {
				beats, frames = 0, frames+1
			} else if w != "|" || beats > 1000 {
				t.Fatalf("%d: %s", beats, w)
			}
		}
		if frames != 2 {
			t.Errorf("%d frames", frames)
		}
	})
}

// TestFirstBytes: what comes byte by byte is waited for, but no longer than the caller's deadline.
func TestFirstBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer client.Close()
		go func() {
			for _, b := range []byte("SUBSCRIBE\nid:1\n\n") {
				time.Sleep(time.Second)
				if _, err := client.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err := Open(server, Options{})
		if err == nil || !strings.Contains(err.Error(), "waited for long enough") || time.Since(begun) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		server.Close()
		time.Sleep(time.Second) // until the other side has noticed
	})
}

// TestReader reads frames whole and byte by byte.
func TestReader(t *testing.T) {
	long := strings.Repeat("x", 5000)
	cases := []struct{ name, in, want string }{
		{"two", "A\n\nbody^B\nk:v\n\n^", "A [] body;B [{k v}] "},
		{"beats and carriage returns", "\n\r\n\nA\r\nk:v\r\n\r\n^\r\n\n", "A [{k v}] "},
		{"a count", "A\ncontent-length:3\n\na^b^", "A [{content-length 3}] a\x00b"},
		{"the first of two headers counts", "A\ncontent-length:1\ncontent-length:x\n\na^", "A [{content-length 1} {content-length x}] a"},
		{"escapes", `A` + "\n" + `a\cb:\n\r\\` + "\n\n^", "A [{a:b \n\r\\}] "},
		{"a colon in a value", "A\nhost:fe80::1\n\n^", "A [{host fe80::1}] "},
		{"an empty value", "A\nk:\n\n^", "A [{k }] "},
		{"an unknown escape", "A\nk:\\t\n\n^", `!the header "k" has an escape`},
		{"an escape that is cut", "A\nk:\\\n\n^", "!has an escape"},
		{"an escape in a name", "A\n\\t:v\n\n^", `!the header "\\t" has an escape`},
		{"no colon", "A\nk\n\n^", "!has no colon"},
		{"a secret that is no header", "A\npasscode:hunter2\\x\n\n^", "!the header \"passcode\" has an escape that STOMP does not know"},
		{"no number", "A\ncontent-length:1x\n\na^", "!is not a content-length"},
		{"a negative number", "A\ncontent-length:-1\n\na^", "!is not a content-length"},
		{"no NUL where the body ends", "A\ncontent-length:1\n\nab^", "!longer than its content-length"},
		{"too long, then the next", "A\ncontent-length:10001\n\n" + strings.Repeat("x", 10001) + "^B\n\n^", "too long;B [] "},
		{"too long without a count", "A\n\n" + strings.Repeat("x", 30000) + "^B\n\n^", "too long;B [] "},
		{"as long as may be", "A\n\n" + strings.Repeat("x", 10000) + "^B\n\n^", "A [] " + strings.Repeat("x", 10000) + ";B [] "},
		{"a long header", "A\nk:" + long + "\n\n^", "A [{k " + long + "}] "},
		{"headers too long", "A\nk:" + strings.Repeat(long, 4) + "\n\n^", "!more than 16384 bytes"},
		{"too many headers", "A\n" + strings.Repeat("k:v\n", 65) + "\n^", "!more than 64 headers"},
		{"a NUL in a header", "A\nk:^\n\n^", "!NUL among the headers"},
		{"cut in the head", "A\nk:v", "!unexpected EOF"},
		{"cut in the body", "A\ncontent-length:5\n\nab", "!unexpected EOF"},
		{"cut in a body that is not counted", "A\n\nab", "!unexpected EOF"},
		{"a length that nobody has sent", "A\ncontent-length:4611686018427387903\n\nab", "!unexpected EOF"},
	}
	for _, c := range cases {
		in := strings.ReplaceAll(c.in, "^", "\x00")
		for kind, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": &slow{in}} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				frames := NewReader(r, 10_000)
				var got []string
				for {
					f, err := frames.Read()
					switch {
					case errors.Is(err, stream.ErrTooLong):
						got = append(got, "too long")
						continue
					case err == io.EOF:
					case err != nil:
						got = append(got, "!"+err.Error())
					default:
						got = append(got, fmt.Sprintf("%s %v %s", f.Command, f.Headers, f.Body))
						continue
					}
					break
				}
				text := strings.Join(got, ";")
				if want, fails := strings.CutPrefix(c.want, "!"); fails && (!strings.HasPrefix(text, "!") || !strings.Contains(text, want) || strings.Contains(text, "hunter2")) || !fails && text != c.want {
					t.Errorf("got %.200q, want %.200q", text, c.want)
				}
			})
		}
	}
}

// slow gives one byte at a time.
type slow struct{ left string }

func (s *slow) Read(b []byte) (int, error) {
	if s.left == "" {
		return 0, io.EOF
	}
	b[0], s.left = s.left[0], s.left[1:]
	return 1, nil
}

// FuzzReader gives any bytes: they are refused, or what was read is the same when it is written and read again.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{"", "\n\n", connectPython, connectJava, sendPython, "A\nk:\\c\\n\\\\\\r\n\n^", "A\ncontent-length:9\n\na^", "A\ncontent-length:99999\n\n^", "\x00\x00", "A\n:\n\n^B\n\n", "\r\r\n\n^"} {
		f.Add([]byte(strings.ReplaceAll(seed, "^", "\x00")))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in), 1000)
		for {
			first, err := r.Read()
			if errors.Is(err, stream.ErrTooLong) {
				continue
			}
			if err != nil {
				return
			}
			var headers []Header
			for _, h := range first.Headers {
				if h.Name != contentLength {
					headers = append(headers, h)
				}
			}
			body := bytes.Clone(first.Body)
			raw := Append(nil, first.Command, headers, [][]byte{body})
			again, err := NewReader(bufio.NewReader(bytes.NewReader(raw)), 1000).Read()
			if len(headers) == MaxHeaders || len(raw) > MaxHeader {
				continue // it has grown by its count, or its escapes
			}
			if err != nil || again.Command != first.Command || !bytes.Equal(again.Body, body) {
				t.Fatalf("%q is read again as %+v, %v", raw, again, err)
			}
			for i, h := range headers {
				if again.Headers[i] != h {
					t.Fatalf("header %+v became %+v", h, again.Headers[i])
				}
			}
		}
	})
}
