package tasks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/mock"
)

func (b *bench) pause(id string) {
	b.t.Helper()
	if err := b.Pause(id, "tester"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) resume(id string) {
	b.t.Helper()
	if err := b.Resume(id, "tester"); err != nil {
		b.t.Fatal(err)
	}
}

// restart ends the engine and starts another on what it has recorded.
func (b *bench) restart() *bench {
	b.t.Helper()
	b.stop()
	return b.start(nil)
}

// rests checks that the task is paused, and that time changes nothing about it.
func (b *bench) rests(id string, state tasks.State) {
	b.t.Helper()
	synctest.Wait()
	before := b.view(id)
	<-time.After(time.Hour)
	v := b.view(id)
	if v.State != state || !v.Paused || v.PauseAsked == nil || v.PauseAsked.Who != "tester" || v.Progress.Done != before.Progress.Done {
		b.t.Errorf("the paused task is %s, paused %v, and has moved from %d to %d", v.State, v.Paused, before.Progress.Done, v.Progress.Done)
	}
	if !strings.Contains(v.Message, "paused by tester at step copy") {
		b.t.Errorf("message is %q", v.Message)
	}
	if load := b.Queue().Classes[tasks.ClassCopy]; load.Running != 0 {
		b.t.Errorf("a paused task has a slot: %+v", load)
	}
}

// TestPause pauses a task that copies ten slices of a second each in different ways, and looks how long it takes in all: at most
// one slice is repeated for each pause.
func TestPause(t *testing.T) {
	committing := slow
	committing.PointOfNoReturn = true
	first := mock.Knobs{Name: "first", Pace: 3 * time.Second}
	cases := []struct {
		name    string
		params  mock.Params
		during  func(b *bench, id string) *bench // begins after 2.5 s; the pauses in it take an hour
		most    time.Duration
		effects []string
	}{
		{"between slices", steps(slow), func(b *bench, id string) *bench {
			b.pause(id)
			b.pause(id) // again
			b.rests(id, tasks.Running)
			b.resume(id)
			b.resume(id)
			return b
		}, 11 * time.Second, []string{"copy"}},
		{"twice", steps(slow), func(b *bench, id string) *bench {
			for range 2 {
				b.pause(id)
				b.rests(id, tasks.Running)
				b.resume(id)
				<-time.After(1500 * time.Millisecond)
			}
			return b
		}, 12 * time.Second, []string{"copy"}},
		{"resumed at once", steps(slow), func(b *bench, id string) *bench {
			for range 3 {
				b.pause(id)
				b.resume(id)
			}
			return b
		}, 11 * time.Second, []string{"copy"}},
		{"over a restart", steps(slow), func(b *bench, id string) *bench {
			b.pause(id)
			b = b.restart()
			b.rests(id, tasks.Running)
			b = b.restart()
			b.rests(id, tasks.Running)
			b.resume(id)
			return b
		}, 11 * time.Second, []string{"copy"}},
		{"resumed right after a restart", steps(slow), func(b *bench, id string) *bench {
			b.pause(id)
			b = b.restart()
			b.resume(id)
			return b
		}, 11 * time.Second, []string{"copy"}},
		{"past the point of no return", steps(committing), func(b *bench, id string) *bench {
			b.pause(id)
			b.rests(id, tasks.Committing)
			wantCode(b.t, b.Stop(id, tasks.StopOptions{Who: "tester"}), code.TaskState, "point of no return")
			b = b.restart()
			b.rests(id, tasks.Committing)
			b.resume(id)
			return b
		}, 11 * time.Second, []string{"copy"}},
		{"before the step in slices", steps(first, slow), func(b *bench, id string) *bench {
			b.pause(id) // the first step is not in slices: it ends before the task rests
			<-time.After(time.Hour)
			if v := b.view(id); !v.Paused || v.Steps[1].State != tasks.StepWaiting {
				b.t.Errorf("the second step is %q", v.Steps[1].State)
			}
			b.resume(id)
			return b
		}, 14 * time.Second, []string{"first", "copy"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.submit(c.params)
				start := time.Now()
				<-time.After(2500 * time.Millisecond)
				b = c.during(b, id)
				b.expect(b.ended(id), tasks.Finished, 0, c.effects...)
				took := time.Since(start) % time.Hour
				if took < 10*time.Second || took > c.most {
					t.Errorf("it worked for %s, want 10 s to %s", took, c.most)
				}
				if v := b.view(id); v.Paused || v.PauseAsked != nil {
					t.Errorf("the task has ended and is paused (%+v)", v.PauseAsked)
				}
			})
		})
	}
}

// TestPauseRefused asks for pauses, resumes and limits where they make no sense.
func TestPauseRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		all := func(id string, c code.Code, pause, resume string) {
			t.Helper()
			wantCode(t, b.Pause(id, "tester"), c, pause)
			if c == code.UnknownTask || resume != "" {
				wantCode(t, b.Resume(id, "tester"), c, resume)
			} else {
				wantCode(t, b.Resume(id, "tester"), 0, "")
			}
			wantCode(t, b.SetLimit(id, "tester", 1), c, "")
		}
		all("none", code.UnknownTask, "no task", "no task")
		done := b.submit(steps(slow))
		wantCode(t, b.SetLimit(done, "tester", -1), code.InvalidParameter, "-1")
		b.ended(done)
		all(done, code.TaskState, "finished", "has ended")
		whole := b.submit(steps(mock.Knobs{Name: "whole", Pace: time.Hour}))
		synctest.Wait()
		all(whole, code.TaskState, "slices", "")

		p := steps(slow)
		p.Locks = []string{"image/1"}
		holder, queued := b.submit(p), b.submit(p)
		synctest.Wait()
		wantCode(t, b.Pause(queued, "tester"), code.TaskState, "is queued")
		wantCode(t, b.Resume(queued, "tester"), 0, "")
		if err := b.Stop(holder, tasks.StopOptions{Who: "tester"}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, b.Pause(holder, "tester"), code.TaskState, "only one that works")
		b.ended(queued)
	})
}

// TestStopOfAPaused: a pause does not keep a task from being stopped, and is over then.
func TestStopOfAPaused(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.submit(steps(mock.Knobs{Name: "a"}, slow))
				<-time.After(2500 * time.Millisecond)
				b.pause(id)
				b.rests(id, tasks.Running)
				if restart {
					b = b.restart()
				}
				start := time.Now()
				wantCode(t, b.Stop(id, tasks.StopOptions{Who: "tester"}), 0, "")
				b.expect(b.ended(id), tasks.Recovered, code.TaskAborted)
				if took := time.Since(start); took != 0 {
					t.Errorf("the stop of a task that rests took %s", took)
				}
				if v := b.view(id); v.Paused || !strings.Contains(v.Message, "stopped by tester at step copy") {
					t.Errorf("paused %v, message %q", v.Paused, v.Message)
				}
			})
		})
	}
}

// TestPauseWithAWorker: a worker that does not listen is killed, and the task rests only when it is gone.
func TestPauseWithAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.submit(steps(mock.Knobs{Name: "copy", Slices: 2, Pace: 10 * time.Second, Worker: mock.Stubborn}))
		<-time.After(time.Second)
		b.pause(id)
		<-time.After(3 * time.Second)
		if b.world.Workers() != 0 {
			t.Error("the worker of a paused task is alive")
		}
		b.rests(id, tasks.Running)
		b.resume(id)
		b.expect(b.ended(id), tasks.Finished, 0, "copy")
	})
}

// TestPauseThenShutdown: a paused task does not keep the agent from ending.
func TestPauseThenShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		b.pause(id)
		start := time.Now()
		if err := b.Close(context.Background()); err != nil || time.Since(start) > 0 {
			t.Errorf("the end of the agent took %s: %v", time.Since(start), err)
		}
		if v := b.view(id); !v.Paused || v.State != tasks.Running {
			t.Errorf("the task is %s, paused %v", v.State, v.Paused)
		}
	})
}

func oneAtATime(o *tasks.Options) { o.Limits = map[tasks.Class]int{tasks.ClassCopy: 1} }

// TestResumeWaitsForASlot: the slot of a paused task goes to another; resumed, it comes before those that came later; paused again
// while it waits, it does not take the slot.
func TestResumeWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneAtATime)
		first := b.submit(steps(slow))
		second, third := b.submit(steps(slow)), b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		if v := b.view(second); v.State != tasks.Queued || !strings.Contains(v.Message, "slot of class copy (1 of 1 are used, 0 tasks come before)") {
			t.Errorf("the second task is %s: %s", v.State, v.Message)
		}
		b.pause(first)
		<-time.After(time.Second) // the second one works
		b.resume(first)
		synctest.Wait()
		v := b.view(first)
		if v.State != tasks.Running || v.Paused || !strings.Contains(v.Message, "waiting for a slot of class copy") || b.view(second).State != tasks.Running {
			t.Errorf("the resumed task is %s, paused %v: %s", v.State, v.Paused, v.Message)
		}
		done := v.Progress.Done
		b.pause(first) // while it waits for the slot
		b.ended(second)
		synctest.Wait()
		if v := b.view(third); v.State != tasks.Running {
			t.Errorf("the slot went to nobody: the third task is %s, %s", v.State, v.Message)
		}
		b.resume(first)
		fourth := b.submit(steps(slow))
		b.ended(third)
		synctest.Wait()
		if v := b.view(first); v.Progress.Done != done || v.WaitsFor != nil || b.view(fourth).State != tasks.Queued {
			t.Errorf("the resumed task waits for %v with %d slices, had %d", v.WaitsFor, v.Progress.Done, done)
		}
		b.ended(first)
		b.ended(fourth)
	})
}

// TestResumeAfterARestartWaitsForASlot: also when the resume comes before the task has looked around.
func TestResumeAfterARestartWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneAtATime)
		first, second := b.submit(steps(slow)), b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		b.pause(first)
		<-time.After(1500 * time.Millisecond)
		b.stop()
		left := &leftover{gone: make(chan struct{})}
		b = b.start(map[string][]tasks.Worker{first: {left}})
		b.resume(first)
		close(left.gone)
		<-time.After(time.Second)
		if load := b.Queue().Classes[tasks.ClassCopy]; load.Running != 1 || load.Ready != 1 {
			t.Errorf("the class is %+v", load)
		}
		if v := b.view(first); v.Progress.Done != 1 || len(v.WaitsFor) != 1 {
			t.Errorf("the resumed task has %d slices and waits for %q", v.Progress.Done, v.WaitsFor)
		}
		b.ended(second)
		b.ended(first)
	})
}

// TestPauseWhilePlanning: a pause that comes while a step is planned holds it before it begins, also at the point of no return.
func TestPauseWhilePlanning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		planning, planned := make(chan struct{}, 9), make(chan struct{})
		b := newBench(t, likeMock("Test.planned", func(p *tasks.Plan) {
			plan := p.Steps[1].Plan
			p.Steps[1].Plan = func(ctx context.Context, s *tasks.Scope) (any, error) {
				planning <- struct{}{}
				<-planned
				return plan(ctx, s)
			}
		}))
		committing := slow
		committing.PointOfNoReturn = true
		id := b.submitAs(tasks.Submission{Verb: "Test.planned", Params: encode(t, steps(mock.Knobs{Name: "a"}, committing))})
		<-planning
		b.pause(id)
		close(planned)
		<-time.After(time.Hour)
		if v := b.view(id); v.State != tasks.Running || !v.Paused || v.Steps[1].State != tasks.StepWaiting {
			t.Errorf("the task is %s, paused %v, its second step %q", v.State, v.Paused, v.Steps[1].State)
		}
		b.resume(id)
		b.expect(b.ended(id), tasks.Finished, 0, "a", "copy")
	})
}

// TestRefusedWhilePaused: a commit that is refused when a pause is asked for is undone all the same.
func TestRefusedWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		const id = "refused"
		b = newBench(t, likeMock("Test.refused", func(p *tasks.Plan) {
			p.Steps[0].Refused = func(error) bool {
				b.pause(id)
				return true
			}
		}))
		k := mock.Knobs{Name: "copy", Slices: 2, PointOfNoReturn: true, Refused: true, FailAt: 1}
		b.submitAs(tasks.Submission{ID: id, Verb: "Test.refused", Params: encode(t, steps(k))})
		b.expect(b.ended(id), tasks.Recovered, code.VolumeCopy)
	})
}

// likeMock adds a verb to the options that is the mock verb with another plan.
func likeMock(name string, change func(*tasks.Plan)) func(*tasks.Options) {
	return func(o *tasks.Options) {
		v := *o.Verbs[0]
		plan := v.Plan
		v.Name = name
		v.Plan = func(id string, params json.RawMessage) (*tasks.Plan, error) {
			p, err := plan(id, params)
			if err == nil {
				change(p)
			}
			return p, err
		}
		o.Verbs = append(o.Verbs, &v)
	}
}

// TestSetLimit: a limit is seen by the step from its next slice on, and is durable.
func TestSetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Int64
		b := newBench(t, likeMock("Test.limited", func(p *tasks.Plan) {
			p.Steps[0].Do = func(ctx context.Context, s *tasks.Scope) error {
				for {
					seen.Store(s.Limit())
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
			}
		}))
		id := b.submitAs(tasks.Submission{Verb: "Test.limited", Params: encode(t, steps(slow))})
		for _, limit := range []int64{1000, 0, 2000} {
			if err := b.SetLimit(id, "tester", limit); err != nil {
				t.Fatal(err)
			}
			<-time.After(1500 * time.Millisecond)
			if v := b.view(id); v.Limit != limit || seen.Load() != limit {
				t.Errorf("limit is %d, the step sees %d, want %d", v.Limit, seen.Load(), limit)
			}
		}
		b.stop()
		seen.Store(-1)
		b = b.start(nil)
		synctest.Wait()
		if v := b.view(id); v.Limit != 2000 || seen.Load() != 2000 {
			t.Errorf("after a restart the limit is %d, the step sees %d", v.Limit, seen.Load())
		}
		wantCode(t, b.Stop(id, tasks.StopOptions{}), 0, "")
		b.ended(id)
	})
}
