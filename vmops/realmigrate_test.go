//go:build vm

package vmops_test

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/certs/certstest"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/remote"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops/vmtest"

	"github.com/rs/zerolog"
)

// side is one of two hosts: a libvirtd, and an agent over it that the other one reaches by TLS.
type side struct {
	*agent
	host    *vmtest.Host
	address string
	certs   *certs.Watched
	door    net.Listener
	shut    context.CancelFunc
	served  chan error
}

// newSide makes one; its agent serves when it is opened.
func newSide(t *testing.T, h *vmtest.Host, ca *certstest.Authority, name string) *side {
	t.Helper()
	files, err := ca.Write(t.TempDir(), name, time.Hour)
	must(t, err)
	s := &side{host: h, certs: certs.New(files, zerolog.Nop())}
	must(t, s.certs.Reload())
	dial := func(ctx context.Context, address string) (*client.Client, error) {
		c, err := certs.Client(files, false)
		if err != nil {
			return nil, err
		}
		return client.DialTLS(ctx, address, c)
	}
	s.agent = (&agent{t: t, host: h, dial: dial, dir: filepath.Join(h.Dir, t.Name()), store: tasktest.NewMemStore()}).open()
	s.serve("127.0.0.1:0")
	return s
}

func (s *side) serve(address string) {
	var err error
	s.door, err = net.Listen("tcp", address)
	must(s.t, err)
	s.address = s.door.Addr().String()
	policy := access.NewPolicy()
	must(s.t, policy.AllowRemote("*", access.Operate))
	server := rpc.New(rpc.Options{Log: zerolog.Nop()})
	server.Handle(rpc.Methods(s.Engine, s.vms.Calls()))
	server.SetReady()
	ctx, shut := context.WithCancel(context.Background())
	s.shut, s.served = shut, make(chan error, 1)
	go func(l net.Listener) {
		s.served <- server.Serve(ctx, l, remote.TLS{Certificates: s.certs, Policy: policy})
	}(s.door)
}

func (s *side) silence() {
	s.shut()
	if err := <-s.served; err != nil {
		s.t.Error(err)
	}
}

func (s *side) close() {
	s.silence()
	s.agent.close()
}

// crash is an agent that dies and is started again.
func (s *side) crash() {
	s.silence()
	s.agent = s.agent.crash()
	s.serve(s.address)
}

// none fails if libvirt has the machine, or a lock of it is left.
func (s *side) none(t *testing.T) {
	t.Helper()
	if st, err := s.libvirt.State(t.Context(), vmID); code.Of(err) != code.NoSuchVM {
		t.Errorf("there is the machine still: %v, %v", st, err)
	}
	s.free(t)
}

func (s *side) free(t *testing.T) {
	t.Helper()
	release, err := s.Hold("the test", []tasks.Lock{{Key: "vm/" + vmID, Exclusive: true}})
	if err != nil {
		t.Error(err)
		return
	}
	release()
}

// pair is a guest on one of two hosts.
type pair struct {
	at, to *side
	guest  *vmtest.Guest
}

func newPair(t *testing.T) *pair {
	t.Helper()
	far, err := vmtest.Start("second")
	must(t, err)
	t.Cleanup(far.End)
	ca, err := certstest.NewAuthority("hosts")
	must(t, err)
	p := &pair{newSide(t, libvirtd, ca, "first"), newSide(t, far, ca, "second"), libvirtd.Guest(t, vmID)}
	t.Cleanup(func() {
		p.at.close()
		p.to.close()
	})
	return p
}

// migrate are the parameters of VM.migrate to the other host.
func (p *pair) migrate(more map[string]any) map[string]any {
	params := map[string]any{"dst": p.to.address, "libvirtUri": "qemu+unix:///system?socket=" + p.to.host.Socket}
	for k, v := range more {
		params[k] = v
	}
	return map[string]any{"vmID": vmID, "params": params}
}

// there holds what a task ended as against where the machine is; when it has gone, the sides change places, and it comes back the same way.
func (p *pair) there(t *testing.T, v tasks.View, before int) {
	t.Helper()
	if v.State == tasks.Finished {
		p.at, p.to = p.to, p.at
	} else if v.State != tasks.Recovered {
		t.Fatalf("the task ended %s: %s (%v)", v.State, v.Message, v.Residue)
	}
	p.to.none(t)
	p.at.free(t)
	if s := p.at.stats(); s.Status != "Up" {
		t.Errorf("the machine is %q", s.Status)
	}
	if j, err := p.at.libvirt.Job(t.Context(), vmID); err != nil || j.Active {
		t.Errorf("libvirt's job: %v, %v", j, err)
	}
	p.guest.Counts(before)
	if t.Failed() {
		t.FailNow()
	}
}

// TestRealMigration: one guest goes to and fro between two hosts; it must never begin anew.
func TestRealMigration(t *testing.T) {
	p := newPair(t)
	p.at.create(p.guest, nil)
	p.guest.Counts(3)
	t.Run("to the end", func(t *testing.T) {
		for range 2 {
			before := p.guest.Count()
			v := p.at.ended(p.at.submit("VM.migrate", p.migrate(nil)))
			if v.State != tasks.Finished {
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
			from := p.at
			p.there(t, v, before)
			if s := from.stats(); s.Status != "Down" || s.ExitReason == nil || *s.ExitReason != 4 {
				t.Errorf("on the host that it has left the machine is %+v", s)
			}
			_, err := from.call("VM.destroy", map[string]any{"vmID": vmID})
			must(t, err)
		}
	})
	t.Run("stopped at every record", func(t *testing.T) {
		for n := int64(1); ; n++ {
			before := p.guest.Count()
			answer, id := make(chan error, 1), make(chan string, 1)
			var once sync.Once
			at := p.at
			count := at.atCommit(n, func() error {
				once.Do(func() { go func() { answer <- at.Stop(<-id, tasks.StopOptions{Who: "tester"}) }() })
				return nil
			})
			task := at.submit("VM.migrate", p.migrate(nil))
			id <- task
			v := at.ended(task)
			all := count.Load()
			at.atCommit(1<<40, nil)
			if all >= n {
				at.judge(t, n, <-answer, v)
			}
			p.there(t, v, before)
			if all < n {
				break
			}
		}
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		for n, over := int64(2), false; !over; n++ {
			before := p.guest.Count()
			dead := make(chan struct{})
			var once sync.Once
			count := p.at.atCommit(n, func() error {
				once.Do(func() { close(dead) })
				return store.ErrUnavailable
			})
			task := p.at.submit("VM.migrate", p.migrate(nil))
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = p.at.Wait(t.Context(), task, tasks.Ended)
			}()
			select {
			case <-dead:
			case <-ended:
			}
			over = count.Load() < n
			p.at.crash()
			v := p.at.ended(task)
			if v.State != tasks.Finished {
				t.Fatalf("died at record %d: ended %s: %s", n, v.State, v.Message)
			}
			p.there(t, v, before)
		}
	})
	_, err := p.at.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
}
