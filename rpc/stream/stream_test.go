package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sourcegraph/jsonrpc2"
)

// memory is a framing without a connection: messages go in by in, and come out in the order they were written.
type memory struct {
	in    chan string // "!" = a message that was too long
	block chan struct{}

	mu     sync.Mutex
	out    []string
	closed bool
	done   chan struct{}
}

func newMemory() *memory {
	return &memory{in: make(chan string, 1000), done: make(chan struct{})}
}

func (m *memory) ReadMessage() (Message, error) {
	select {
	case text, open := <-m.in:
		switch {
		case !open:
			return Message{}, io.EOF
		case text == "!":
			return Message{}, ErrTooLong
		}
		return Message{Body: []byte(text), Flow: "corr"}, nil
	case <-m.done:
		return Message{}, errors.New("closed")
	}
}

func (m *memory) Gather() error { return nil }

func (m *memory) WriteMessages(all []Outgoing) error {
	if m.block != nil {
		select {
		case <-m.block:
		case <-m.done:
			return errors.New("closed")
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range all {
		m.out = append(m.out, string(bytes.Join(o.Body, nil)))
	}
	return nil
}

func (m *memory) Flush(context.Context) {}

func (m *memory) Listening() bool { return true }

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.done)
	}
	return nil
}

func (m *memory) written() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out
}

// echo answers each request with its method and parameters: an error if the method is "fail", nothing if it is
// "never", a MiB if it is "large".
type echo struct{ stream *Stream }

func (e echo) Handle(_ context.Context, _ *jsonrpc2.Conn, r *jsonrpc2.Request) {
	call := e.stream.Call(r.ID)
	switch r.Method {
	case "never":
	case "large":
		_ = e.stream.Answer(r.ID, json.RawMessage(`"`+strings.Repeat("x", 1<<20)+`"`))
	case "fail":
		_ = e.stream.Refuse(r.ID, 7, "no")
	default:
		raw, _ := json.Marshal([]any{r.Method, call.Params, call.Flow})
		_ = e.stream.Answer(r.ID, raw)
	}
}

func serve(f Framing) (*Stream, *jsonrpc2.Conn) {
	s := New(f)
	return s, jsonrpc2.NewConn(context.Background(), s, echo{s})
}

func TestStreamAnswers(t *testing.T) {
	request := func(id int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, id) }
	full := make([]string, MaxBatch+1)
	for i := range full {
		full[i] = request(i)
	}
	cases := []struct {
		name, in string
		want     string // "" = nothing
	}{
		{"parameters arrive as they were written", `{"jsonrpc":"2.0","method":"m","params":{"b": 1e400,"a":[ ]},"id":1}`,
			`{"jsonrpc":"2.0","id":1,"result":["m",{"b":1e400,"a":[]},"corr"]}`},
		{"an error has no result", `{"jsonrpc":"2.0","method":"fail","id":1}`, `{"jsonrpc":"2.0","id":1,"error":{"code":7,"message":"no"}}`},
		{"a method is any string", `{"jsonrpc":"2.0","method":"\u0000\"é","id":1}`, `{"jsonrpc":"2.0","id":1,"result":["\u0000\"é",null,"corr"]}`},
		{"two requests with the same id", "[" + request(1) + "," + request(1) + "]",
			`[{"jsonrpc":"2.0","id":1,"result":["m",null,"corr"]},{"jsonrpc":"2.0","id":1,"result":["m",null,"corr"]}]`},
		{"an id as it was written", `{"jsonrpc":"2.0","method":"m","id":"\u0041"}`, `{"jsonrpc":"2.0","id":"\u0041","result":["m",null,"corr"]}`},
		{"notification", `{"jsonrpc":"2.0","method":"m"}`, ""},
		{"not UTF-8", `{"jsonrpc":"2.0","method":"m","params":["` + "\xff" + `"],"id":1}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the message is not JSON in UTF-8"}}`},
		{"nothing", "", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the message is not JSON in UTF-8"}}`},
		{"too deep", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the message is not JSON in UTF-8"}}`},
		{"too long", "!", `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a message may have 16 MiB at most; this one was skipped"}}`},
		{"a batch that is too large", "[" + strings.Join(full, ",") + "]",
			`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a batch may have 200 requests at most; nothing of this one was done"}}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				_, conn := serve(m)
				defer conn.Close()
				m.in <- c.in
				m.in <- request(99)
				synctest.Wait()
				want := []string{c.want, `{"jsonrpc":"2.0","id":99,"result":["m",null,"corr"]}`}
				if c.want == "" {
					want = want[1:]
				}
				if got := m.written(); strings.Join(got, "\n") != strings.Join(want, "\n") {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}
}

// TestStreamLargestBatch: a batch of as many requests as may be is answered whole, in their order.
func TestStreamLargestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		_, conn := serve(m)
		defer conn.Close()
		requests := make([]string, MaxBatch)
		for i := range requests {
			requests[i] = fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i)
		}
		m.in <- "[" + strings.Join(requests, ",") + "]"
		synctest.Wait()
		var answers []struct{ ID int }
		if err := json.Unmarshal([]byte(m.written()[0]), &answers); err != nil {
			t.Fatal(err)
		}
		if len(answers) != MaxBatch {
			t.Fatalf("%d answers", len(answers))
		}
		for i, a := range answers {
			if a.ID != i {
				t.Fatalf("answer %d has id %d", i, a.ID)
			}
		}
	})
}

// TestStreamGivesUpUnread: answers that nobody reads are kept up to a limit; then the connection ends and says why.
func TestStreamGivesUpUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.block = make(chan struct{}) // the first write never ends
		s, conn := serve(m)
		defer conn.Close()
		for i := range MaxUnread>>20 + 2 {
			m.in <- fmt.Sprintf(`{"jsonrpc":"2.0","method":"large","id":%d}`, i)
			synctest.Wait()
			if i < MaxUnread>>20-1 && s.Cause() != nil {
				t.Fatalf("given up after %d answers: %v", i, s.Cause())
			}
		}
		if err := s.Cause(); err == nil || !strings.Contains(err.Error(), "does not read its answers") {
			t.Errorf("the cause is %v", err)
		}
		<-conn.DisconnectNotify()
	})
}

// TestStreamWaitsForReader: when many answers wait, no more requests are read until the client has read some.
func TestStreamWaitsForReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.block = make(chan struct{})
		_, conn := serve(m)
		defer conn.Close()
		const sent = 2 * maxAnswers
		for i := range sent {
			m.in <- fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i)
		}
		synctest.Wait()
		if left := len(m.in); left != sent-maxAnswers {
			t.Errorf("%d requests are not read yet", left)
		}
		close(m.block)
		synctest.Wait()
		if got := len(m.written()); got != sent {
			t.Errorf("%d answers in the end", got)
		}
	})
}

// TestStreamEvents: those that may be left out are when many messages wait; the others never are, and when far more wait the connection
// ends and says why.
func TestStreamEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.block = make(chan struct{})
		s, conn := serve(m)
		defer conn.Close()
		push := func(n int, mayBeLeftOut, taken bool) {
			t.Helper()
			for range n {
				if got := s.Push([]byte(`{}`), mayBeLeftOut); got != taken {
					t.Fatalf("an event was taken: %t", got)
				}
			}
		}
		push(1, false, true)
		synctest.Wait() // it is being written
		push(MaxEvents, true, true)
		push(1, true, false)
		push(100, false, true)
		m.block <- struct{}{} // the client reads what is being written, and the next is
		synctest.Wait()
		m.block <- struct{}{}
		synctest.Wait()
		if got := len(m.written()); got != 1+MaxEvents+100 {
			t.Errorf("%d events were written", got)
		}
		push(1, true, true)
		synctest.Wait()
		push(mostEvents, false, true)
		push(1, false, false)
		if err := s.Cause(); err == nil || !strings.Contains(err.Error(), "does not read its events: 16000 wait for it") {
			t.Errorf("the cause is %v", err)
		}
		<-conn.DisconnectNotify()
		push(1, false, true) // which is for nobody
	})
}

// TestStreamStalledClient: a client that stops to read is given up after StallAfter, although nothing more is asked.
func TestStreamStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer client.Close()
		s, conn := serve(NewLines(server, MaxMessage))
		begun := time.Now()
		if _, err := io.WriteString(client, `{"jsonrpc":"2.0","method":"m","id":1}`+"\n"); err != nil {
			t.Fatal(err)
		}
		<-conn.DisconnectNotify()
		if took := time.Since(begun); took != StallAfter {
			t.Errorf("given up after %s", took)
		}
		if err := s.Cause(); err == nil || !strings.Contains(err.Error(), "has read nothing") {
			t.Errorf("the cause is %v", err)
		}
	})
}

// TestStreamEndOfPipe: a client that ends its sending, as the end of a pipe does, still gets its answers.
func TestStreamEndOfPipe(t *testing.T) {
	server, client := socketPair(t)
	s, conn := serve(NewLines(server, MaxMessage))
	if _, err := io.WriteString(client, `{"jsonrpc":"2.0","method":"m","id":1}`+"\n"+`{"jsonrpc":"2.0","method":"m","id":2}`); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(client)
	want := `{"jsonrpc":"2.0","id":1,"result":["m",null,""]}` + "\n" + `{"jsonrpc":"2.0","id":2,"result":["m",null,""]}` + "\n"
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	<-conn.DisconnectNotify()
	if s.Cause() != io.EOF {
		t.Errorf("the cause is %v", s.Cause())
	}
}

// TestStreamGoneWhileWaiting: a client that ends its sending and then goes away is noticed, though its request is
// never answered.
func TestStreamGoneWhileWaiting(t *testing.T) {
	server, client := socketPair(t)
	_, conn := serve(NewLines(server, MaxMessage))
	if _, err := io.WriteString(client, `{"jsonrpc":"2.0","method":"never","id":1}`+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	<-conn.DisconnectNotify()
}

// TestStreamDrain waits for what is not answered, for what is not written, and for the end.
func TestStreamDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := New(m)
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("nothing to wait for: %v", err)
		}
		m.in <- `{"jsonrpc":"2.0","method":"m"}`
		var r jsonrpc2.Request
		if err := s.ReadObject(&r); err != nil {
			t.Fatal(err)
		}
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		if err := s.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an open notification: %v", err)
		}
		drained := make(chan error)
		go func() { drained <- s.Drain(t.Context()) }()
		if err := s.Answer(r.ID, json.RawMessage("true")); err != nil {
			t.Error(err)
		}
		if err := <-drained; err != nil {
			t.Errorf("answered: %v", err)
		}
		if err := s.Answer(r.ID, json.RawMessage("true")); err == nil {
			t.Error("a second answer is taken")
		}
		m.in <- `{"jsonrpc":"2.0","method":"m"}`
		if err := s.ReadObject(&r); err != nil {
			t.Fatal(err)
		}
		go func() { drained <- s.Drain(t.Context()) }()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-drained; !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// FuzzStream feeds any lines: whatever they are, each message is answered as JSON-RPC wants or not at all, and the
// connection goes on.
func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		``, `{`, `[]`, `[[]]`, `[1,2]`, `null`, `{"jsonrpc":"2.0","method":"m","id":1}`, `[{"jsonrpc":"2.0","method":"m"},{}]`,
		`{"jsonrpc":"2.0","method":"m","id":1e999,"params":[{"a":null}]}`, `{"jsonrpc":"2.0","method":"fail","id":null}`,
		`{"id":1,"result":true}`, "\xff", `{"a":"` + "\x00" + `"}`, `[{"jsonrpc":"2.0","method":"m","id":{}}]` + "\r\n\n{}", `{"jsonrpc":"2.0","method":"m","method":1,"id":"x"}`,
		`{"jsonrpc":"2.0","method":"m","id":-0.0e-0}`, `[` + strings.Repeat(`{},`, 300) + `{}]`, `{"":"","jsonrpc":"2.0"}`,
	} {
		f.Add([]byte(seed))
	}
	const last = `{"jsonrpc":"2.0","id":"the last","result":["m",null,""]}`
	f.Fuzz(func(t *testing.T, in []byte) {
		server, client := net.Pipe()
		_, conn := serve(NewLines(server, 64<<10))
		defer conn.Close()
		go func() {
			_, _ = client.Write(append(in, "\n"+`{"jsonrpc":"2.0","method":"m","id":"the last"}`+"\n"...)) // a failure shows below
		}()
		lines := bufio.NewReader(client)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatalf("the connection has ended: %v", err)
			}
			checkAnswers(t, line)
			if strings.TrimSpace(string(line)) == last {
				return
			}
		}
	})
}

// checkAnswers fails unless line is an answer or an array of some.
func checkAnswers(t *testing.T, line []byte) {
	t.Helper()
	one := func(raw json.RawMessage) {
		var a map[string]json.RawMessage
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		_, result := a["result"]
		_, refused := a["error"]
		if string(a["jsonrpc"]) != `"2.0"` || a["id"] == nil || len(a) != 3 || result == refused {
			t.Fatalf("not an answer: %s", raw)
		}
	}
	if line[0] != '[' {
		one(line)
		return
	}
	var all []json.RawMessage
	if err := json.Unmarshal(line, &all); err != nil || len(all) == 0 {
		t.Fatalf("not answers: %s (%v)", line, err)
	}
	for _, a := range all {
		one(a)
	}
}
