package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/stream"
)

func TestDialNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	if _, err := client.Dial(t.Context(), path); !errors.Is(err, client.ErrNoConnection) || !strings.Contains(err.Error(), path) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := client.Dial(t.Context(), path); !errors.Is(err, client.ErrNoConnection) {
		t.Errorf("a dead agent's socket: %v", err)
	}
	if _, err := client.Dial(t.Context(), filepath.Join(path, "s")); err == nil || errors.Is(err, client.ErrNoConnection) {
		t.Errorf("a path that cannot be: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := client.Dial(ended, path); !errors.Is(err, context.Canceled) {
		t.Errorf("a ctx that has ended: %v", err)
	}
}

// request is what the peer of a test gets.
type request struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

// agent is the other end of a client: it reads requests, and answers what a test tells it to.
type agent struct {
	net.Conn
	lines *bufio.Reader
}

func pair() (*client.Client, *agent) {
	here, there := net.Pipe()
	return client.New(here), &agent{there, bufio.NewReader(there)}
}

func (a *agent) next(t *testing.T) request {
	t.Helper()
	var r request
	line, err := a.lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil || r.JSONRPC != "2.0" || r.ID == nil {
		t.Errorf("not a request: %s (%v)", line, err)
	}
	return r
}

func (a *agent) answer(format string, args ...any) {
	fmt.Fprintf(a, format+"\n", args...)
}

func TestCallAnswers(t *testing.T) {
	cases := []struct{ name, answer, want, err string }{
		{"a result", `"result":{"a":[1,2]}`, `{"a":[1,2]}`, ""},
		{"true", `"result":true`, `true`, ""},
		{"null", `"result":null`, `null`, ""},
		{"an error", `"error":{"code":401,"message":"there is no task x"}`, ``, "there is no task x"},
		{"a large number", `"result":18446744073709551615`, `18446744073709551615`, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cl, a := pair()
			defer cl.Close()
			go func() { a.answer(`{"jsonrpc":"2.0","id":%s,%s}`, a.next(t).ID, c.answer) }()
			var got json.RawMessage
			err := cl.Call(t.Context(), "m", map[string]int{"a": 1}, &got)
			if string(got) != c.want || (c.err == "") != (err == nil) {
				t.Errorf("got %s, %v", got, err)
			}
			var refused *client.Error
			if c.err != "" && (!errors.As(err, &refused) || refused.Code != 401 || refused.Message != c.err || err.Error() != c.err) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// TestCallRequest: parameters that are nil are left out, and ids are never 0, since an answer without an id reads so.
func TestCallRequest(t *testing.T) {
	cl, a := pair()
	defer cl.Close()
	for i, c := range []struct {
		params any
		want   string
	}{{nil, ""}, {map[string]string{"a": "b"}, `{"a":"b"}`}, {[]int{1}, `[1]`}} {
		ended := make(chan error, 1)
		go func() { ended <- cl.Call(t.Context(), "Task.stop", c.params, nil) }()
		r := a.next(t)
		if r.Method != "Task.stop" || string(r.Params) != c.want || string(r.ID) != fmt.Sprint(i+1) {
			t.Errorf("sent %s(%s) with id %s", r.Method, r.Params, r.ID)
		}
		a.answer(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not for this one"}}`)
		a.answer(`{"jsonrpc":"2.0","id":%s,"result":true}`, r.ID)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := cl.Call(t.Context(), "m", make(chan int), nil); err == nil || !strings.Contains(err.Error(), "cannot be written as JSON") {
		t.Errorf("parameters that are not JSON: %v", err)
	}
	if err := cl.Call(t.Context(), "m", strings.Repeat("x", stream.MaxMessage), nil); err == nil || !strings.Contains(err.Error(), "more than the agent reads") {
		t.Errorf("parameters that are too large: %v", err)
	}
}

// TestCallsTogether: each call gets its own answer, in whatever order they come.
func TestCallsTogether(t *testing.T) {
	cl, a := pair()
	defer cl.Close()
	const many = 50
	go func() {
		var all []request
		for range many {
			all = append(all, a.next(t))
		}
		for i := range all {
			r := all[len(all)-1-i]
			a.answer(`{"jsonrpc":"2.0","id":%s,"result":%s}`, r.ID, r.Params)
		}
	}()
	var calls sync.WaitGroup
	for i := range many {
		calls.Go(func() {
			var got []int
			if err := cl.Call(t.Context(), "m", []int{i}, &got); err != nil || len(got) != 1 || got[0] != i {
				t.Errorf("call %d got %v, %v", i, got, err)
			}
		})
	}
	calls.Wait()
}

// TestConnectionLost: every call under way says so, and so does the next one.
func TestConnectionLost(t *testing.T) {
	for name, lose := range map[string]func(*client.Client, *agent){
		"by the agent":     func(_ *client.Client, a *agent) { a.Close() },
		"by this side":     func(c *client.Client, _ *agent) { c.Close() },
		"within an answer": func(_ *client.Client, a *agent) { io.WriteString(a, `{"jsonrpc":"2.0","id":1,"res`); a.Close() },
		"by nonsense":      func(_ *client.Client, a *agent) { a.answer("nonsense") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl, a := pair()
				defer cl.Close()
				defer a.Close()
				ended := make(chan error, 2)
				for range 2 {
					go func() { ended <- cl.Call(t.Context(), "m", nil, nil) }()
					a.next(t)
				}
				synctest.Wait()
				lose(cl, a)
				for range 2 {
					if err := <-ended; !errors.Is(err, client.ErrConnectionLost) {
						t.Errorf("a call under way: %v", err)
					}
				}
				if err := cl.Call(t.Context(), "m", nil, nil); !errors.Is(err, client.ErrConnectionLost) {
					t.Errorf("a call afterwards: %v", err)
				}
				if err := cl.Close(); err != nil {
					t.Errorf("a second close: %v", err)
				}
			})
		})
	}
}

// TestCallGivesUp: a call whose ctx ends leaves the connection as it is.
func TestCallGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl, a := pair()
		defer cl.Close()
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- cl.Call(ctx, "m", nil, nil) }()
		late := a.next(t)
		synctest.Wait()
		end()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go func() {
			r := a.next(t)
			a.answer(`{"jsonrpc":"2.0","id":%s,"result":"late"}`, late.ID)
			a.answer(`{"jsonrpc":"2.0","id":%s,"result":"mine"}`, r.ID)
		}()
		var got string
		if err := cl.Call(t.Context(), "m", nil, &got); err != nil || got != "mine" {
			t.Errorf("the next call got %q, %v", got, err)
		}
		var number int
		go func() { a.answer(`{"jsonrpc":"2.0","id":%s,"result":"text"}`, a.next(t).ID) }()
		if err := cl.Call(t.Context(), "m", nil, &number); err == nil || !strings.Contains(err.Error(), "its answer cannot be read") {
			t.Errorf("an answer of another kind: %v", err)
		}
	})
}
