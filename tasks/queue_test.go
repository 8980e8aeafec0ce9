package tasks_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest/mock"
)

// ofClass adds a verb to the options that is the mock verb in another class.
func ofClass(name string, class tasks.Class) func(*tasks.Options) {
	return func(o *tasks.Options) {
		v := *o.Verbs[0]
		v.Name, v.Class = name, class
		o.Verbs = append(o.Verbs, &v)
	}
}

// busy is a task that works for so long and needs the locks.
func busy(lasts time.Duration, locks ...string) mock.Params {
	p := steps(mock.Knobs{Name: "work", Pace: lasts})
	p.Locks = append(p.Locks, locks...)
	return p
}

// wantStates checks the states of tasks, in their order.
func (b *bench) wantStates(ids []string, want ...tasks.State) {
	b.t.Helper()
	synctest.Wait()
	var got []tasks.State
	for _, id := range ids {
		got = append(got, b.view(id).State)
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("states are %v, want %v", got, want)
	}
}

func (b *bench) stopTask(id string) {
	b.t.Helper()
	if err := b.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
		b.t.Fatal(err)
	}
}

const (
	queued     = tasks.Queued
	running    = tasks.Running
	finished   = tasks.Finished
	recovered  = tasks.Recovered
	committing = tasks.Committing
)

// TestClassLimits: a limit counts its own class only; raised, the next in the order of arrival start at once; lowered, nobody is
// disturbed.
func TestClassLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ofClass("Test.merge", tasks.ClassMerge), func(o *tasks.Options) {
			o.Limits = map[tasks.Class]int{tasks.ClassCopy: 2, tasks.ClassMerge: 1}
		})
		var copies, merges []string
		for range 6 {
			copies = append(copies, b.submit(busy(time.Hour)))
		}
		for range 2 {
			merges = append(merges, b.submitAs(tasks.Submission{Verb: "Test.merge", Params: encode(t, busy(time.Hour))}))
		}
		b.wantStates(copies, running, running, queued, queued, queued, queued)
		b.wantStates(merges, running, queued)
		if v := b.view(copies[5]); !slices.Equal(v.WaitsFor, []string{"a slot of class copy (2 of 2 are used, 3 tasks come before)"}) || v.WaitsBehind != nil {
			t.Errorf("the last one waits for %q behind %v", v.WaitsFor, v.WaitsBehind)
		}
		set := func(limit int) {
			t.Helper()
			start := time.Now()
			if err := b.SetLimits(map[tasks.Class]int{tasks.ClassCopy: limit}, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if time.Since(start) > 0 {
				t.Error("the limit takes time to be seen")
			}
		}
		set(4)
		b.wantStates(copies, running, running, running, running, queued, queued)
		set(1)
		b.wantStates(copies, running, running, running, running, queued, queued)
		for _, id := range copies[:3] {
			b.stopTask(id)
		}
		b.wantStates(copies[3:], running, queued, queued) // one still runs: the limit is reached
		b.stopTask(copies[3])
		b.wantStates(copies[4:], running, queued)
		set(0)
		b.wantStates(copies[4:], running, running)
		b.wantStates(merges, running, queued)

		want := tasks.Queue{Waiting: 1, Classes: map[tasks.Class]tasks.ClassLoad{
			tasks.ClassCopy: {Limit: 0, Running: 2}, tasks.ClassMerge: {Limit: 1, Running: 1, Ready: 1}, tasks.ClassVM: {}, tasks.ClassLight: {}, tasks.ClassMigrate: {},
		}}
		if got := b.Queue(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the queue is %+v, want %+v", got, want)
		}
		minus := -1
		wantCode(t, b.SetLimits(map[tasks.Class]int{"none": 1}, nil), code.InvalidParameter, `"none"`)
		wantCode(t, b.SetLimits(map[tasks.Class]int{tasks.ClassCopy: -1}, nil), code.InvalidParameter, "-1")
		wantCode(t, b.SetLimits(map[tasks.Class]int{tasks.ClassCopy: 1}, &minus), code.InvalidParameter, "-1")
		if got := b.Queue(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after refused limits the queue is %+v", got)
		}
	})
}

// TestOrder: tasks of a class begin in the order of their submits, also those that waited for locks meanwhile, and over a restart.
func TestOrder(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, oneAtATime)
				first := b.submit(busy(time.Minute, "image/0", "image/1", "image/2"))
				var want []string
				for _, lock := range []string{"image/2", "image/1", "image/3", "image/0", "image/1"} {
					<-time.After(time.Millisecond) // after a restart the time of the submit decides
					want = append(want, b.submit(busy(time.Minute, lock))+"/work")
				}
				<-time.After(time.Second)
				if restart {
					b = b.restart()
				}
				for _, id := range want {
					b.ended(strings.TrimSuffix(id, "/work"))
				}
				var got []string
				for _, e := range b.world.Events() {
					if did := strings.TrimPrefix(e, "do "); did != first+"/work" {
						got = append(got, did)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("they began in the order %v, want %v", got, want)
				}
			})
		})
	}
}

func queueOf(n int) func(*tasks.Options) { return func(o *tasks.Options) { o.QueueLimit = n } }

// TestQueueLimit: what would have to wait in a full queue is refused; what is known, could run at once, or is the agent's own, is not.
func TestQueueLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneAtATime, queueOf(2), ofClass("Test.merge", tasks.ClassMerge))
		try := func(verb, id string, p mock.Params) error {
			_, err := b.Submit(t.Context(), tasks.Submission{ID: id, Verb: verb, Params: encode(t, p), Who: "tester"})
			synctest.Wait()
			return err
		}
		first := b.submit(busy(time.Hour, "image/1"))
		wantCode(t, try("Mock.run", "second", busy(time.Minute, "image/2")), 0, "")
		wantCode(t, try("Mock.run", "third", busy(time.Minute, "image/1")), 0, "")
		wantCode(t, try("Mock.run", "fourth", busy(time.Minute)), code.AddTask, "the queue is full: 2 tasks wait")
		wantCode(t, try("Test.merge", "merge", busy(time.Hour, "image/1")), code.AddTask, "the queue is full")
		if _, err := b.Get("fourth"); code.Of(err) != code.UnknownTask {
			t.Errorf("the refused task is known: %v", err)
		}
		wantCode(t, try("Mock.run", "second", busy(time.Minute, "image/2")), 0, "") // again
		wantCode(t, try("Mock.run", "second", busy(time.Minute)), code.AddTask, "exists")
		wantCode(t, try("Test.merge", "merge", busy(time.Hour, "image/3")), 0, "") // could run at once
		b.wantStates([]string{first, "second", "third", "merge"}, running, queued, queued, running)

		three := 3
		if err := b.SetLimits(nil, &three); err != nil {
			t.Fatal(err)
		}
		wantCode(t, try("Mock.run", "fourth", busy(time.Minute)), 0, "")
		wantCode(t, try("Mock.run", "fifth", busy(time.Minute)), code.AddTask, "3 tasks wait")
		b.stopTask("second")
		synctest.Wait()
		wantCode(t, try("Mock.run", "fifth", busy(time.Minute)), 0, "")
		zero := 0
		if err := b.SetLimits(nil, &zero); err != nil {
			t.Fatal(err)
		}
		wantCode(t, try("Mock.run", "sixth", busy(time.Minute)), 0, "")
		if q := b.Queue(); q.Waiting != 4 || q.Limit != 0 {
			t.Errorf("the queue is %+v", q)
		}
	})
}

// TestQueueLimitAfterTrouble: a submit that the store refused does not take a place in the queue for ever.
func TestQueueLimitAfterTrouble(t *testing.T) {
	for _, failure := range []error{store.ErrUnavailable, store.ErrUnknown} {
		t.Run(failure.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, oneAtATime, queueOf(1))
				b.submit(busy(time.Hour))
				synctest.Wait()
				for range 5 {
					b.onCommit(func(store.Change) error { return failure })
					_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, busy(time.Minute))})
					wantCode(t, err, code.TaskPersist, "")
					b.onCommit(nil)
				}
				b.submit(busy(time.Minute))
				<-time.After(time.Minute)
				if q := b.Queue(); q.Waiting != 1 {
					t.Errorf("%d tasks wait", q.Waiting)
				}
			})
		})
	}
}

// TestQueueTakesReclaims: what the agent itself has to do is never refused.
func TestQueueTakesReclaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, queueOf(1), func(o *tasks.Options) { o.Limits = map[tasks.Class]int{tasks.ClassLight: 1} }, ofClass("Test.light", tasks.ClassLight))
		p := steps(mock.Knobs{Name: "a"})
		p.Reclaims = true
		id := b.submit(p)
		b.ended(id)
		holder := b.submitAs(tasks.Submission{Verb: "Test.light", Params: encode(t, busy(time.Hour))})
		b.submitAs(tasks.Submission{Verb: "Test.light", Params: encode(t, busy(time.Minute))})
		synctest.Wait()
		if err := b.Clear(id, "tester"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if q := b.Queue(); q.Waiting != 2 {
			t.Errorf("%d tasks wait, want a task and a reclaim", q.Waiting)
		}
		b.stopTask(holder)
		<-time.After(time.Hour)
		if events := b.world.Events(); !slices.ContainsFunc(events, func(e string) bool { return strings.HasSuffix(e, "/reclaim") }) {
			t.Errorf("nothing was reclaimed: %v", events)
		}
	})
}

func lockWait(o *tasks.Options) { o.LockWait = time.Minute }

// TestLockWait: a task that does not get its locks in time ends without an effect, and says who has them; one that has its locks waits
// for its slot as long as it takes.
func TestLockWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, lockWait, func(o *tasks.Options) { o.Limits = map[tasks.Class]int{tasks.ClassCopy: 2} })
		holder := b.submit(busy(10*time.Hour, "image/1"))
		behind := b.submit(busy(time.Minute, "image/1", "image/2"))
		other := b.submit(busy(10 * time.Hour))
		slot := b.submit(busy(time.Minute))
		<-time.After(59 * time.Second)
		b.wantStates([]string{holder, behind, other, slot}, running, queued, running, queued)
		<-time.After(2 * time.Second)
		v := b.ended(behind)
		if v.State != recovered || v.Code != code.ResourceTimeout || !v.Started.IsZero() {
			t.Errorf("the one that waits for a lock is %s/%d", v.State, v.Code)
		}
		for _, part := range []string{"after 1m0s", "image/1 (exclusive), which task " + holder + " has"} {
			if !strings.Contains(v.Message, part) {
				t.Errorf("message is %q, want %q in it", v.Message, part)
			}
		}
		if slices.Contains(b.world.Events(), "do "+behind+"/work") {
			t.Error("it has had an effect")
		}
		<-time.After(5 * time.Hour)
		b.wantStates([]string{holder, slot}, running, queued)
		b.stopTask(holder)
		b.ended(slot)
		if v := b.view(slot); v.State != finished {
			t.Errorf("the one that waited for a slot is %s: %s", v.State, v.Message)
		}
		wantCode(t, b.Stop(behind, tasks.StopOptions{}), 0, "") // it has ended rolled back
	})
}

// TestStopOfAWaiting: no time passes, nothing happens, and those behind it go on.
func TestStopOfAWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneAtATime)
		first := b.submit(busy(time.Hour, "image/1"))
		lock, slot := b.submit(busy(time.Minute, "image/1")), b.submit(busy(time.Minute, "image/2"))
		behind := b.submit(busy(time.Minute, "image/2"))
		synctest.Wait()
		start := time.Now()
		for _, id := range []string{lock, slot} {
			b.stopTask(id)
			v := b.ended(id)
			if v.State != recovered || v.Code != code.TaskAborted || !strings.Contains(v.Message, "before it began") || !v.Started.IsZero() {
				t.Errorf("it is %s/%d: %s", v.State, v.Code, v.Message)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the stops took %s", took)
		}
		if v := b.view(behind); len(v.WaitsBehind) > 0 || len(v.WaitsFor) != 1 || !strings.Contains(v.WaitsFor[0], "0 tasks come before") {
			t.Errorf("the one behind waits for %q behind %v", v.WaitsFor, v.WaitsBehind)
		}
		b.stopTask(first)
		b.ended(behind)
		for _, id := range []string{lock, slot} {
			if slices.Contains(b.world.Events(), "do "+id+"/work") {
				t.Error("a stopped task has had an effect")
			}
		}
	})
}

// TestQueueLimitHoldsForConcurrentSubmits: those that are being recorded count as if they had what they need.
func TestQueueLimitHoldsForConcurrentSubmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneAtATime, queueOf(1), ofClass("Test.merge", tasks.ClassMerge))
		var answers, taken atomic.Int64
		disk := make(chan struct{})
		b.submitAs(tasks.Submission{Verb: "Test.merge", Params: encode(t, busy(time.Hour, "image/1"))})
		b.submitAs(tasks.Submission{Verb: "Test.merge", Params: encode(t, busy(time.Hour, "image/1"))}) // the queue is full
		synctest.Wait()
		b.onCommit(func(store.Change) error { <-disk; return nil })
		for range 5 { // each alone could run at once, but not two
			go func() {
				_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, busy(time.Hour, "image/2"))})
				if err == nil {
					taken.Add(1)
				}
				answers.Add(1)
			}()
		}
		synctest.Wait()
		if answers.Load() != 4 {
			t.Errorf("%d submits were refused while the first was being recorded, want 4", answers.Load())
		}
		close(disk)
		synctest.Wait()
		if answers.Load() != 5 || taken.Load() != 1 || b.Queue().Waiting != 1 {
			t.Errorf("of %d submits %d were taken, and %d wait", answers.Load(), taken.Load(), b.Queue().Waiting)
		}
	})
}
