package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// pipes is a listener of connections in memory, which a bubble of synctest sees through.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	server, client := net.Pipe()
	p.conns <- server
	return client
}

// piped is the transport of pipes: lines, from a peer who may do everything.
type piped struct{}

func (piped) Name() string { return "piped" }

func (piped) Open(_ context.Context, conn net.Conn) (stream.Framing, rpc.Peer, error) {
	return stream.NewLines(conn, stream.MaxMessage), rpc.Peer{Name: "tester", Role: access.Admin}, nil
}

// logged is a log that a test can read.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// house is a ready server with methods of a test's own, in a bubble.
type house struct {
	*pipes
	log    *logged
	server *rpc.Server
	shut   context.CancelFunc
	served chan error
}

func newHouse(t *testing.T, methods ...rpc.Method) *house {
	return newHouseFor(t, piped{}, rpc.Options{}, methods...)
}

func newHouseFor(t *testing.T, by rpc.Transport, o rpc.Options, methods ...rpc.Method) *house {
	h := &house{pipes: newPipes(), log: &logged{}, served: make(chan error, 1)}
	o.Log = zerolog.New(h.log)
	h.server = rpc.New(o)
	h.server.Handle(methods)
	h.server.SetReady()
	ctx, shut := context.WithCancel(context.Background())
	h.shut = shut
	go func() { h.served <- h.server.Serve(ctx, h.pipes, by) }()
	t.Cleanup(func() {
		shut()
		if err := <-h.served; err != nil {
			t.Error(err)
		}
	})
	return h
}

// method is one that calls f.
func method(name string, f func(ctx context.Context, r *rpc.Request) (any, error)) rpc.Method {
	return rpc.Method{Name: name, Role: access.Observe, Doc: "Test.", Handle: f}
}

// waits is a method that answers when release is closed, or with the end of its ctx.
func waits(release chan struct{}) rpc.Method {
	return method("Test.waits", func(ctx context.Context, _ *rpc.Request) (any, error) {
		select {
		case <-release:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

var quick = method("Test.quick", func(context.Context, *rpc.Request) (any, error) { return nil, nil })

func wantCode(t *testing.T, err error, c code.Code, text string) {
	t.Helper()
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Code != int(c) || !strings.Contains(refused.Message, text) {
		t.Errorf("the error is %v, want %d with %q", err, c, text)
	}
}

// TestBlockedVerbBlocksNoOther: also on the same connection.
func TestBlockedVerbBlocksNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := newHouse(t, waits(release), quick)
		c := client.New(h.dial())
		defer c.Close()
		blocked := make(chan error)
		go func() { blocked <- c.Call(t.Context(), "Test.waits", nil, nil) }()
		synctest.Wait()
		if err := c.Call(t.Context(), "Test.quick", nil, nil); err != nil {
			t.Error(err)
		}
		close(release)
		if err := <-blocked; err != nil {
			t.Error(err)
		}
	})
}

// TestLimitOfConnection: so many requests are in work, so many wait, one more is refused; what cancels does not wait;
// another connection is not concerned; and in the end everything is done.
func TestLimitOfConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cancel := quick
		cancel.Name, cancel.Cancels = "Test.cancels", true
		var running, most atomic.Int64
		counted := method("Test.counted", func(context.Context, *rpc.Request) (any, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-release
			return nil, nil
		})
		h := newHouse(t, counted, quick, cancel)
		c := client.New(h.dial())
		defer c.Close()
		answers := make(chan error, rpc.MaxRunning+rpc.MaxWaiting)
		for range rpc.MaxRunning + rpc.MaxWaiting {
			go func() { answers <- c.Call(t.Context(), "Test.counted", nil, nil) }()
			synctest.Wait()
		}
		wantCode(t, c.Call(t.Context(), "Test.quick", nil, nil), code.ResourceExhausted, "100 requests in work and 100 waiting")
		if err := c.Call(t.Context(), "Test.cancels", nil, nil); err != nil {
			t.Errorf("a cancel has to wait: %v", err)
		}
		other := client.New(h.dial())
		defer other.Close()
		if err := other.Call(t.Context(), "Test.quick", nil, nil); err != nil {
			t.Errorf("another connection: %v", err)
		}
		close(release)
		for range rpc.MaxRunning + rpc.MaxWaiting {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if most.Load() != rpc.MaxRunning {
			t.Errorf("%d requests were in work at a time", most.Load())
		}
	})
}

// TestBusyConnection: however many requests of a connection block, it is answered that the agent is there, and what cancels begins; and
// cancels that block keep nothing else from its turn.
func TestBusyConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
		if err := engine.Start(nil); err != nil {
			t.Fatal(err)
		}
		defer engine.Close(context.Background())
		h := newHouse(t, append(rpc.Methods(engine, nil), quick)...)
		c := client.New(h.dial())
		defer c.Close()
		task := func() map[string]any {
			id := uuid.NewString()
			steps := []mock.Knobs{{Name: "a", Pace: time.Hour, IgnoresStop: true}}
			if err := c.Call(t.Context(), "Mock.run", map[string]any{"taskID": id, "flowID": id, "tag": "sdm", "steps": steps}, nil); err != nil {
				t.Fatal(err)
			}
			return map[string]any{"taskID": id}
		}
		params := task()
		stop := map[string]any{"taskID": params["taskID"], "wait": 3600}
		block := func(c *client.Client, method string, params map[string]any, n int) {
			for range n {
				go func() {
					if err := c.Call(t.Context(), method, params, nil); !errors.Is(err, client.ErrConnectionLost) {
						t.Errorf("%s does not block: %v", method, err)
					}
				}()
			}
			synctest.Wait()
		}
		ping := func() {
			t.Helper()
			for _, name := range []string{"Host.ping", "Host.ping2"} {
				if err := c.Call(t.Context(), name, nil, nil); err != nil {
					t.Error(err)
				}
			}
		}
		others := []map[string]any{task(), task(), task()}
		block(c, "Task.wait", params, rpc.MaxRunning+rpc.MaxWaiting)
		ping()
		for i, name := range []string{"Task.stop", "Job.abort", "Flow.cancel"} {
			only := map[string]any{[]string{"taskID", "job_id", "flowID"}[i]: others[i]["taskID"]}
			if err := c.Call(t.Context(), name, only, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		block(c, "Task.stop", stop, rpc.MaxRunning)
		ping()
		wantCode(t, c.Call(t.Context(), "Task.stop", params, nil), code.ResourceExhausted, "ask again")
		wantCode(t, c.Call(t.Context(), "Test.quick", nil, nil), code.ResourceExhausted, "ask again")

		other := client.New(h.dial())
		defer other.Close()
		block(other, "Task.stop", stop, rpc.MaxRunning)
		if err := other.Call(t.Context(), "Test.quick", nil, nil); err != nil {
			t.Errorf("what does not cancel: %v", err)
		}
	})
}

// TestConnectionLost: the handlers of a client that goes away end, those that wait for their turn too.
func TestConnectionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun, ended atomic.Int64
		h := newHouse(t, method("Test.waits", func(ctx context.Context, _ *rpc.Request) (any, error) {
			begun.Add(1)
			defer ended.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		conn := h.dial()
		const sent = rpc.MaxRunning + 10
		for i := range sent {
			fmt.Fprintf(conn, `{"jsonrpc":"2.0","method":"Test.waits","id":%d}`+"\n", i)
		}
		io.WriteString(conn, `{"jsonrpc":"2.0","meth`) // cut off in the middle
		synctest.Wait()
		if begun.Load() != rpc.MaxRunning || ended.Load() != 0 {
			t.Errorf("%d begun, %d ended", begun.Load(), ended.Load())
		}
		conn.Close()
		synctest.Wait()
		if ended.Load() != sent {
			t.Errorf("%d ended", ended.Load())
		}
		if !strings.Contains(h.log.String(), "client disconnected") {
			t.Errorf("the log is %s", h.log)
		}
	})
}

// TestShutdown: what is being done is answered as far as it ends in time, what is asked now is refused, then every
// connection is closed.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := newHouse(t, waits(make(chan struct{})),
			method("Test.stubborn", func(context.Context, *rpc.Request) (any, error) { <-release; return nil, nil }),
			method("Test.slow", func(context.Context, *rpc.Request) (any, error) { <-time.After(time.Second); return "done", nil }),
			method("Test.late", func(ctx context.Context, _ *rpc.Request) (any, error) {
				<-ctx.Done()
				return nil, code.Errorf(code.ResourceTimeout, "it is still running: %w", ctx.Err())
			}))
		ends := func(c *client.Client, name string, result any) chan error {
			out := make(chan error, 1)
			go func() { out <- c.Call(t.Context(), name, nil, result) }()
			synctest.Wait()
			return out
		}
		c, idle, stuck := client.New(h.dial()), h.dial(), client.New(h.dial())
		defer c.Close()
		defer stuck.Close()
		var text string
		waiting, slow, late, stubborn := ends(c, "Test.waits", nil), ends(c, "Test.slow", &text), ends(c, "Test.late", nil), ends(stuck, "Test.stubborn", nil)
		begun := time.Now()
		h.shut()
		wantCode(t, <-waiting, code.ShuttingDown, "shutting down")
		wantCode(t, <-late, code.ShuttingDown, "shutting down: it is still running")
		wantCode(t, c.Call(t.Context(), "Test.waits", nil, nil), code.ShuttingDown, "ask again")
		if err := <-slow; err != nil || text != "done" {
			t.Errorf("what was being done is answered %q, %v", text, err)
		}
		if err := <-stubborn; !errors.Is(err, client.ErrConnectionLost) {
			t.Errorf("what does not end is answered %v", err)
		}
		if err := <-h.served; err != nil {
			t.Error(err)
		}
		h.served <- nil // for the clean-up
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("the shutdown took %s", took)
		}
		if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("an idle connection answers %v", err)
		}
		if !strings.Contains(h.log.String(), "before everything that this client asked was answered") {
			t.Errorf("the log is %s", h.log)
		}
		close(release)
	})
}

// TestPanicIsLogged: with its stack, and the connection goes on.
func TestPanicIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, method("Test.panics", func(context.Context, *rpc.Request) (any, error) { panic("the defect") }), quick)
		c := client.New(h.dial())
		defer c.Close()
		wantCode(t, c.Call(t.Context(), "Test.panics", nil, nil), code.InternalError, "Test.panics has met a defect")
		if err := c.Call(t.Context(), "Test.quick", nil, nil); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"the defect", "server_test.go", `"method":"Test.panics"`} {
			if !strings.Contains(h.log.String(), want) {
				t.Errorf("the log lacks %s: %s", want, h.log)
			}
		}
	})
}

// TestSlowReader: a client that never reads is given up with a line in the log, and others are served meanwhile.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, quick)
		slow := h.dial()
		go func() { // it may be stopped in the middle, when the server reads no more
			for i := range 1000 {
				if _, err := fmt.Fprintf(slow, `{"jsonrpc":"2.0","method":"Test.quick","id":%d}`+"\n", i); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		c := client.New(h.dial())
		defer c.Close()
		if err := c.Call(t.Context(), "Test.quick", nil, nil); err != nil {
			t.Error(err)
		}
		<-time.After(stream.StallAfter)
		synctest.Wait()
		if log := h.log.String(); !strings.Contains(log, "the connection was given up") || !strings.Contains(log, "has read nothing for 30s") {
			t.Errorf("the log is %s", log)
		}
	})
}

// late is a framing whose peer may say that it wants events when it is gone already.
type late struct {
	*stream.Lines
	tell func(wanted bool)
}

func (l *late) OnEvents(tell func(bool)) { l.tell = tell }

// subscribed counts who wants events.
type subscribed struct {
	*tasks.Engine
	n atomic.Int64
}

func (s *subscribed) Subscribe() *tasks.Subscription {
	s.n.Add(1)
	return s.Engine.Subscribe()
}

// TestWantedTooLate: a connection that has ended gets no events, and none are made for it.
func TestWantedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &subscribed{Engine: tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Log: zerolog.Nop()})}
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		defer e.Close(context.Background())
		s := rpc.New(rpc.Options{Log: zerolog.Nop()})
		s.Feed(e)
		s.SetReady()
		serve := func(meanwhile func(*late)) *late {
			server, client := net.Pipe()
			f := &late{Lines: stream.NewLines(server, stream.MaxMessage)}
			served := make(chan struct{})
			go func() {
				s.ServeMessages(t.Context(), f, rpc.Peer{Name: "tester", Role: access.Observe})
				close(served)
			}()
			synctest.Wait()
			meanwhile(f)
			client.Close()
			<-served
			return f
		}
		serve(func(f *late) { f.tell(true) })
		if n := e.n.Load(); n != 1 {
			t.Errorf("%d want events while it is there", n)
		}
		gone := serve(func(*late) {})
		gone.tell(true)
		if n := e.n.Load(); n != 1 {
			t.Errorf("%d want events when it is gone", n-1)
		}
		gone.tell(false)
	})
}

// TestDeafListener: a client that asks for events and does not read them holds up neither tasks nor other listeners, and is given up.
func TestDeafListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
		if err := engine.Start(nil); err != nil {
			t.Fatal(err)
		}
		defer engine.Close(context.Background())
		h := newHouse(t, rpc.Methods(engine, nil)...)
		h.server.Feed(engine)
		deaf := h.dial()
		defer deaf.Close()
		io.WriteString(deaf, `{"jsonrpc":"2.0","method":"Events.subscribe","id":1}`+"\n")
		if _, err := bufio.NewReaderSize(deaf, 16).ReadByte(); err != nil {
			t.Fatal(err)
		}
		c := client.New(h.dial())
		defer c.Close()
		if err := c.Subscribe(t.Context(), "|tasks|status|*"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for range 50 {
			if err := c.Call(t.Context(), "Mock.run", map[string]any{"steps": []any{}}, nil); err != nil {
				t.Fatal(err)
			}
			for ended := false; !ended; {
				e, err := c.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				ended = strings.Contains(string(e.Params), `"state":"finished"`)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("the others were held up for %s", took)
		}
		<-time.After(2 * stream.StallAfter) // it has read some of its answer
		synctest.Wait()
		if log := h.log.String(); !strings.Contains(log, "has read nothing for 30s") {
			t.Errorf("the log is %s", log)
		}
	})
}

// TestHandleRefusesDefects: a name that is taken, or a method that does nothing.
func TestHandleRefusesDefects(t *testing.T) {
	for name, m := range map[string]rpc.Method{
		"name":     quick,
		"alias":    {Name: "Test.other", Aliases: []string{"Test.quick"}, Handle: quick.Handle},
		"no name":  {Handle: quick.Handle},
		"no doing": {Name: "Test.nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it is taken")
				}
			}()
			s := rpc.New(rpc.Options{Log: zerolog.Nop()})
			s.Handle([]rpc.Method{quick})
			s.Handle([]rpc.Method{m})
		})
	}
}

// TestBrokenListener: an error that passes is waited out, any other ends Serve.
func TestBrokenListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := rpc.New(rpc.Options{Log: zerolog.Nop()})
		l := &failing{pipes: newPipes(), errs: []error{os.NewSyscallError("accept", syscall.EMFILE), errors.New("broken")}}
		if err := s.Serve(t.Context(), l, piped{}); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("it ends with %v", err)
		}
		if len(l.errs) != 0 {
			t.Error("it ended at an error that passes")
		}
	})
}

type failing struct {
	*pipes
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

// TestOverSocket is the whole way, over a real socket: who asks is the kernel's answer, many calls at a time, large
// ones, and one that is too large.
func TestOverSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	log := &logged{}
	serveSocket(t, path, rpc.Options{Log: zerolog.New(log)},
		method("Test.who", func(_ context.Context, r *rpc.Request) (any, error) { return r.Who, nil }),
		method("Test.echo", func(_ context.Context, r *rpc.Request) (any, error) { return r.Params, nil }))
	c, err := client.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var who string
	if err := c.Call(t.Context(), "Test.who", nil, &who); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); !strings.HasSuffix(who, want) {
		t.Errorf("it is asked by %q, want %s", who, want)
	}
	if want := fmt.Sprintf(`"who":%q,"role":"admin"`, who); !strings.Contains(log.String(), want) {
		t.Errorf("the log lacks %s: %s", want, log)
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			sent := map[string]string{"n": strings.Repeat(fmt.Sprint(i, " "), 1000)}
			var got map[string]string
			if err := c.Call(t.Context(), "Test.echo", sent, &got); err != nil || got["n"] != sent["n"] {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	all.Wait()
	large := map[string]string{"n": strings.Repeat("x", 1<<20)}
	var got map[string]string
	if err := c.Call(t.Context(), "Test.echo", large, &got); err != nil || got["n"] != large["n"] {
		t.Errorf("a large call: %v", err)
	}
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	go func() {
		raw.Write(bytes.Repeat([]byte("x"), stream.MaxMessage+1))
		io.WriteString(raw, "\n"+`{"jsonrpc":"2.0","method":"Test.echo","id":1}`+"\n")
	}()
	answers := bufio.NewReader(raw)
	for _, want := range []string{"16 MiB at most", `"result":true`} {
		if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Errorf("answered %q (%v), want %s", line, err, want)
		}
	}
}

// serveSocket serves methods on a socket until the test ends.
func serveSocket(t *testing.T, path string, o rpc.Options, methods ...rpc.Method) {
	t.Helper()
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.New(o)
	s.Handle(methods)
	s.SetReady()
	ctx, end := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l, rpc.Local{Policy: access.NewPolicy()}) }()
	t.Cleanup(func() {
		end()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestIdleConnectionsAreCheap: two hundred of them, each after one call.
func TestIdleConnectionsAreCheap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	serveSocket(t, path, rpc.Options{Log: zerolog.Nop()}, quick)
	const many, each = 200, 40 << 10
	before := inUse()
	var conns []net.Conn
	for range many {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		io.WriteString(c, `{"jsonrpc":"2.0","method":"Test.quick","id":1}`+"\n")
		var answer json.RawMessage
		if err := json.NewDecoder(c).Decode(&answer); err != nil {
			t.Fatal(err)
		}
	}
	if used := inUse() - before; used > many*each {
		t.Errorf("%d connections use %d KiB each", many, used/many>>10)
	} else {
		t.Logf("%d connections use %d KiB each, with the test's own ends", many, used/many>>10)
	}
	runtime.KeepAlive(conns)
}

// inUse is the memory of heap and stacks after a collection.
func inUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}
