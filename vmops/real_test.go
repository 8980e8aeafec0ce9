//go:build vm

package vmops_test

import (
	"sync"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

func hibernateParams() map[string]any {
	return map[string]any{"vmID": vmID, "hibernationVolHandle": saved}
}

// TestRealHibernation: a guest is saved, and resumed where it was; stopped at every record; the agent dies at every record; libvirtd is
// killed in the middle. It is one guest all the time: it must never start to count anew.
func TestRealHibernation(t *testing.T) {
	a := newAgent(t)
	defer func() { a.close() }()
	g := libvirtd.Guest(t, vmID)
	a.create(g, nil)
	g.Counts(3)
	resume := func() {
		t.Helper()
		before := g.Count()
		a.create(g, map[string]any{"hiberVolHandle": saved})
		g.Counts(before)
		must(t, a.empty())
	}
	t.Run("to the end", func(t *testing.T) {
		v := a.ended(a.submit("VM.hibernate", hibernateParams()))
		if v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		if s := a.stats(); s.Status != "Down" || s.ExitReason == nil || *s.ExitReason != 5 {
			t.Errorf("the machine is %+v", s)
		}
		resume()
	})
	t.Run("stopped at every record", func(t *testing.T) {
		for n := int64(1); ; n++ {
			before := g.Count()
			answer := make(chan error, 1)
			id := make(chan string, 1)
			var once sync.Once
			count := a.atCommit(n, func() error {
				once.Do(func() { go func() { answer <- a.Stop(<-id, tasks.StopOptions{Who: "tester"}) }() })
				return nil
			})
			task := a.submit("VM.hibernate", hibernateParams())
			id <- task
			v := a.ended(task)
			all := count.Load()
			a.atCommit(1<<40, nil)
			if all < n {
				if v.State == tasks.Finished {
					resume()
				}
				break
			}
			err := <-answer
			a.judge(t, n, err, v)
			if v.State == tasks.Finished {
				resume()
				continue
			}
			a.untouched()
			g.Counts(before)
			if t.Failed() {
				t.Fatalf("stopped behind record %d", n)
			}
		}
	})
	t.Run("stopped in the middle", func(t *testing.T) {
		worst, cancelled := time.Duration(0), 0
		for range 20 {
			before := g.Count()
			task := a.submit("VM.hibernate", hibernateParams())
			for {
				if j, err := a.libvirt.Job(t.Context(), vmID); err != nil || j.Active {
					break
				}
			}
			err := a.Stop(task, tasks.StopOptions{Who: "tester"})
			from := time.Now()
			v := a.ended(task)
			worst = max(worst, time.Since(from))
			a.judge(t, 0, err, v)
			if v.State == tasks.Finished {
				resume()
				continue
			}
			cancelled++
			a.untouched()
			g.Counts(before)
		}
		t.Logf("%d of 20 saves were cancelled; from the answer to the stop to the end: %v at worst", cancelled, worst)
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		for n := int64(2); ; n++ {
			dead := make(chan struct{})
			var once sync.Once
			count := a.atCommit(n, func() error {
				once.Do(func() { close(dead) })
				return store.ErrUnavailable
			})
			task := a.submit("VM.hibernate", hibernateParams())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = a.Wait(t.Context(), task, tasks.Ended)
			}()
			select {
			case <-dead:
			case <-ended:
			}
			over := count.Load() < n
			a = a.crash()
			if v := a.ended(task); v.State != tasks.Finished {
				t.Fatalf("died at record %d: ended %s: %s", n, v.State, v.Message)
			}
			resume()
			if over {
				return
			}
		}
	})
	t.Run("libvirtd is killed", func(t *testing.T) {
		for range 3 {
			before := g.Count()
			task := a.submit("VM.hibernate", hibernateParams())
			for {
				if j, err := a.libvirt.Job(t.Context(), vmID); err != nil || j.Active {
					break
				}
			}
			libvirtd.Kill()
			must(t, libvirtd.Restart())
			v := a.ended(task)
			t.Logf("when libvirtd was killed the task ended %s: %s", v.State, v.Message)
			switch v.State {
			case tasks.Finished:
				resume()
			case tasks.Recovered: // QEMU may have answered libvirtd with an error when it came back
				a.untouched()
				g.Counts(before)
			default:
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
		}
	})
	_, err := a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
	if _, err := a.call("VM.getStats", map[string]any{"vmID": vmID}); code.Of(err) != code.NoSuchVM {
		t.Errorf("when it is destroyed: %v", err)
	}
	if n := g.OnDisk(); n == 0 {
		t.Error("the guest has written nothing to its disk")
	}
}

// judge holds what a stop was answered against what became true.
func (a *agent) judge(t *testing.T, n int64, answer error, v tasks.View) {
	t.Helper()
	switch {
	case answer == nil && v.State == tasks.Finished && v.StopLost: // libvirt had saved it
	case code.Of(answer) == code.UnknownTask: // the submit was not answered yet
	case answer != nil && (code.Of(answer) != code.TaskState || v.State != tasks.Finished):
		t.Errorf("record %d: the stop answered %v, the task ended %s: %s", n, answer, v.State, v.Message)
	case answer == nil && v.State != tasks.Recovered:
		t.Errorf("record %d: the stop was taken, the task ended %s: %s", n, v.State, v.Message)
	}
}

// empty makes the volumes as they were, as an engine does that makes new ones for each save.
func (a *agent) empty() error {
	d, err := a.domains.Get(sd)
	if err != nil {
		return err
	}
	if err := d.ReplaceContents(imgMem, volMem, nil, shapeMem); err != nil {
		return err
	}
	return d.ReplaceContents(imgCnf, volCnf, nil, shapeCnf)
}
