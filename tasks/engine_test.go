package tasks_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
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

// bench is an engine over a store in memory and a made-up world. All of it lives in one synctest bubble.
type bench struct {
	*tasks.Engine
	t     *testing.T
	store *tasktest.MemStore
	world *mock.World
	with  []func(*tasks.Options)
	hook  *atomic.Pointer[func(store.Change) error] // see onCommit
}

// newBench starts an engine; with changes its options, also those of the engines that follow it.
func newBench(t *testing.T, with ...func(*tasks.Options)) *bench {
	return (&bench{t: t, store: tasktest.NewMemStore(), world: mock.NewWorld(), with: with}).start(nil)
}

// start makes an engine on what the store has, as a fresh process would.
func (b *bench) start(left map[string][]tasks.Worker) *bench {
	b.t.Helper()
	next := &bench{t: b.t, store: b.store, world: b.world, with: b.with, hook: b.hook}
	if next.hook == nil { // the store is new
		hook := &atomic.Pointer[func(store.Change) error]{}
		next.hook = hook
		next.store.OnCommit = func(c store.Change) error {
			if f := hook.Load(); f != nil && *f != nil {
				return (*f)(c)
			}
			return nil
		}
	}
	o := tasks.Options{Store: b.store, Verbs: mock.Verbs(b.world), Log: zerolog.Nop()}
	for _, change := range b.with {
		change(&o)
	}
	next.Engine = tasks.New(o)
	if err := next.Start(left); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(next.stop)
	return next
}

// stop ends the engine without changing what is recorded.
func (b *bench) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		b.t.Error(err)
	}
}

// onCommit has f called by the store from now on.
func (b *bench) onCommit(f func(store.Change) error) { b.hook.Store(&f) }

func (b *bench) submit(p mock.Params) string {
	b.t.Helper()
	return b.submitAs(tasks.Submission{Verb: "Mock.run", Params: encode(b.t, p), Who: "tester"})
}

func (b *bench) submitAs(s tasks.Submission) string {
	b.t.Helper()
	id, err := b.Submit(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) view(id string) tasks.View {
	b.t.Helper()
	v, err := b.Get(id)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// ended waits for the final state.
func (b *bench) ended(id string) tasks.View {
	b.t.Helper()
	if _, err := b.Wait(b.t.Context(), id, tasks.Ended); err != nil {
		b.t.Fatal(err)
	}
	return b.view(id)
}

func (b *bench) expect(v tasks.View, state tasks.State, c code.Code, effects ...string) {
	b.t.Helper()
	if v.State != state || v.Code != c {
		b.t.Errorf("task is %s/%d (%s), want %s/%d", v.State, v.Code, v.Message, state, c)
	}
	want := []string{}
	for _, e := range effects {
		want = append(want, v.ID+"/"+e)
	}
	slices.Sort(want)
	if got := b.world.Effects(); !slices.Equal(got, want) {
		b.t.Errorf("effects are %v, want %v", got, want)
	}
}

func encode(t interface {
	Helper()
	Fatal(args ...any)
}, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func steps(k ...mock.Knobs) mock.Params {
	return mock.Params{Steps: append([]mock.Knobs{}, k...), Locks: []string{}, Tag: tasks.TagLocal}
}

// slow is a step that takes ten seconds, with a checkpoint each second.
var slow = mock.Knobs{Name: "copy", Slices: 10, Pace: time.Second}

func wantCode(t *testing.T, err error, c code.Code, text string) {
	t.Helper()
	if code.Of(err) != c || c != 0 && !strings.Contains(err.Error(), text) {
		t.Errorf("got error %d (%v), want %d with %q", code.Of(err), err, c, text)
	}
}

// TestEnds runs a task to its end, with a stop after some time where the case says so.
func TestEnds(t *testing.T) {
	named := func(name string, k mock.Knobs) mock.Knobs { k.Name = name; return k }
	cases := []struct {
		name    string
		params  mock.Params
		stopAt  time.Duration // 0 = never
		state   tasks.State
		code    code.Code
		effects []string
		message string
	}{
		{"success", steps(named("a", mock.Knobs{}), named("b", mock.Knobs{})), 0, tasks.Finished, 0, []string{"a", "b"}, "finished"},
		{"no steps", steps(), 0, tasks.Finished, 0, nil, "finished"},
		{"a failing step is undone", steps(named("a", mock.Knobs{}), named("b", mock.Knobs{FailAt: 1})), 0, tasks.Recovered, code.VolumeCopy, nil, "slice 1 fails"},
		{"a panic is undone", steps(named("a", mock.Knobs{}), named("b", mock.Knobs{Panics: true})), 0, tasks.Recovered, code.InternalError, nil, "defect"},
		{"a failing undo is residue, the rest is undone", steps(named("a", mock.Knobs{}), named("b", mock.Knobs{UndoFails: 1}), named("c", mock.Knobs{FailAt: 1})), 0, tasks.Failed, code.VolumeCopy, []string{"b"}, "left behind: b"},
		{"a retry past the point of no return", steps(named("a", mock.Knobs{PointOfNoReturn: true, FailAt: 1, FailTimes: 3})), 0, tasks.Finished, 0, []string{"a"}, "finished"},
		{"refused at the point of no return", steps(named("a", mock.Knobs{}), named("b", mock.Knobs{PointOfNoReturn: true, FailAt: 1, Refused: true})), 0, tasks.Recovered, code.VolumeCopy, nil, "slice 1 fails"},
		{"can never complete", steps(named("a", mock.Knobs{PointOfNoReturn: true, FailAt: 1, Permanent: true})), 0, tasks.Failed, code.VolumeCopy, []string{"a"}, "slice 1 fails"},
		{"stop", steps(named("a", mock.Knobs{}), slow), 3500 * time.Millisecond, tasks.Recovered, code.TaskAborted, nil, "stopped by tester at step copy, 30 % copied; copy taken back, a taken back"},
		{"stop of one that does not listen", steps(named("b", mock.Knobs{IgnoresStop: true, Pace: 5 * time.Second})), time.Second, tasks.Recovered, code.TaskAborted, nil, "stopped by tester at step b"},
		{"stop of a polite worker", steps(named("b", mock.Knobs{Worker: mock.Polite})), time.Second, tasks.Recovered, code.TaskAborted, nil, "stopped"},
		{"stop of a stubborn worker", steps(named("b", mock.Knobs{Worker: mock.Stubborn})), time.Second, tasks.Recovered, code.TaskAborted, nil, "stopped"},
		{"stop with a remainder", steps(named("b", mock.Knobs{Pace: time.Hour, Remainder: "the base is part merged"})), time.Second, tasks.Recovered, code.TaskAborted, nil, "the base is part merged"},
		{"stop, decided elsewhere: cancelled", steps(named("b", mock.Knobs{Pace: time.Hour, DecidedBy: "libvirt"})), time.Second, tasks.Recovered, code.TaskAborted, nil, "stopped"},
		{"stop, decided elsewhere: it had finished", steps(named("b", mock.Knobs{Pace: time.Hour, DecidedBy: "libvirt", Finished: true}), named("c", mock.Knobs{})), time.Second, tasks.Finished, 0, []string{"b", "c"}, "too late"},
		{"error, decided elsewhere", steps(named("b", mock.Knobs{FailAt: 1, DecidedBy: "libvirt"})), 0, tasks.Recovered, code.VolumeCopy, nil, "slice 1 fails"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.submit(c.params)
				if c.stopAt > 0 {
					<-time.After(c.stopAt)
					if err := b.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
						t.Fatal(err)
					}
				}
				v := b.ended(id)
				b.expect(v, c.state, c.code, c.effects...)
				if !strings.Contains(v.Message, c.message) {
					t.Errorf("message is %q, want %q in it", v.Message, c.message)
				}
				if b.world.Workers() != 0 {
					t.Error("a worker outlived its task")
				}
			})
		})
	}
}

// TestStopByState asks for a stop in every state.
func TestStopByState(t *testing.T) {
	stop := func(b *bench, id string) error { return b.Stop(id, tasks.StopOptions{Who: "tester"}) }
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		wantCode(t, stop(b, "none"), code.UnknownTask, "no task")

		holder := b.submit(mock.Params{Steps: []mock.Knobs{{Name: "h", Pace: time.Hour}}, Locks: []string{"image/1"}, Tag: "local"})
		queued := b.submit(mock.Params{Steps: []mock.Knobs{{Name: "q"}}, Locks: []string{"image/1"}, Tag: "local"})
		synctest.Wait()
		if v := b.view(queued); v.State != tasks.Queued || !slices.Equal(v.WaitsBehind, []string{holder}) {
			t.Errorf("the second task is %s behind %v", v.State, v.WaitsBehind)
		}
		wantCode(t, stop(b, queued), 0, "")
		v := b.ended(queued)
		if v.State != tasks.Recovered || v.Code != code.TaskAborted || !strings.Contains(v.Message, "before it began") {
			t.Errorf("the stopped queued task is %s/%d: %s", v.State, v.Code, v.Message)
		}
		wantCode(t, stop(b, queued), 0, "") // again
		wantCode(t, stop(b, holder), 0, "")
		wantCode(t, stop(b, holder), 0, "")
		b.ended(holder)

		done := b.submit(steps(mock.Knobs{}))
		b.ended(done)
		wantCode(t, stop(b, done), code.TaskState, "Task.revert")

		committing := b.submit(steps(mock.Knobs{Name: "switch", PointOfNoReturn: true, Pace: time.Minute}))
		<-time.After(time.Second)
		wantCode(t, stop(b, committing), code.TaskState, "step switch")
		if v := b.ended(committing); v.State != tasks.Finished {
			t.Errorf("a committing task ended %s after a refused stop", v.State)
		}
		failed := b.submit(steps(mock.Knobs{UndoFails: 1, FailAt: 1}))
		b.ended(failed)
		wantCode(t, stop(b, failed), code.TaskState, "Task.revert")
	})
}

// TestStuck: a worker that cannot die keeps its task out of a final state, and its locks; it is shown, and goes on when the
// kernel lets go.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p := steps(mock.Knobs{Name: "write", Worker: mock.Immortal})
		p.Locks = []string{"image/1"}
		id := b.submit(p)
		synctest.Wait()
		if err := b.Stop(id, tasks.StopOptions{Who: "tester", Force: true}); err != nil {
			t.Fatal(err)
		}
		<-time.After(9 * time.Second)
		if v := b.view(id); v.Stuck != nil || v.State != tasks.Aborting || v.Code != code.TaskAborted {
			t.Errorf("before the bound: %s/%d stuck %v", v.State, v.Code, v.Stuck)
		}
		<-time.After(time.Hour)
		v := b.view(id)
		if v.State != tasks.Aborting || v.Stuck == nil || !strings.Contains(strings.Join(v.Stuck.Holders, " "), "immortal") {
			t.Errorf("past the bound: %s stuck %+v", v.State, v.Stuck)
		}
		other := b.submit(p)
		synctest.Wait()
		if got := b.view(other); got.State != tasks.Queued {
			t.Errorf("a task that needs the lock of a stuck one is %s", got.State)
		}
		b.world.Release()
		v = b.ended(id)
		if v.State != tasks.Recovered || v.Stuck != nil {
			t.Errorf("when the worker was gone the task is %s, stuck %v", v.State, v.Stuck)
		}
		b.ended(other)
	})
}

// TestRevertAndClear walks a task through finish, revert, repeated requests and clear.
func TestRevertAndClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx := t.Context()
		p := steps(mock.Knobs{Name: "a", Pace: time.Second}, mock.Knobs{Name: "b", UndoFails: 1})
		p.Locks = []string{"image/1"}
		id := b.submit(p)
		wantCode(t, b.Revert(ctx, id, "tester"), code.TaskNotFinished, "has not ended")
		wantCode(t, b.Clear(id, "tester"), code.TaskState, "has not ended")
		b.expect(b.ended(id), tasks.Finished, 0, "a", "b")

		holder := b.submit(mock.Params{Steps: []mock.Knobs{{Name: "h", Pace: time.Hour}}, Locks: []string{"image/1"}, Tag: "local"})
		synctest.Wait()
		wantCode(t, b.Revert(ctx, id, "tester"), code.TaskState, holder)
		if err := b.Stop(holder, tasks.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		b.ended(holder)

		wantCode(t, b.Revert(ctx, id, "tester"), 0, "")
		v := b.ended(id)
		b.expect(v, tasks.Failed, 0, "b")
		if len(v.Residue) != 1 || !strings.Contains(v.Residue[0], "cannot be removed") {
			t.Errorf("residue is %q", v.Residue)
		}
		wantCode(t, b.Revert(ctx, id, "tester"), 0, "") // the undo is tried again
		v = b.ended(id)
		b.expect(v, tasks.Recovered, 0)
		if v.Residue != nil || !strings.Contains(v.Message, "reverted by tester") {
			t.Errorf("after the second revert: residue %q, message %q", v.Residue, v.Message)
		}
		wantCode(t, b.Revert(ctx, id, "tester"), 0, "") // repeated
		wantCode(t, b.Clear(id, "tester"), 0, "")
		for _, err := range []error{b.Clear(id, "t"), b.Revert(ctx, id, "t"), b.Stop(id, tasks.StopOptions{})} {
			wantCode(t, err, code.UnknownTask, "no task")
		}
		_, err := b.Submit(ctx, tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, p)})
		wantCode(t, err, code.AddTask, "history")

		failed := b.submit(steps(mock.Knobs{Name: "a", UndoFails: 1}, mock.Knobs{Name: "b", FailAt: 1}))
		b.expect(b.ended(failed), tasks.Failed, code.VolumeCopy, "a")
		wantCode(t, b.Revert(ctx, failed, "tester"), 0, "") // of one that never finished
		b.expect(b.ended(failed), tasks.Recovered, code.VolumeCopy)
		committed := b.submit(steps(mock.Knobs{Name: "a", PointOfNoReturn: true, FailAt: 1, Permanent: true}))
		b.ended(committed)
		wantCode(t, b.Revert(ctx, committed, "tester"), code.NotRevertible, "point of no return")
		b.world.Forget(committed)

		used := b.submit(steps(mock.Knobs{Name: "a"}))
		b.ended(used)
		b.world.Use(used)
		wantCode(t, b.Revert(ctx, used, "tester"), code.TaskState, "in use")
		b.expect(b.view(used), tasks.Finished, 0, "a")
		stopped := b.submit(steps(slow))
		wantCode(t, b.Stop(stopped, tasks.StopOptions{}), 0, "")
		b.ended(stopped)
		wantCode(t, b.Revert(ctx, stopped, "tester"), code.NotRevertible, "undone already")
	})
}

// TestSubmitIsIdempotent: the id is looked up before anything else is checked.
func TestSubmitIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := tasks.Submission{ID: "11111111-2222-4333-8444-555555555555", Verb: "Mock.run", Params: json.RawMessage(`{"steps":[{"name":"a"}], "tag":"local"}`)}
		b.submitAs(s)
		s.Params = json.RawMessage(`{"tag": "local", "steps":[{"name":"a"}]}`)
		if id := b.submitAs(s); id != s.ID || len(b.List(tasks.Filter{})) != 1 {
			t.Errorf("a repeated submit answered %s; there are %d tasks", id, len(b.List(tasks.Filter{})))
		}
		s.Params = json.RawMessage(`{"steps":"impossible"}`)
		_, err := b.Submit(t.Context(), s)
		wantCode(t, err, code.AddTask, "exists")
		for _, bad := range []tasks.Submission{{Verb: "No.such"}, {Verb: "Mock.run", Params: json.RawMessage(`[1]`)}, {Verb: "Mock.run", Params: json.RawMessage(`{"steps":[],"tag":"local","more":1}`)}} {
			if _, err := b.Submit(t.Context(), bad); err == nil {
				t.Errorf("submit of %s %s was taken", bad.Verb, bad.Params)
			}
		}
		b.ended(s.ID)
	})
}

// TestDeferred: what a task puts off is a task of its own, recorded with its end, and clears itself.
func TestDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p := steps(mock.Knobs{Name: "a"})
		p.Reclaims = true
		id := b.submit(p)
		b.ended(id)
		if err := b.Clear(id, "tester"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if list := b.List(tasks.Filter{}); len(list) != 0 {
			t.Errorf("tasks left: %+v", list)
		}
		if e := b.world.Events(); len(e) != 2 || !strings.HasSuffix(e[1], "/reclaim") {
			t.Errorf("events are %v, want the task's and the reclaim's", e)
		}
	})
}

// TestRestart ends the engine at a moment and starts another on the same store: work goes on from its checkpoint, a stop
// goes on as a stop, an undo as an undo, and a commit is completed.
func TestRestart(t *testing.T) {
	cases := []struct {
		name   string
		params mock.Params
		stop   bool
		state  tasks.State
		events []string // without the id
	}{
		{"running resumes", steps(mock.Knobs{Name: "a"}, slow), false, tasks.Finished, []string{"do a", "do copy", "do copy"}},
		{"a verifying step is repeated", steps(mock.Knobs{Name: "check", Verify: true}, slow), false, tasks.Finished, []string{"do copy", "do check", "do copy"}},
		{"aborting is undone", steps(mock.Knobs{Name: "a"}, mock.Knobs{Name: "b", Worker: mock.Immortal}), true, tasks.Recovered, []string{"do a", "do b", "undo b", "undo a"}},
		{"committing is completed", steps(mock.Knobs{Name: "a"}, mock.Knobs{Name: "b", PointOfNoReturn: true, Pace: time.Hour}), false, tasks.Finished, []string{"do a", "do b", "do b"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.submit(c.params)
				<-time.After(5500 * time.Millisecond)
				if c.stop {
					if err := b.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = b.Close(ctx) // an immortal worker keeps its step from returning, as a hung disk does
				before := b.view(id)
				b = b.start(nil)
				v := b.ended(id)
				if v.State != c.state {
					t.Errorf("was %s, ended %s: %s", before.State, v.State, v.Message)
				}
				var events []string
				for _, e := range b.world.Events() {
					events = append(events, strings.Replace(e, id+"/", "", 1))
				}
				if !slices.Equal(events, c.events) {
					t.Errorf("events are %q, want %q", events, c.events)
				}
				if c.stop {
					b.world.Release()
				}
			})
		})
	}
}

// TestLeftover: a task whose former worker is not proven gone waits for it after a restart; others do not.
func TestLeftover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id, other := b.submit(steps(slow)), b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		b.stop()
		left := &leftover{gone: make(chan struct{})}
		b = b.start(map[string][]tasks.Worker{id: {left}})
		if v := b.ended(other); v.State != tasks.Finished {
			t.Errorf("the other task ended %s", v.State)
		}
		<-time.After(time.Minute)
		if v := b.view(id); v.State != tasks.Running || v.Stuck == nil {
			t.Errorf("the task with a live leftover is %s, stuck %v", v.State, v.Stuck)
		}
		close(left.gone)
		synctest.Wait()
		if v := b.view(id); v.Stuck != nil {
			t.Errorf("the leftover is gone, and the task is stuck: %+v", v.Stuck)
		}
		if v := b.ended(id); v.State != tasks.Finished {
			t.Errorf("ended %s", v.State)
		}
	})
}

// TestLeftoverThatEnds: a task whose leftover was gone in time is not stuck later, however long it works.
func TestLeftoverThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.submit(busy(time.Hour))
		synctest.Wait()
		b.stop()
		left := &leftover{gone: make(chan struct{})}
		b = b.start(map[string][]tasks.Worker{id: {left}})
		<-time.After(time.Second)
		close(left.gone)
		<-time.After(time.Minute)
		if v := b.view(id); v.State != tasks.Running || v.Stuck != nil {
			t.Errorf("the task is %s, stuck %+v", v.State, v.Stuck)
		}
		b.ended(id)
	})
}

type leftover struct{ gone chan struct{} }

func (l *leftover) Pids() []int           { return []int{1} }
func (l *leftover) Describe() []string    { return []string{"pid 1 in state D"} }
func (l *leftover) Terminate()            {}
func (l *leftover) Kill()                 {}
func (l *leftover) Gone() <-chan struct{} { return l.gone }

// TestDamagedRecord: it is set aside, and the others go on.
func TestDamagedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		good := b.submit(steps(slow))
		b.stop()
		now := time.Now().UTC()
		bad := []store.Record{
			{ID: "bad-json", Body: []byte("{"), State: "running"},
			{ID: "bad-verb", Body: []byte(`{"id":"bad-verb","verb":"No.such","state":"running"}`), Verb: "No.such", State: "running"},
		}
		for _, r := range bad {
			r.Version, r.Created, r.Updated = 1, now, now
			if err := b.store.Commit(store.Change{Put: []store.Record{r}}); err != nil {
				t.Fatal(err)
			}
		}
		b = b.start(nil)
		b.ended(good)
		report, err := b.store.Check()
		if err != nil || len(report.SetAside) != 2 {
			t.Errorf("set aside: %+v, %v", report.SetAside, err)
		}
	})
}

// TestStoreTrouble: a client is told when its request could not be recorded; the task's own changes are tried until they are.
func TestStoreTrouble(t *testing.T) {
	for _, failure := range []error{store.ErrUnavailable, store.ErrUnknown} {
		t.Run(failure.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.submit(steps(slow))
				synctest.Wait()
				var broken atomic.Bool
				b.onCommit(func(store.Change) error {
					if broken.Load() {
						return failure
					}
					return nil
				})
				broken.Store(true)
				wantCode(t, b.Stop(id, tasks.StopOptions{}), code.TaskPersist, "")
				_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(slow))})
				wantCode(t, err, code.TaskPersist, "")
				<-time.After(time.Minute)
				if v := b.view(id); v.State.Final() {
					t.Errorf("the task ended %s without a store", v.State)
				}
				broken.Store(false)
				b.expect(b.ended(id), tasks.Finished, 0, "copy")
			})
		})
	}
}

// TestFlow: a cancelled flow stops what runs, refuses what comes, and lets go when it is released.
func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(slow)), Flow: "f1"}
		running := b.submitAs(s)
		done := b.submitAs(tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "quick"})), Flow: "f1"})
		b.ended(done)
		changes, err := b.CancelFlow(t.Context(), "f1", "tester", true)
		if err != nil || len(changes) != 2 {
			t.Fatalf("cancel answered %+v, %v", changes, err)
		}
		b.ended(running)
		b.expect(b.ended(done), tasks.Recovered, 0)
		_, err = b.Submit(t.Context(), s)
		wantCode(t, err, code.FlowCancelled, "tester")
		b.stop()
		b = b.start(nil) // the fence survives a restart
		_, err = b.Submit(t.Context(), s)
		wantCode(t, err, code.FlowCancelled, "tester")
		b.submitAs(tasks.Submission{Verb: "Mock.reclaim", Flow: "f1"}) // a clean-up verb is never fenced
		if err := b.ReleaseFlow("f1"); err != nil {
			t.Fatal(err)
		}
		b.ended(b.submitAs(s))
	})
}

// TestTransitionsAreKept: every state can be left as the table says, and a final one only by revert or clear.
func TestTransitionsAreKept(t *testing.T) {
	from := map[tasks.State]bool{}
	for _, tr := range tasks.Transitions {
		from[tr.From] = true
		if tr.From.Final() && tr.To != tr.From && tr.To != tasks.Queued && tr.To != tasks.Cleared {
			t.Errorf("the final state %s can be left for %s", tr.From, tr.To)
		}
	}
	for _, s := range []tasks.State{tasks.Init, tasks.Queued, tasks.Running, tasks.Committing, tasks.Aborting, tasks.Recovering, tasks.Finished, tasks.Recovered, tasks.Failed} {
		if !from[s] {
			t.Errorf("no way leads out of %s", s)
		}
		if !strings.Contains(tasks.Diagram(), string(s)+" -->") {
			t.Errorf("the diagram does not show %s", s)
		}
	}
}
