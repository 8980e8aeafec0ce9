package tasks_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/mock"
)

// TestPassing: who wants to know is told before a point of no return is recorded, and after its step, also when that is refused, and when it is gone through
// once more after a restart; of no other step.
func TestPassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		tell := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what)
		}
		b := newBench(t, func(o *tasks.Options) {
			o.Passing = func(string) func() {
				tell("begins")
				return func() { tell("ends") }
			}
		})
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait() // an end is told after it can be seen
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("%s: it was told %v, want %v", what, told, want)
			}
			told = nil
		}
		b.ended(b.submit(steps(mock.Knobs{Name: "a", Slices: 1})))
		expect("no point of no return")

		id := b.submit(steps(mock.Knobs{Name: "a", Slices: 1}, mock.Knobs{Name: "decides", Slices: 1, Pace: time.Minute, PointOfNoReturn: true}, mock.Knobs{Name: "c", Slices: 1, Pace: time.Minute}))
		time.Sleep(time.Second)
		if s := b.view(id).State; s != tasks.Committing {
			t.Errorf("the task is %s", s)
		}
		expect("in the step", "begins")
		time.Sleep(time.Minute)
		expect("in the one after it", "ends")
		b.ended(id)
		expect("at the end")

		if v := b.ended(b.submit(steps(mock.Knobs{Name: "decides", Slices: 1, FailAt: 1, PointOfNoReturn: true, Refused: true}))); v.State != tasks.Recovered {
			t.Errorf("the task is %s", v.State)
		}
		expect("refused", "begins", "ends")

		b.submit(steps(mock.Knobs{Name: "decides", Slices: 1, Pace: time.Minute, PointOfNoReturn: true}))
		time.Sleep(time.Second)
		b.restart()
		time.Sleep(time.Second)
		expect("after a restart", "begins", "ends", "begins")
	})
}
