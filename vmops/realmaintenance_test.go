//go:build vm

package vmops_test

import (
	"net"
	"strconv"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/vmtest"
)

const otherID = "eeeeeeee-0000-4000-8000-000000000002"

// TestRealMaintenance: two guests leave a host; the way into maintenance is stopped, and the agent dies in it.
func TestRealMaintenance(t *testing.T) {
	p := newPair(t)
	guests := map[string]*vmtest.Guest{vmID: p.guest, otherID: p.at.host.Guest(t, otherID)}
	for _, g := range guests {
		g.Fill = 16 // so that there is time
		p.at.create(g, nil)
	}
	enter := func() string {
		host, port, err := net.SplitHostPort(p.to.address)
		must(t, err)
		n, err := strconv.Atoi(port)
		must(t, err)
		return p.at.submit("Host.enterMaintenance", map[string]any{
			"destinations": []map[string]any{{"host": host, "port": n, "libvirtUri": "qemu+unix:///system?socket=" + p.to.host.Socket}},
		})
	}
	counts := func() map[string]int {
		out := map[string]int{}
		for id, g := range guests {
			out[id] = g.Count()
		}
		return out
	}
	on := func(s *side) int {
		v, err := s.call("Host.getVMList", map[string]any{"onlyUUID": false})
		must(t, err)
		n := 0
		for id := range guests {
			if st, err := s.libvirt.State(t.Context(), id); err == nil && st.Alive() {
				n++
			} else if err != nil && code.Of(err) != code.NoSuchVM {
				t.Fatal(err, v)
			}
		}
		return n
	}
	moving := func() {
		for {
			for id := range guests {
				if j, err := p.at.libvirt.Job(t.Context(), id); err != nil || j.Active {
					return
				}
			}
		}
	}
	all := func(t *testing.T, before map[string]int) {
		t.Helper()
		for id, g := range guests {
			g.Counts(before[id])
		}
		if a, b := on(p.at), on(p.to); a+b != 2 {
			t.Fatalf("%d machines are on the one host and %d on the other", a, b)
		}
		for _, s := range p.at.List(tasks.Filter{}) {
			if !s.State.Final() {
				t.Errorf("task %s (%s) is %s", s.ID, s.Verb, s.State)
			}
		}
	}
	t.Run("stopped", func(t *testing.T) {
		before := counts()
		task := enter()
		moving()
		must(t, p.at.Stop(task, tasks.StopOptions{Who: "tester"}))
		v := p.at.ended(task)
		if v.State != tasks.Recovered || (on(p.to) == 0) != (len(v.Remainder) == 0) {
			t.Errorf("ended %s: %s (%v), and %d machines have left", v.State, v.Message, v.Remainder, on(p.to))
		}
		all(t, before)
	})
	t.Run("through the death of the agent, to the end", func(t *testing.T) {
		before := counts()
		task := enter()
		moving()
		p.at.crash()
		if v := p.at.ended(task); v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		all(t, before)
		if n := on(p.at); n != 0 {
			t.Errorf("%d machines are left", n)
		}
		p.at.crash()
		_, err := p.at.call("VM.create", map[string]any{"vmID": vmID, "vmParams": map[string]any{"xml": p.guest.XML()}})
		if code.Of(err) != code.ResourceUnavailable {
			t.Errorf("a machine starts: %v", err)
		}
		_, err = p.at.call("Host.leaveMaintenance", nil)
		must(t, err)
	})
	t.Run("and back", func(t *testing.T) {
		before := counts()
		p.at, p.to = p.to, p.at
		if v := p.at.ended(enter()); v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		all(t, before)
		p.at, p.to = p.to, p.at
	})
	for id := range guests {
		_, err := p.at.call("VM.destroy", map[string]any{"vmID": id})
		must(t, err)
	}
}
