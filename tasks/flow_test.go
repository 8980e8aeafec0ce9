package tasks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"
)

// inFlow submits a task of flow f1.
func (b *bench) inFlow(p mock.Params) string {
	b.t.Helper()
	return b.submitAs(tasks.Submission{Verb: "Mock.run", Params: encode(b.t, p), Who: "tester", Flow: "f1"})
}

// cancel cancels flow f1 and returns what became of its tasks, by id.
func (b *bench) cancel(revert bool) map[string]tasks.FlowChange {
	b.t.Helper()
	changes, err := b.CancelFlow(b.t.Context(), "f1", "tester", revert)
	if err != nil {
		b.t.Fatal(err)
	}
	byID := map[string]tasks.FlowChange{}
	for _, c := range changes {
		byID[c.ID] = c
	}
	return byID
}

// order lists what was undone, in its order, without the tasks' ids.
func (b *bench) undone() []string {
	var out []string
	for _, e := range b.world.Events() {
		if undo, ok := strings.CutPrefix(e, "undo "); ok {
			out = append(out, undo[strings.Index(undo, "/")+1:])
		}
	}
	return out
}

// lateCases are tasks that cannot be stopped any more when they are cancelled after a second, and finish within an hour.
var lateCases = map[string]struct {
	params   mock.Params
	stopLost bool
}{
	"committing":        {steps(mock.Knobs{Name: "a"}, mock.Knobs{Name: "b", PointOfNoReturn: true, Pace: time.Minute}), false},
	"the stop is lost":  {steps(mock.Knobs{Name: "b", Pace: time.Hour, DecidedBy: "libvirt", Finished: true}), true},
	"lost, and then on": {steps(mock.Knobs{Name: "b", Pace: time.Hour, DecidedBy: "libvirt", Finished: true}, mock.Knobs{Name: "c", Pace: time.Minute}), true},
}

// TestRevertAtEnd: a task of a cancelled flow that cannot be stopped any more is reverted when it has finished, whatever happens
// in between.
func TestRevertAtEnd(t *testing.T) {
	between := map[string]func(b *bench) *bench{
		"":              func(b *bench) *bench { return b },
		"then restart":  func(b *bench) *bench { return b.restart() },
		"twice":         func(b *bench) *bench { b.cancel(true); return b },
		"then a cancel": func(b *bench) *bench { b.cancel(false); return b }, // the revert is not taken back
		"store trouble": func(b *bench) *bench {
			var left atomic.Int64
			left.Store(100)
			b.onCommit(func(store.Change) error {
				if n := left.Add(-1); n > 0 {
					return []error{store.ErrUnavailable, store.ErrUnknown, tasktest.ErrApplied}[n%3]
				}
				return nil
			})
			return b
		},
	}
	for name, c := range lateCases {
		for what, meanwhile := range between {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					id := b.inFlow(c.params)
					<-time.After(time.Second)
					change := b.cancel(true)[id]
					if change.Err != nil || change.Before.Final() || change.Before == tasks.Queued {
						t.Errorf("the cancel answered %+v", change)
					}
					if v := b.view(id); v.RevertAtEnd == nil && v.RevertAsked == nil {
						t.Error("nothing says that it is to be reverted, or is")
					}
					b = meanwhile(b)
					<-time.After(3 * time.Hour)
					v := b.view(id)
					b.expect(v, tasks.Recovered, 0)
					if !strings.Contains(v.Message, "reverted by tester") || v.StopLost != c.stopLost {
						t.Errorf("message %q, stop lost %v", v.Message, v.StopLost)
					}
				})
			})
		}
	}
}

// TestRevertAtEndOfAStopped: its stop was recorded before the cancel, and is lost after it.
func TestRevertAtEndOfAStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		libvirt := make(chan struct{})
		b := newBench(t, func(o *tasks.Options) {
			run := *o.Verbs[0]
			plan := run.Plan
			run.Plan = func(id string, params json.RawMessage) (*tasks.Plan, error) {
				p, err := plan(id, params)
				do := p.Steps[0].Do
				p.Steps[0].Do = func(ctx context.Context, s *tasks.Scope) error {
					err := do(ctx, s)
					<-libvirt
					return err
				}
				return p, err
			}
			o.Verbs[0] = &run
		})
		id := b.inFlow(lateCases["the stop is lost"].params)
		<-time.After(time.Second)
		b.stopTask(id)
		for range 2 {
			if c := b.cancel(true)[id]; c.Err != nil || c.Before != tasks.Aborting || b.view(id).RevertAtEnd == nil {
				t.Errorf("the cancel answered %+v", c)
			}
		}
		close(libvirt)
		synctest.Wait()
		b.expect(b.view(id), tasks.Recovered, 0)
	})
}

// TestRevertAtEndOverACrash: the agent dies between the finish and the revert, or with the revert asked for and not begun.
func TestRevertAtEndOverACrash(t *testing.T) {
	for _, state := range []tasks.State{tasks.Finished, tasks.Queued, tasks.Recovering, tasks.Recovered} {
		for _, kept := range []bool{false, true} {
			t.Run(fmt.Sprintf("as %s is recorded, kept %v", state, kept), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					id := b.inFlow(lateCases["committing"].params)
					<-time.After(time.Second)
					at, on := make(chan struct{}), make(chan struct{})
					var once sync.Once
					b.onCommit(func(c store.Change) error {
						if len(c.Put) > 0 && c.Put[0].State == string(state) {
							once.Do(func() { close(at); <-on })
						}
						return nil
					})
					if err := b.cancel(true)[id].Err; err != nil {
						t.Fatal(err)
					}
					<-at
					crashed := b.store.Crash(func() bool { return kept })
					dead := b
					b = (&bench{t: t, store: crashed, world: b.world.Crash(func() bool { return kept })}).start(nil)
					if err := dead.store.Close(); err != nil {
						t.Fatal(err)
					}
					close(on)
					<-time.After(time.Hour)
					b.expect(b.view(id), tasks.Recovered, 0)
				})
			})
		}
	}
}

// TestRevertAtEndRefused: a result that is in use stays, and the task says so, once.
func TestRevertAtEndRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.inFlow(lateCases["committing"].params)
		<-time.After(time.Second)
		b.cancel(true)
		b.world.Use(id)
		b.ended(id)
		synctest.Wait()
		want := "finished; not reverted: the result is in use"
		check := func() {
			t.Helper()
			v := b.view(id)
			b.expect(v, tasks.Finished, 0, "a", "b")
			if v.Message != want || v.RevertAtEnd != nil || !v.Revertible {
				t.Errorf("message %q, to be reverted %+v, revertible %v", v.Message, v.RevertAtEnd, v.Revertible)
			}
		}
		check()
		b = b.restart()
		synctest.Wait()
		check()
	})
}

// TestNotRevertibleAtEnd: a verb that cannot be reverted is not, and the cancel says why the task could not be stopped.
func TestNotRevertibleAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(o *tasks.Options) { o.Verbs[0].Contract.Revert = "" })
		id := b.inFlow(lateCases["committing"].params)
		done := b.inFlow(steps(mock.Knobs{Name: "done"}))
		b.ended(done)
		<-time.After(time.Second)
		changes := b.cancel(true)
		wantCode(t, changes[id].Err, code.TaskState, "point of no return (step b)")
		wantCode(t, changes[done].Err, code.NotRevertible, "cannot be reverted")
		if v := b.ended(id); v.State != tasks.Finished || v.RevertAtEnd != nil {
			t.Errorf("it is %s, to be reverted %+v", v.State, v.RevertAtEnd)
		}
	})
}

// TestCancelOfASharedLock: all tasks of a flow use the same image, as those of one engine action do. The cancel stops the one at work, then
// reverts the finished ones, the last first.
func TestCancelOfASharedLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		on := func(name string, k mock.Knobs) mock.Params {
			k.Name = name
			p := steps(k)
			p.Locks = []string{"image/1"}
			return p
		}
		var ids []string
		for _, name := range []string{"first", "second", "third"} {
			id := b.inFlow(on(name, mock.Knobs{}))
			b.ended(id)
			ids = append(ids, id)
			<-time.After(time.Second)
		}
		ids = append(ids, b.inFlow(on("at work", mock.Knobs{IgnoresStop: true, Pace: 5 * time.Second})), b.inFlow(on("waiting", mock.Knobs{})))
		synctest.Wait()
		for id, c := range b.cancel(true) {
			if c.Err != nil {
				t.Errorf("task %s, %s before: %v", id, c.Before, c.Err)
			}
		}
		for _, id := range ids {
			if v := b.ended(id); v.State != tasks.Recovered {
				t.Errorf("it is %s: %s", v.State, v.Message)
			}
		}
		if got, want := b.undone(), []string{"at work", "third", "second", "first"}; !slices.Equal(got, want) {
			t.Errorf("undone were %q, want %q", got, want)
		}
	})
}

// TestCancelStopsThoseThatWaitFirst: none of them begins because another task of the flow was stopped before it.
func TestCancelStopsThoseThatWaitFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		on := func(lock string) mock.Params {
			p := steps(mock.Knobs{Name: "a", Pace: time.Hour})
			p.Locks = []string{lock}
			return p
		}
		b.submit(on("image/1"))
		var ids []string
		for _, lock := range []string{"image/2", "image/1", "image/2", "image/1"} {
			<-time.After(time.Millisecond)
			ids = append(ids, b.inFlow(on(lock)))
		}
		waits := ids[2]
		synctest.Wait()
		b.onCommit(func(c store.Change) error {
			if len(c.Put) > 0 && (c.Put[0].ID == ids[1] || c.Put[0].ID == ids[3]) {
				<-time.After(time.Second) // the locks of those that were stopped before it are free by then
			}
			return nil
		})
		b.cancel(false)
		if v := b.ended(waits); v.State != tasks.Recovered || !v.Started.IsZero() {
			t.Errorf("it is %s, and has started at %s: %s", v.State, v.Started, v.Message)
		}
	})
}

// TestCancelBehindAStuck: the cancel does not wait for ever for a task that does not end; what is behind it says who is in the way.
func TestCancelBehindAStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p := steps(mock.Knobs{Name: "done"})
		p.Locks = []string{"image/1"}
		var ids []string
		for range 3 {
			id := b.inFlow(p)
			b.ended(id)
			ids = append(ids, id)
		}
		p.Steps = []mock.Knobs{{Name: "hangs", Worker: mock.Immortal}}
		stuck := b.inFlow(p)
		synctest.Wait()
		start := time.Now()
		changes := b.cancel(true)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the cancel took %s", took)
		}
		for _, id := range ids {
			wantCode(t, changes[id].Err, code.TaskState, stuck)
		}
		b.world.Release()
		b.ended(stuck)
		for id, c := range b.cancel(true) { // again
			if c.Err != nil {
				t.Errorf("task %s, %s before: %v", id, c.Before, c.Err)
			}
			b.ended(id)
		}
		b.expect(b.view(ids[0]), tasks.Recovered, 0)
	})
}

// TestSubmitRacesCancel: a submit that is being recorded while its flow is cancelled is waited for and stopped; one that comes after the
// fence is refused, also before the fence is on stable storage.
func TestSubmitRacesCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		submits, fences := make(chan struct{}), make(chan struct{})
		b.onCommit(func(c store.Change) error {
			if len(c.Fence) > 0 {
				<-fences
			} else if c.Put[0].State == string(tasks.Queued) {
				<-submits
			}
			return nil
		})
		submit := func(id string) chan error {
			answer := make(chan error, 1)
			go func() {
				_, err := b.Submit(t.Context(), tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, steps(slow)), Flow: "f1"})
				answer <- err
			}()
			synctest.Wait()
			return answer
		}
		early := submit("early")
		var changes []tasks.FlowChange
		var cancelled atomic.Bool
		go func() {
			changes, _ = b.CancelFlow(t.Context(), "f1", "tester", false)
			cancelled.Store(true)
		}()
		synctest.Wait()
		wantCode(t, <-submit("late"), code.FlowCancelled, "f1 was cancelled by tester")
		close(fences)
		synctest.Wait()
		if cancelled.Load() {
			t.Error("the cancel was answered although a submit is on its way")
		}
		close(submits)
		wantCode(t, <-early, 0, "")
		synctest.Wait()
		if !cancelled.Load() || len(changes) != 1 || changes[0].ID != "early" || changes[0].Err != nil {
			t.Errorf("the cancel answered %v: %+v", cancelled.Load(), changes)
		}
		v := b.ended("early")
		b.expect(v, tasks.Recovered, code.TaskAborted)
		if _, err := b.Get("late"); code.Of(err) != code.UnknownTask {
			t.Errorf("the late one: %v", err)
		}
		wantCode(t, <-submit("early"), 0, "") // a repeated submit of an id that exists answers that task
	})
}

// TestCancelGivesUpWaiting: the fence is up although a submit does not end, and the client is told to cancel again.
func TestCancelGivesUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		on := make(chan struct{})
		b.onCommit(func(c store.Change) error {
			if len(c.Put) > 0 && c.Put[0].ID == "slow" && c.Put[0].Version == 1 {
				<-on
			}
			return nil
		})
		s := tasks.Submission{ID: "slow", Verb: "Mock.run", Params: encode(t, steps(slow)), Flow: "f1"}
		go func() { _, _ = b.Submit(t.Context(), s) }()
		synctest.Wait()
		ctx, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		_, err := b.CancelFlow(ctx, "f1", "tester", false)
		wantCode(t, err, code.ResourceTimeout, "cancel again")
		s.ID = "other"
		_, err = b.Submit(t.Context(), s)
		wantCode(t, err, code.FlowCancelled, "")
		close(on)
		synctest.Wait()
		if c := b.cancel(false)["slow"]; c.Err != nil || c.Before != tasks.Running {
			t.Errorf("the second cancel answered %+v", c)
		}
		b.expect(b.ended("slow"), tasks.Recovered, code.TaskAborted)
	})
}

// TestFenceTrouble: when the fence cannot be recorded the cancel is refused and changes nothing; when that is not known, it stays up.
func TestFenceTrouble(t *testing.T) {
	for failure, fenced := range map[error]bool{store.ErrUnavailable: false, store.ErrUnknown: true, tasktest.ErrApplied: true} {
		t.Run(failure.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.inFlow(steps(slow))
				synctest.Wait()
				b.onCommit(func(store.Change) error { return failure })
				_, err := b.CancelFlow(t.Context(), "f1", "tester", true)
				wantCode(t, err, code.TaskPersist, "")
				b.onCommit(nil)
				if _, up := b.Fenced("f1"); up != fenced {
					t.Errorf("fenced %v, want %v", up, fenced)
				}
				if v := b.view(id); v.State != tasks.Running || v.StopAsked != nil {
					t.Errorf("the task is %s", v.State)
				}
				b.cancel(true)
				b.expect(b.ended(id), tasks.Recovered, code.TaskAborted)
			})
		})
	}
}

// TestFlows lists flows with tasks, with a fence, and with both.
func TestFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		of := func(state tasks.State) (out []string) {
			for _, f := range b.Flows(state) {
				out = append(out, fmt.Sprintf("%s %d %v", f.ID, f.Tasks, !f.Fenced.IsZero()))
			}
			return out
		}
		want := func(state tasks.State, want ...string) {
			t.Helper()
			if got := of(state); !slices.Equal(got, want) {
				t.Errorf("flows with state %q are %q, want %q", state, got, want)
			}
		}
		want("")
		b.submit(steps(slow)) // of no flow
		running := b.inFlow(steps(slow))
		other := b.submitAs(tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{})), Flow: "f2"})
		b.ended(other)
		if _, err := b.CancelFlow(t.Context(), "f3", "tester", true); err != nil { // of a flow that nobody has heard of
			t.Fatal(err)
		}
		want("", "f1 1 false", "f2 1 false", "f3 0 true")
		synctest.Wait()
		want(tasks.Running, "f1 1 false")
		b.cancel(false)
		b.ended(running)
		want("", "f1 1 true", "f2 1 false", "f3 0 true")
		wantCode(t, b.Clear(running, "tester"), 0, "")
		wantCode(t, b.Clear(other, "tester"), 0, "")
		want("", "f1 0 true", "f3 0 true")
		b = b.restart()
		want("", "f1 0 true", "f3 0 true")
		for range 2 { // released again: no error
			if err := b.ReleaseFlow("f1"); err != nil {
				t.Fatal(err)
			}
		}
		want("", "f3 0 true")
		b = b.restart()
		want("", "f3 0 true")
		<-time.After(time.Hour)
		want("")
		if _, err := b.CancelFlow(t.Context(), "", "tester", false); code.Of(err) != code.InvalidParameter {
			t.Errorf("the cancel of no flow: %v", err)
		}
	})
}
