package rpc_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
)

// noted is what an observer is told, a line for each.
type noted struct {
	mu    sync.Mutex
	lines []string
}

func (n *noted) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *noted) Method(name string) func(code.Code, time.Duration) {
	return func(c code.Code, took time.Duration) { n.add("%s %d %s", name, c, took) }
}

func (n *noted) Connected(socket string) (gone func()) {
	n.add("%s connected", socket)
	return func() { n.add("%s gone", socket) }
}

func (n *noted) TurnedAway(socket string) { n.add("%s turned away", socket) }

// TestObserver: of each request, whatever becomes of it, and of each connection.
func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &noted{}
		slow := method("Test.slow", func(context.Context, *rpc.Request) (any, error) { time.Sleep(3 * time.Second); return nil, nil })
		bad := method("Test.bad", func(context.Context, *rpc.Request) (any, error) { return nil, code.Errorf(code.TaskState, "too late") })
		aliased := quick
		aliased.Aliases = []string{"quickly"}
		h := newHouseFor(t, piped{}, rpc.Options{Observer: n, Connections: 1}, slow, bad, aliased)
		c := client.New(h.dial())
		if err := c.Call(t.Context(), "quickly", nil, nil); err != nil {
			t.Error(err)
		}
		if err := c.Call(t.Context(), "Test.slow", nil, nil); err != nil {
			t.Error(err)
		}
		wantCode(t, c.Call(t.Context(), "Test.bad", nil, nil), code.TaskState, "too late")
		wantCode(t, c.Call(t.Context(), "Test.none", nil, nil), code.MethodNotFound, "")
		h.server.SetStatus("starting")
		wantCode(t, c.Call(t.Context(), "Test.slow", nil, nil), code.RecoveryInProgress, "")
		h.dial().Close()
		synctest.Wait()
		c.Close()
		synctest.Wait()
		want := []string{
			"piped connected", "Test.quick 0 0s", "Test.slow 0 3s", "Test.bad 410 0s", "unknown -32601 0s", "unknown 99 0s", "piped turned away", "piped gone",
		}
		if !slices.Equal(n.lines, want) {
			t.Errorf("it was told\n%q, want\n%q", n.lines, want)
		}
	})
}
