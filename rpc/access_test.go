package rpc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/stream"
)

// as is the transport of pipes for a peer with a role.
type as struct{ role access.Role }

func (as) Name() string { return "as" }

func (a as) Open(_ context.Context, conn net.Conn) (stream.Framing, rpc.Peer, error) {
	return stream.NewLines(conn, stream.MaxMessage), rpc.Peer{Name: "alice (pid 7)", Role: a.role}, nil
}

// TestRoles: a method is done for who has its role or a higher one; anybody else is refused before the parameters are looked at,
// and the log says who wanted what.
func TestRoles(t *testing.T) {
	roles := []access.Role{access.None, access.Observe, access.Operate, access.Admin}
	for _, has := range roles {
		for _, needs := range roles[1:] {
			t.Run(fmt.Sprintf("%s asks for what needs %s", has, needs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					done := false
					m := method("Test.do", func(context.Context, *rpc.Request) (any, error) {
						done = true
						return nil, nil
					})
					m.Role = needs
					h := newHouseFor(t, as{has}, rpc.Options{}, m)
					c := client.New(h.dial())
					defer c.Close()
					err := c.Call(t.Context(), "Test.do", nil, nil)
					if has >= needs {
						if err != nil || !done {
							t.Errorf("it is refused: %v", err)
						}
						return
					}
					wantCode(t, err, code.NotAllowed, fmt.Sprintf("Test.do needs the role %s, and alice (pid 7) has %s", needs, has))
					for _, want := range []string{`"who":"alice (pid 7)"`, `"method":"Test.do"`, "refused"} {
						if !strings.Contains(h.log.String(), want) {
							t.Errorf("the log lacks %s: %s", want, h.log)
						}
					}
					if done {
						t.Error("it was done all the same")
					}
				})
			})
		}
	}
}

// TestTooManyConnections: one more than may be is closed at once, and there is room again when another ends.
func TestTooManyConnections(t *testing.T) {
	for name, o := range map[string]rpc.Options{"in all": {Connections: 2}, "from one address": {PerAddress: 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouseFor(t, piped{}, o, quick)
				one, two := client.New(h.dial()), client.New(h.dial())
				defer two.Close()
				for range 3 {
					raw := h.dial()
					if _, err := raw.Read(make([]byte, 1)); err != io.EOF {
						t.Errorf("a third one is taken: %v", err)
					}
				}
				if n := strings.Count(h.log.String(), "too many connections"); n != 1 {
					t.Errorf("the log says it %d times: %s", n, h.log)
				}
				one.Close()
				synctest.Wait()
				three := client.New(h.dial())
				defer three.Close()
				for _, c := range []*client.Client{two, three} {
					if err := c.Call(t.Context(), "Test.quick", nil, nil); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}
