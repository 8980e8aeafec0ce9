package tasks_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
)

// TestRestartKeepsTheQueue: after a restart the task that was at work has its locks, and those that wait for them come in the
// order of their submits.
func TestRestartKeepsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var ids []string
		for _, name := range []string{"first", "second", "third"} {
			p := steps(mock.Knobs{Name: name, Slices: 2, Pace: time.Second})
			p.Locks = []string{"image/1"}
			ids = append(ids, b.submit(p))
			<-time.After(time.Millisecond)
		}
		b.stop()
		b = b.start(nil)
		synctest.Wait()
		for i, id := range ids {
			if v := b.view(id); i > 0 && (v.State != tasks.Queued || !slices.Contains(v.WaitsBehind, ids[i-1])) {
				t.Errorf("task %d is %s behind %v, want it behind %s", i+1, v.State, v.WaitsBehind, ids[i-1])
			}
		}
		var ended []time.Time
		for _, id := range ids {
			ended = append(ended, b.ended(id).Ended)
		}
		if !slices.IsSortedFunc(ended, time.Time.Compare) {
			t.Errorf("they ended at %v", ended)
		}
	})
}

// TestRestartWithOnePaused: after a restart a paused task has its locks and no slot, so that others run.
func TestRestartWithOnePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, store: tasktest.NewMemStore(), world: mock.NewWorld()}
		start := func() {
			b.Engine = tasks.New(tasks.Options{
				Store: b.store, Verbs: mock.Verbs(b.world), Log: zerolog.Nop(), Limits: map[tasks.Class]int{tasks.ClassCopy: 1},
			})
			if err := b.Start(nil); err != nil {
				t.Fatal(err)
			}
		}
		start()
		copying := func(name string) mock.Params {
			p := steps(mock.Knobs{Name: name, Slices: 3, Pace: time.Second})
			p.Locks = []string{"image/" + name}
			return p
		}
		paused := b.submit(copying("paused"))
		<-time.After(1500 * time.Millisecond)
		if err := b.Pause(paused, "tester"); err != nil {
			t.Fatal(err)
		}
		running := b.submit(copying("running"))
		<-time.After(1500 * time.Millisecond)
		if v := b.view(running); v.State != tasks.Running {
			t.Errorf("with one task paused another is %s", v.State)
		}
		b.stop()
		start()
		waiting := b.submit(copying("waiting"))
		for _, id := range []string{running, waiting} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if v, err := b.Wait(ctx, id, tasks.Ended); err != nil {
				t.Errorf("with one task paused another is %s: %v", v.State, err)
			}
		}
		if err := b.Resume(paused, "tester"); err != nil {
			t.Fatal(err)
		}
		b.ended(paused)
		b.stop()
	})
}

// TestSubmitOfUnknownFate: the client was told that it is not known whether its submit was recorded, and never asks again. It was,
// so the task runs.
func TestSubmitOfUnknownFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.onCommit(func(store.Change) error { return tasktest.ErrApplied })
		id := "11111111-2222-4333-8444-555555555555"
		_, err := b.Submit(t.Context(), tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "a"}))})
		wantCode(t, err, code.TaskPersist, id)
		b.onCommit(nil)
		<-time.After(time.Minute)
		b.expect(b.view(id), tasks.Finished, 0, "a")
	})
}

// TestForce: a forced stop sends SIGKILL at once.
func TestForce(t *testing.T) {
	for _, before := range []bool{true, false} { // a stop without force came before
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			id := b.submit(steps(mock.Knobs{Name: "write", Worker: mock.Stubborn}))
			synctest.Wait()
			if before {
				if err := b.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Stop(id, tasks.StopOptions{Who: "tester", Force: true}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if v, err := b.Wait(ctx, id, tasks.Ended); err != nil {
				t.Errorf("a second after a forced stop the task is %s: %v", v.State, err)
				b.ended(id)
			}
		})
	}
}

// TestClearedBeforeItsEndIsKnown: the task does not know yet that its end was recorded when a client finds out, and clears it.
func TestClearedBeforeItsEndIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.store.OnCommit = func(c store.Change) error {
			if len(c.Put) == 1 && c.Put[0].State == string(tasks.Failed) {
				return tasktest.ErrApplied
			}
			return nil
		}
		id := b.submit(steps(mock.Knobs{Name: "a", PointOfNoReturn: true, FailAt: 1, Permanent: true}))
		synctest.Wait()
		if err := b.Clear(id, "tester"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if list := b.List(tasks.Filter{}); len(list) != 0 {
			t.Errorf("tasks left: %+v", list)
		}
		b.stop() // so it rests
	})
}
