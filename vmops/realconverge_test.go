//go:build vm

package vmops_test

import (
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// begun submits a migration and returns when libvirt has sent so many passes over the memory; the first is 1.
func (p *pair) begun(t *testing.T, passes int64, more map[string]any) string {
	t.Helper()
	wake, stop := p.at.libvirt.Watch(vmID)
	defer stop()
	task := p.at.submit("VM.migrate", p.migrate(more))
	for {
		j, err := p.at.libvirt.Job(t.Context(), vmID)
		must(t, err)
		if j.Active && j.Pass >= passes {
			return task
		}
		if v, err := p.at.Get(task); err != nil || v.State.Final() {
			t.Fatalf("the task has ended: %v, %s", err, v.Message)
		}
		select {
		case <-wake:
		case <-time.After(20 * time.Millisecond): // nobody tells of passes
		}
	}
}

func stalling(do string) map[string]any {
	return map[string]any{"convergenceSchedule": map[string]any{"stalling": []any{map[string]any{"limit": 0, "action": map[string]any{"name": do}}}}, "maxBandwidth": 8, "downtime": 1}
}

// TestRealMigrationThatNeverConverges: the guest changes its memory faster than it is sent.
func TestRealMigrationThatNeverConverges(t *testing.T) {
	p := newPair(t)
	p.guest.Dirty, p.guest.Memory = 16, 192
	p.at.create(p.guest, nil)
	p.guest.Counts(3)
	slow := map[string]any{"maxBandwidth": 8, "downtime": 1} // a guest that gets little of a busy host changes little
	recovered := func(t *testing.T, v tasks.View, before int) {
		t.Helper()
		if v.State != tasks.Recovered {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		p.there(t, v, before)
	}
	t.Run("stopped in the middle", func(t *testing.T) {
		worst := time.Duration(0)
		for n := range 20 {
			before := p.guest.Count()
			passes := int64(1)
			if n == 19 {
				passes = 3
			}
			task := p.begun(t, passes, slow)
			must(t, p.at.Stop(task, tasks.StopOptions{Who: "tester"}))
			from := time.Now()
			v := p.at.ended(task)
			worst = max(worst, time.Since(from))
			recovered(t, v, before)
		}
		t.Logf("20 migrations were cancelled; from the answer to the stop to the end: %v at worst", worst)
	})
	t.Run("cancelled by its machine", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, slow)
		_, err := p.at.call("VM.migrateCancel", map[string]any{"vmID": vmID})
		must(t, err)
		recovered(t, p.at.ended(task), before)
		if _, err := p.at.call("VM.migrateCancel", map[string]any{"vmID": vmID}); code.Of(err) != code.MigrationNotActive {
			t.Errorf("a second cancel: %v", err)
		}
	})
	t.Run("given up as its schedule says", func(t *testing.T) {
		before := p.guest.Count()
		v := p.at.ended(p.at.submit("VM.migrate", p.migrate(stalling("abort"))))
		recovered(t, v, before)
		if v.Code != code.MigrationError {
			t.Errorf("code %d: %s", v.Code, v.Message)
		}
	})
	t.Run("faster, and so to its end", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, map[string]any{"maxBandwidth": 8})
		_, err := p.at.call("VM.migrateChangeParams", map[string]any{"vmID": vmID, "params": map[string]any{"maxBandwidth": 0}})
		must(t, err)
		p.there(t, p.at.ended(task), before)
	})
	t.Run("by post-copy", func(t *testing.T) {
		before := p.guest.Count()
		v := p.at.ended(p.at.submit("VM.migrate", p.migrate(stalling("postcopy"))))
		if v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		p.there(t, v, before)
	})
	_, err := p.at.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
}

// TestRealMigrationThroughDeaths: libvirtd of either host, the guest's QEMU on the other one, and all of that host die in a migration.
func TestRealMigrationThroughDeaths(t *testing.T) {
	p := newPair(t)
	p.guest.Fill = 64
	p.at.create(p.guest, nil)
	p.guest.Counts(3)
	slow := map[string]any{"maxBandwidth": 8}
	t.Run("libvirtd of the source", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, slow)
		p.at.host.Kill()
		must(t, p.at.host.Restart())
		v := p.at.ended(task)
		t.Logf("the task ended %s: %s", v.State, v.Message)
		p.there(t, v, before)
	})
	t.Run("libvirtd of the destination", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, slow)
		p.to.host.Kill()
		must(t, p.to.host.Restart())
		v := p.at.ended(task)
		t.Logf("the task ended %s: %s", v.State, v.Message)
		p.there(t, v, before)
	})
	t.Run("the machine on the destination", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, slow)
		p.to.host.KillGuests()
		v := p.at.ended(task)
		if v.State != tasks.Recovered {
			t.Errorf("ended %s: %s", v.State, v.Message)
		}
		p.there(t, v, before)
	})
	t.Run("the destination", func(t *testing.T) {
		before := p.guest.Count()
		task := p.begun(t, 1, slow)
		p.to.silence()
		p.to.host.Kill()
		p.to.host.KillGuests()
		v := p.at.ended(task)
		p.guest.Counts(before)
		if v.State != tasks.Failed || len(v.Residue) != 1 {
			t.Errorf("ended %s: %s", v.State, v.Message)
		}
		p.at.free(t)
		must(t, p.to.host.Restart())
		p.to.serve(p.to.address)
		must(t, p.at.Revert(t.Context(), task, "tester"))
		p.there(t, p.at.ended(task), before)
	})
	_, err := p.at.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
}
