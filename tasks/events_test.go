package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/mock"
)

// taken takes all events that there are.
func taken(t *testing.T, s *tasks.Subscription) []tasks.Event {
	t.Helper()
	synctest.Wait()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	var out []tasks.Event
	for {
		e, err := s.Next(now)
		if err != nil {
			if !errors.Is(err, context.Canceled) || code.Of(err) != code.ResourceTimeout {
				t.Errorf("after the last event: %v", err)
			}
			return out
		}
		out = append(out, e)
	}
}

// moves are the states of one task in its events, with what is marked.
func moves(events []tasks.Event, id string) []string {
	var out []string
	for _, e := range events {
		if e.Kind == tasks.Moved && e.Task.ID == id {
			word := string(e.Task.State)
			if e.Task.Paused {
				word += " paused"
			}
			if !e.Task.StuckSince.IsZero() {
				word += " stuck"
			}
			out = append(out, word)
		}
	}
	return out
}

// TestEventsOfALife: each change of a task is exactly one event, in order.
func TestEventsOfALife(t *testing.T) {
	commit := mock.Knobs{Name: "b", PointOfNoReturn: true, Pace: time.Second}
	cases := []struct {
		name   string
		params mock.Params
		do     func(b *bench, id string)
		want   []string
	}{
		{"success", steps(mock.Knobs{Name: "a"}, commit), func(b *bench, id string) { b.ended(id) }, []string{"queued", "running", "committing", "finished"}},
		{"error", steps(mock.Knobs{FailAt: 1}), func(b *bench, id string) { b.ended(id) }, []string{"queued", "running", "aborting", "recovering", "recovered"}},
		{"revert and clear", steps(mock.Knobs{}), func(b *bench, id string) {
			b.ended(id)
			wantCode(b.t, b.Revert(b.t.Context(), id, "tester"), 0, "")
			b.ended(id)
			wantCode(b.t, b.Clear(id, "tester"), 0, "")
		}, []string{"queued", "running", "finished", "queued", "recovering", "recovered", "cleared"}},
		{"pause and resume", steps(slow), func(b *bench, id string) {
			<-time.After(1500 * time.Millisecond)
			b.pause(id)
			b.pause(id)
			<-time.After(time.Second)
			b.resume(id)
			b.ended(id)
		}, []string{"queued", "running", "running paused", "running", "finished"}},
		{"stop from a pause", steps(slow), func(b *bench, id string) {
			<-time.After(1500 * time.Millisecond)
			b.pause(id)
			<-time.After(time.Second)
			b.stopTask(id)
			b.ended(id)
		}, []string{"queued", "running", "running paused", "aborting", "recovering", "recovered"}},
		{"stuck commit", steps(mock.Knobs{PointOfNoReturn: true, FailAt: 1, FailTimes: 3}), func(b *bench, id string) { b.ended(id) },
			[]string{"queued", "running", "committing", "committing stuck", "committing", "finished"}},
		{"stuck stop", steps(mock.Knobs{Worker: mock.Immortal}), func(b *bench, id string) {
			synctest.Wait()
			b.stopTask(id)
			<-time.After(time.Minute)
			b.world.Release()
			b.ended(id)
		}, []string{"queued", "running", "aborting", "aborting stuck", "recovering stuck", "recovered"}},
		{"stop lost, and then long work", steps(mock.Knobs{Pace: time.Hour, DecidedBy: "libvirt", Finished: true}, mock.Knobs{Pace: time.Hour}), func(b *bench, id string) {
			synctest.Wait()
			b.stopTask(id)
			b.ended(id)
		}, []string{"queued", "running", "aborting", "committing", "finished"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				s := b.Subscribe()
				defer s.Close()
				id := b.submit(c.params)
				c.do(b, id)
				events := taken(t, s)
				if got := moves(events, id); !slices.Equal(got, c.want) {
					t.Errorf("events are %q, want %q", got, c.want)
				}
				if !slices.IsSortedFunc(events, func(a, b tasks.Event) int { return a.At.Compare(b.At) }) {
					t.Error("the times of the events go backwards")
				}
			})
		})
	}
}

// TestSubmitIsTheFirstEvent: also when the task is stopped or goes on while it is made known.
func TestSubmitIsTheFirstEvent(t *testing.T) {
	for round := range 200 { // outside of a bubble, so that goroutines meet in any way
		b := newBench(t)
		s := b.Subscribe()
		id := fmt.Sprint("task-", round)
		go func() {
			for code.Of(b.Stop(id, tasks.StopOptions{Who: "tester"})) == code.UnknownTask {
				runtime.Gosched()
			}
		}()
		b.submitAs(tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{Name: "a"}))})
		b.ended(id)
		b.stop()
		var states []string
		for len(states) == 0 || !tasks.State(states[len(states)-1]).Final() {
			e, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == tasks.Moved {
				states = append(states, string(e.Task.State))
			}
		}
		legal := []string{"queued running finished", "queued aborting recovering recovered", "queued running aborting recovering recovered"}
		if got := strings.Join(states, " "); !slices.Contains(legal, got) {
			t.Fatalf("the events are %s", got)
		}
	}
}

// fast is a step with a slice each 50 ms.
var fast = mock.Knobs{Name: "copy", Slices: 400, Pace: 50 * time.Millisecond}

// TestProgressEvents: at most one a second for each task, and the first at once.
func TestProgressEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.Subscribe()
		defer s.Close()
		ids := []string{b.submit(steps(fast)), b.submit(steps(fast))}
		<-time.After(10 * time.Second)
		last := map[string]tasks.Event{}
		count := map[string]int{}
		for _, e := range taken(t, s) {
			if e.Kind != tasks.Progressed {
				continue
			}
			before := last[e.Task.ID]
			if e.At.Sub(before.At) < time.Second || e.Task.Progress.Done <= before.Task.Progress.Done || e.Task.Progress.Total != 400 {
				t.Errorf("after %s with %+v comes %s with %+v", before.At, before.Task.Progress, e.At, e.Task.Progress)
			}
			last[e.Task.ID] = e
			count[e.Task.ID]++
		}
		for _, id := range ids {
			if count[id] != 10 {
				t.Errorf("%d events of progress in 10 s, want 10", count[id])
			}
			b.ended(id)
		}
	})
}

// TestSlowSubscriber loses progress and is told how much, but no change of a state; others lose nothing.
func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		slowly, other := b.Subscribe(), b.Subscribe()
		defer slowly.Close()
		defer other.Close()
		long := mock.Knobs{Name: "copy", Slices: 400, Pace: time.Second}
		id := b.submit(steps(long))
		var seen []tasks.Event
		for range 400 {
			<-time.After(time.Second)
			seen = append(seen, taken(t, other)...)
		}
		b.ended(id)
		quick := b.submit(steps(mock.Knobs{}))
		b.ended(quick)
		seen = append(seen, taken(t, other)...)
		late := taken(t, slowly)
		if late[0].Kind != tasks.Lagged || late[0].At.IsZero() {
			t.Fatalf("the first event of the slow one is %+v", late[0])
		}
		ofProgress := func(events []tasks.Event) (n int) {
			for _, e := range events {
				if e.Kind == tasks.Progressed {
					n++
				}
			}
			return n
		}
		progress, kept := ofProgress(seen), ofProgress(late)
		if progress != 401 || kept == 0 || kept > 256 || kept+late[0].Lost != progress {
			t.Errorf("there were %d events of progress, the slow one got %d and was told of %d lost", progress, kept, late[0].Lost)
		}
		for _, task := range []string{id, quick} {
			want := []string{"queued", "running", "finished"}
			if got := moves(late, task); !slices.Equal(got, want) {
				t.Errorf("the slow one saw %q, want %q", got, want)
			}
			if got := moves(seen, task); !slices.Equal(got, want) {
				t.Errorf("the other one saw %q, want %q", got, want)
			}
		}
		b.ended(b.submit(steps(mock.Knobs{})))
		if next := taken(t, slowly); len(next) < 3 || slices.ContainsFunc(next, func(e tasks.Event) bool { return e.Kind == tasks.Lagged }) {
			t.Errorf("the slow one has caught up, and gets %+v", next)
		}
	})
}

// TestLostSubscriber: one for whom 65,536 changes of states wait is cut off with an error, and nobody else is.
func TestLostSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.Subscribe()
		id := b.submit(steps(slow))
		other := b.Subscribe()
		synctest.Wait()
		for i := range 1 << 15 {
			b.pause(id)
			b.resume(id)
			if i%1000 == 999 {
				if n := len(taken(t, other)); n < 2000 {
					t.Fatalf("the other one got %d events", n)
				}
			}
		}
		b.ended(id)
		if _, err := s.Next(t.Context()); !errors.Is(err, tasks.ErrLost) {
			t.Errorf("the lost one got %v", err)
		}
		if _, err := s.Next(t.Context()); !errors.Is(err, tasks.ErrLost) {
			t.Errorf("asked again it got %v", err)
		}
		s = b.Subscribe() // again
		next := b.submit(steps(mock.Knobs{}))
		b.ended(next)
		if got := moves(taken(t, s), next); len(got) != 3 {
			t.Errorf("subscribed again it sees %q", got)
		}
		if got := moves(taken(t, other), next); len(got) != 3 {
			t.Errorf("the other one sees %q", got)
		}
	})
}

// TestSubscriptionEnds: by Close, and a wait by its context; others go on.
func TestSubscriptionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s, other := b.Subscribe(), b.Subscribe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := s.Next(ctx); code.Of(err) != code.ResourceTimeout || time.Since(start) != time.Minute {
			t.Errorf("a wait without events ended after %s with %v", time.Since(start), err)
		}
		b.submit(steps(mock.Knobs{}))
		s.Close()
		s.Close()
		if e, err := s.Next(t.Context()); !errors.Is(err, tasks.ErrUnsubscribed) {
			t.Errorf("after Close there is %+v, %v", e, err)
		}
		if got := taken(t, other); len(got) < 3 {
			t.Errorf("the other one has %d events", len(got))
		}
	})
}
