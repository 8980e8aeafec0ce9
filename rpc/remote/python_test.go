package remote

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/tasks"
)

// TestPythonIsServed: vdsm's client in Python sends every request as an array of one, takes only a bare object, and messages of its own
// subscription; and it is never made to wait, nor sent anything to fill up.
func TestPythonIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		server, conn := net.Pipe()
		h.serves.Go(func() {
			s, err := stomp.Open(server, stomp.Options{Secure: true})
			if err != nil {
				t.Error(err)
				return
			}
			h.server.ServeMessages(h.ctx, s, rpc.Peer{Name: "python", Role: access.Operate})
		})
		say := func(text string) {
			if _, err := io.WriteString(conn, strings.ReplaceAll(text, "^", "\x00")); err != nil {
				t.Error(err)
			}
		}
		begun := time.Now()
		frames := stomp.NewReader(conn, 1<<20)
		go say("CONNECT\naccept-version:1.2\nheart-beat:0,24000\n\n^SUBSCRIBE\nid:sub-1\nack:auto\ndestination:replies\n\n^")
		if f, err := frames.Read(); err != nil || f.Command != "CONNECTED" {
			t.Fatal(f, err)
		}
		for i := range 50 {
			body := fmt.Sprintf(`[{"jsonrpc":"2.0","method":"Host.ping2","params":{},"id":"%d"}]`, i)
			go say(fmt.Sprintf("SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\nreply-to:replies\ncontent-length:%d\n\n%s^", len(body), body))
			f, err := frames.Read()
			if err != nil {
				t.Fatal(err)
			}
			if id, _ := f.Lookup("subscription"); f.Command != "MESSAGE" || id != "sub-1" {
				t.Errorf("it would drop %+v", f)
			}
			if want := fmt.Sprintf(`{"jsonrpc":"2.0","id":"%d","result":true}`, i); string(f.Body) != want {
				t.Errorf("%s, want %s and nothing else", f.Body, want)
			}
		}
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("50 calls took %s", waited)
		}
		h.close()
		_ = conn.Close()
	})
}

// TestWhatVDSMCannot: batches, notifications and requests without a place for the answer are carried out, and the correlation id of each is
// the flow of its task; what is no JSON is answered where such answers go.
func TestWhatVDSMCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		server, conn := net.Pipe()
		h.serves.Go(func() {
			s, err := stomp.Open(server, stomp.Options{Secure: true})
			if err != nil {
				t.Error(err)
				return
			}
			h.server.ServeMessages(h.ctx, s, rpc.Peer{Name: "python", Role: access.Operate})
		})
		frames := stomp.NewReader(conn, 1<<20)
		var heard []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				f, err := frames.Read()
				if err != nil {
					return
				}
				heard = append(heard, f.Get("destination")+" "+string(f.Body))
			}
		}()
		say := func(text string) {
			if _, err := io.WriteString(conn, strings.ReplaceAll(text, "^", "\x00")); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		send := func(headers, body string) {
			say("SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\n" + headers + "\n" + body + "^")
		}
		run := func(n int) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","method":"Mock.run","params":{"steps":[],"taskID":"00000000-0000-4000-8000-00000000000%d"}`, n)
		}
		say("SUBSCRIBE\nid:1\ndestination:replies\n\n^SUBSCRIBE\nid:2\ndestination:jms.topic.vdsm_responses\n\n^")
		send("reply-to:replies\novirtCorrelationId:a\\cb\n", "["+run(1)+`,"id":"x"},`+run(2)+`,"id":"y"},`+run(3)+"}]")
		send("reply-to:replies\novirtCorrelationId:a\\cb\n", run(4)+"}")
		send("ovirtCorrelationId:other\n", run(5)+`,"id":"z"}`)
		send("reply-to:nobody\n", run(6)+`,"id":"z"}`)
		send("reply-to:replies\n", "{")
		send("reply-to:replies\n", `[{"jsonrpc":"2.0","method":"Flow.list","id":1}]`)
		_ = conn.Close()
		<-done
		want := []string{
			`replies [{"jsonrpc":"2.0","id":"x","result":"00000000-0000-4000-8000-000000000001"},{"jsonrpc":"2.0","id":"y","result":"00000000-0000-4000-8000-000000000002"}]`,
			`jms.topic.vdsm_responses {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the message is not JSON in UTF-8"}}`,
			`replies {"jsonrpc":"2.0","id":1,"result":{"flows":[{"flowID":"a:b","tasks":4,"fenced":false},{"flowID":"other","tasks":1,"fenced":false}],"next":""}}`,
		}
		if strings.Join(heard, "\n") != strings.Join(want, "\n") {
			t.Errorf("heard:\n%s\nwant:\n%s", strings.Join(heard, "\n"), strings.Join(want, "\n"))
		}
		if n := len(h.engine.List(tasks.Filter{})); n != 6 {
			t.Errorf("%d tasks were made", n)
		}
		h.close()
	})
}

// records counts the records of TLS that carry data, as they come from the other side.
type records struct {
	net.Conn
	mu   sync.Mutex
	in   bytes.Buffer
	data int
}

func (r *records) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in.Write(b[:n])
	const head, applicationData = 5, 23
	for r.in.Len() >= head {
		whole := head + int(binary.BigEndian.Uint16(r.in.Bytes()[3:]))
		if r.in.Len() < whole {
			break
		}
		if r.in.Next(whole)[0] == applicationData {
			r.data++
		}
	}
	return n, err
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data
}

// TestOneRecord: an answer that fits into one record of TLS, 16 KiB, is in one, and from the first on: the engine's client takes a
// second for each.
func TestOneRecord(t *testing.T) {
	h := newHouse(t, nil)
	raw, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	counted := &records{Conn: raw}
	config := h.client(h.ca, "engine.example.com", time.Hour)
	config.ServerName = "127.0.0.1"
	conn := tls.Client(counted, config)
	defer conn.Close()
	frames := stomp.NewReader(conn, 1<<20)
	if _, err := io.WriteString(conn, "CONNECT\naccept-version:1.2\n\n\x00SUBSCRIBE\nid:1\ndestination:replies\n\n\x00"); err != nil {
		t.Fatal(err)
	}
	if _, err := frames.Read(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{3000, 15000, 15000} {
		before := counted.count()
		if _, err := fmt.Fprintf(conn, "SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\nreply-to:replies\n\n"+
			`{"jsonrpc":"2.0","method":"Test.text","params":{"size":%d},"id":1}`+"\x00", size); err != nil {
			t.Fatal(err)
		}
		f, err := frames.Read()
		if err != nil || len(f.Body) < size {
			t.Fatal(f, err)
		}
		if n := counted.count() - before; n != 1 {
			t.Errorf("an answer of %d bytes came in %d records", size, n)
		}
	}
}
