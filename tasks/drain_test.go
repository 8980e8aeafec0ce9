package tasks_test

import (
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest/mock"
)

// TestDrain: a drained engine refuses new tasks and nothing else, until it is undrained or starts again.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p := steps(mock.Knobs{Name: "a", Pace: time.Minute})
		id := b.submit(p)
		done := b.submit(steps(mock.Knobs{Name: "b"}))
		b.ended(done)
		if err := b.Drain(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		if err := b.Drain(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		if d := b.Queue().Drained; d == nil || d.Who != "alice" {
			t.Errorf("it says that it is drained by %+v, want alice", d)
		}
		_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, p)})
		wantCode(t, err, code.AddTask, "drained by alice")
		if again, err := b.Submit(t.Context(), tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, p)}); err != nil || again != id {
			t.Errorf("a repeated submit answers %q, %v", again, err)
		}
		if err := b.Revert(t.Context(), done, "alice"); err != nil {
			t.Error(err)
		}
		b.ended(done)
		b.stopTask(id)
		b.expect(b.ended(id), tasks.Recovered, code.TaskAborted)
		b.Undrain("alice")
		b.ended(b.submit(steps(mock.Knobs{Name: "c"})))
		if b.Queue().Drained != nil {
			t.Error("it still says that it is drained")
		}
		if err := b.Drain(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		b = b.restart()
		b.ended(b.submit(steps(mock.Knobs{Name: "d"})))
	})
}

// TestDrainMeetsSubmit: when Drain returns, a task whose submit was being recorded is known.
func TestDrainMeetsSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		recorded := make(chan struct{})
		b.store.OnCommit = func(store.Change) error { <-recorded; return nil }
		submitted, drained := make(chan string, 1), make(chan int, 1)
		go func() {
			id, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "a"}))})
			if err != nil {
				t.Error(err)
			}
			submitted <- id
		}()
		synctest.Wait()
		go func() {
			if err := b.Drain(t.Context(), "alice"); err != nil {
				t.Error(err)
			}
			drained <- len(b.List(tasks.Filter{}))
		}()
		synctest.Wait()
		if len(drained) > 0 {
			t.Error("it is drained while a submit is being recorded")
		}
		_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "a"}))})
		wantCode(t, err, code.AddTask, "drained by alice")
		close(recorded)
		if n := <-drained; n != 1 {
			t.Errorf("%d tasks are known when it is drained, want 1", n)
		}
		b.ended(<-submitted)
	})
}

// TestTune: what is tuned while the engine works holds from then on.
func TestTune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		holder := b.submit(busy(time.Hour, "x"))
		synctest.Wait()
		b.Tune(tasks.Tuning{LockWait: time.Minute})
		v := b.ended(b.submit(busy(time.Second, "x")))
		if v.State != tasks.Recovered || v.Code != code.ResourceTimeout {
			t.Errorf("the task is %s (%d): %s", v.State, v.Code, v.Message)
		}
		b.Tune(tasks.Tuning{})
		waiter := b.submit(busy(time.Second, "x"))
		time.Sleep(10 * time.Minute)
		b.wantStates([]string{waiter}, queued)
		b.stopTask(holder)
		b.ended(waiter)
	})
}

// TestRefuse: an engine that refuses new tasks takes those that are a part of one that there is, whether it is drained besides or not says it too.
func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		more := tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "a"}))}
		part := more
		part.Part = true
		b.Refuse(tasks.Drain{Who: "alice", Since: time.Now()})
		_, err := b.Submit(t.Context(), more)
		wantCode(t, err, code.AddTask, "maintenance, or goes into it, by alice")
		if d := b.Queue().Drained; d == nil || d.Who != "alice" {
			t.Errorf("it says that it is drained by %+v, want alice", d)
		}
		id, err := b.Submit(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		b.ended(id)
		if err := b.Drain(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		_, err = b.Submit(t.Context(), part)
		wantCode(t, err, code.AddTask, "drained by bob")
		b.Undrain("bob")
		_, err = b.Submit(t.Context(), more)
		wantCode(t, err, code.AddTask, "by alice")
		b.Accept()
		if id, err = b.Submit(t.Context(), more); err != nil {
			t.Fatal(err)
		}
		b.ended(id)
	})
}
