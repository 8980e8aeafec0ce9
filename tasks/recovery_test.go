package tasks_test

import (
	"encoding/json"
	"errors"
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

// alter changes the stored record of a task, as a defect or a newer version would, while no agent runs.
func (b *bench) alter(id string, change func(body map[string]any, row *store.Record)) {
	b.t.Helper()
	row, err := b.store.Get(id)
	if err != nil {
		b.t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(row.Body, &body); err != nil {
		b.t.Fatal(err)
	}
	change(body, &row)
	row.Version++
	row.Body = encode(b.t, body)
	if err := b.store.Commit(store.Change{Put: []store.Record{row}}); err != nil {
		b.t.Fatal(err)
	}
}

// aside lists why records were set aside, by id.
func (b *bench) aside() map[string]string {
	b.t.Helper()
	report, err := b.store.Check()
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]string{}
	for _, a := range report.SetAside {
		out[a.ID] = a.Reason
	}
	return out
}

// wrongs are ways in which a record cannot be understood, and a part of the reason that is kept.
var wrongs = map[string]struct {
	change func(body map[string]any, row *store.Record)
	reason string
}{
	"verb":       {func(body map[string]any, row *store.Record) { body["verb"], row.Verb = "No.such", "No.such" }, `no verb "No.such"`},
	"column":     {func(_ map[string]any, row *store.Record) { row.Verb = "No.such" }, "disagrees with its columns"},
	"id":         {func(body map[string]any, _ *store.Record) { body["id"] = "other" }, "disagrees with its columns"},
	"state":      {func(body map[string]any, row *store.Record) { body["state"], row.State = "dreaming", "dreaming" }, `state "dreaming"`},
	"type":       {func(body map[string]any, _ *store.Record) { body["steps"] = "none" }, "cannot be read"},
	"parameters": {func(body map[string]any, _ *store.Record) { body["params"] = map[string]any{"odd": 1} }, "not understood any more"},
	"no steps":   {func(body map[string]any, _ *store.Record) { delete(body, "steps") }, "the verb has 1 steps, the record 0"},
	"step name":  {func(body map[string]any, _ *store.Record) { stepOf(body)["name"] = "other" }, `step 1 is "copy", in the record "other"`},
	"step state": {func(body map[string]any, _ *store.Record) { stepOf(body)["state"] = "odd" }, `in the state "odd"`},
}

func stepOf(body map[string]any) map[string]any { return body["steps"].([]any)[0].(map[string]any) }

// TestSetAsideAtStart: a live record that cannot be understood is set aside with the reason, and keeps nobody from starting.
func TestSetAsideAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ids := map[string]string{}
		for name := range wrongs {
			ids[name] = b.submit(steps(slow))
		}
		good := b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		b.stop()
		for name, w := range wrongs {
			b.alter(ids[name], w.change)
		}
		for range 2 { // they stay where they are
			b = b.start(nil)
			aside := b.aside()
			for name, w := range wrongs {
				if reason := aside[ids[name]]; !strings.Contains(reason, w.reason) {
					t.Errorf("wrong %s: set aside because of %q, want %q", name, reason, w.reason)
				}
				_, err := b.Get(ids[name])
				wantCode(t, err, code.UnknownTask, "")
				_, err = b.Submit(t.Context(), tasks.Submission{ID: ids[name], Verb: "Mock.run", Params: encode(t, steps(slow))})
				wantCode(t, err, code.AddTask, "set aside")
			}
			if len(aside) != len(wrongs) {
				t.Errorf("set aside are %v", aside)
			}
			b.stop()
		}
		b = b.start(nil)
		if v := b.ended(good); v.State != tasks.Finished {
			t.Errorf("the good one is %s", v.State)
		}
	})
}

// TestSetAsideWhenLookedAt: an ended record is not looked at as a whole at the start; what does not understand it sets it aside then.
func TestSetAsideWhenLookedAt(t *testing.T) {
	looks := map[string]func(b *bench, id string) error{
		"get":     func(b *bench, id string) error { _, err := b.Get(id); return err },
		"preview": func(b *bench, id string) error { _, err := b.Preview(id); return err },
		"revert":  func(b *bench, id string) error { return b.Revert(b.t.Context(), id, "tester") },
		"clear":   func(b *bench, id string) error { return b.Clear(id, "tester") },
		"stop":    func(b *bench, id string) error { return b.Stop(id, tasks.StopOptions{}) },
	}
	for name, look := range looks {
		for _, wrong := range []string{"parameters", "no steps", "step name", "step state"} {
			t.Run(name+" "+wrong, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					id := b.submit(steps(slow))
					b.ended(id)
					b.stop()
					b.alter(id, wrongs[wrong].change)
					b = b.start(nil)
					if s, err := b.Summary(id); err != nil || s.State != tasks.Finished || len(b.aside()) != 0 {
						t.Errorf("after the start it is %s (%v), set aside are %v", s.State, err, b.aside())
					}
					wantCode(t, look(b, id), code.TaskPersist, "set aside")
					if reason := b.aside()[id]; !strings.Contains(reason, wrongs[wrong].reason) {
						t.Errorf("set aside because of %q, want %q", reason, wrongs[wrong].reason)
					}
					wantCode(t, look(b, id), code.UnknownTask, "")
					if len(b.ids()) != 0 {
						t.Error("it is listed")
					}
				})
			})
		}
	}
}

// TestLoading starts with 10,000 tasks that have ended and some that have not: the start says how far it is, all are there, and
// the live ones go on.
func TestLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ended, live = 10_000, 30
		b := newBench(t)
		done, running := b.submit(steps(mock.Knobs{Name: "copy"})), b.submit(steps(slow))
		b.ended(done)
		<-time.After(1500 * time.Millisecond)
		b.stop()
		multiply := func(from string, n int, name string) {
			row, err := b.store.Get(from)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				r := row
				r.ID, r.Version = fmt.Sprintf("%s-%05d", name, i), 1
				r.Body = []byte(strings.ReplaceAll(string(row.Body), from, r.ID))
				if err := b.store.Commit(store.Change{Put: []store.Record{r}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		multiply(done, ended, "ended")
		multiply(running, live, "live")
		const all = ended + live + 2
		var told []int
		b.with = append(b.with, func(o *tasks.Options) {
			o.Loading = func(done, total int) {
				if total != all || done < 0 || done > all {
					t.Errorf("told of %d of %d, want at most %d", done, total, all)
				}
				told = append(told, done)
			}
		})
		b = b.start(nil)
		if len(told) < 10 || !slices.IsSorted(told) || told[len(told)-1] != all {
			t.Errorf("told %d times, up to %d", len(told), told[len(told)-1])
		}
		if got := len(b.ids()); got != all {
			t.Errorf("there are %d tasks, want %d", got, all)
		}
		for i := range live {
			if v := b.ended(fmt.Sprintf("live-%05d", i)); v.State != tasks.Finished {
				t.Errorf("a live one is %s", v.State)
			}
		}
		if v := b.view("ended-00077"); v.State != tasks.Finished || len(v.Steps) != 1 || v.Who != "tester" {
			t.Errorf("an ended one is %+v", v)
		}
	})
}

// TestPages covers all tasks that are there all the time exactly once, whatever the size of the page, while others come and go.
func TestPages(t *testing.T) {
	for _, size := range []int{1, 2, 7, 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var stay, leave []string
				for i := range 60 {
					id := b.submit(steps(mock.Knobs{}))
					b.ended(id)
					if i%3 == 0 {
						leave = append(leave, id)
					} else {
						stay = append(stay, id)
					}
					if i%4 == 0 { // some share the time of their submit
						<-time.After(time.Second)
					}
				}
				seen := map[string]int{}
				var order []tasks.Summary
				after, more, pages := tasks.Place{}, true, 0
				for more {
					var page []tasks.Summary
					page, more = b.Page(tasks.Filter{}, after, size)
					if len(page) > size || more && len(page) < size {
						t.Fatalf("a page of %d has %d, and there are more: %v", size, len(page), more)
					}
					for _, s := range page {
						seen[s.ID]++
						order = append(order, s)
						after = s.Place()
					}
					for range min(2, len(leave)) { // the one where the page ended may be among them
						wantCode(t, b.Clear(leave[0], "tester"), 0, "")
						leave = leave[1:]
					}
					if pages++; pages < 20 {
						b.submit(steps(mock.Knobs{}))
						synctest.Wait()
						<-time.After(time.Second)
					}
				}
				for _, id := range stay {
					if seen[id] != 1 {
						t.Errorf("a task was seen %d times", seen[id])
					}
				}
				for id, n := range seen {
					if n > 1 {
						t.Errorf("task %s was seen %d times", id, n)
					}
				}
				if !slices.IsSortedFunc(order, func(a, b tasks.Summary) int { return a.Created.Compare(b.Created) }) {
					t.Error("the pages are not in the order of the submits")
				}
			})
		})
	}
}

// TestPagesAfterARestart: a place that was given out before a restart means the same after it.
func TestPagesAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for range 20 {
			b.ended(b.submit(steps(mock.Knobs{})))
			<-time.After(time.Second + 3*time.Nanosecond) // finer than the store's columns
		}
		all := b.ids()
		first, _ := b.Page(tasks.Filter{}, tasks.Place{}, 9)
		b = b.restart()
		rest, more := b.Page(tasks.Filter{}, first[8].Place(), 0)
		var got []string
		for _, s := range append(first, rest...) {
			got = append(got, s.ID)
		}
		if more || !slices.Equal(got, all) {
			t.Errorf("the pages are %v, want %v", got, all)
		}
	})
}

// TestEndedLooksTheSame: what is shown of an ended task is the same from memory and from the store, before and after a restart.
func TestEndedLooksTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		failing := mock.Knobs{Name: "b", FailAt: 1}
		ids := []string{b.submit(steps(slow)), b.submit(steps(mock.Knobs{Name: "a", UndoFails: 1}, failing)), b.submit(steps(failing)), b.submit(steps(slow)),
			b.submit(steps(mock.Knobs{Name: "c", PointOfNoReturn: true, FailAt: 1, Permanent: true}))}
		<-time.After(1500 * time.Millisecond)
		b.stopTask(ids[3])
		for _, id := range ids {
			b.ended(id)
		}
		var before []tasks.Summary
		for range 2 {
			for i, id := range ids {
				s, err := b.Summary(id)
				if err != nil {
					t.Fatal(err)
				}
				v := b.view(id).Summary
				for _, x := range []*tasks.Summary{&s, &v} { // memory keeps microseconds
					x.Created, x.Ended, x.Updated = x.Created.Truncate(time.Microsecond), x.Ended.Truncate(time.Microsecond), x.Updated.Truncate(time.Microsecond)
				}
				if s != v {
					t.Errorf("the summary is %+v, the view %+v", s, v)
				}
				if len(before) < len(ids) {
					before = append(before, s)
				} else if s != before[i] {
					t.Errorf("after a restart it is %+v, was %+v", s, before[i])
				}
			}
			b = b.restart()
		}
	})
}

// unreadable is a store that can be written, and not always read.
type unreadable struct {
	store.Store
	broken *atomic.Bool
}

var errUnreadable = errors.New("input/output error")

func (u *unreadable) Get(id string) (store.Record, error) {
	if u.broken.Load() {
		return store.Record{}, errUnreadable
	}
	return u.Store.Get(id)
}

// TestUnreadableStore: what lists show comes from memory; the rest of an ended task is refused with 413 and is there again later.
// A task that works needs no reading, and what it puts off is found when the store can be read.
func TestUnreadableStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		b := newBench(t, func(o *tasks.Options) { o.Store = &unreadable{o.Store, &broken} })
		done := b.submit(steps(mock.Knobs{}))
		b.ended(done)
		fails := steps(slow, mock.Knobs{Name: "fails", FailAt: 1})
		fails.Reclaims = true
		works := b.submit(fails)
		synctest.Wait()
		broken.Store(true)
		if s, err := b.Summary(done); err != nil || s.State != tasks.Finished {
			t.Errorf("the summary is %s, %v", s.State, err)
		}
		if got := b.ids(); len(got) != 2 {
			t.Errorf("listed are %v", got)
		}
		_, err := b.Get(done)
		wantCode(t, err, code.TaskPersist, "cannot be read from the store now")
		wantCode(t, b.Revert(t.Context(), done, "tester"), code.TaskPersist, "")
		wantCode(t, b.Clear(done, "tester"), code.TaskPersist, "")
		if v := b.view(works); v.State != tasks.Running || len(v.Steps) != 2 {
			t.Errorf("the one that works is %s", v.State)
		}
		_, err = b.Submit(t.Context(), tasks.Submission{ID: "new", Verb: "Mock.run", Params: encode(t, steps())})
		wantCode(t, err, code.TaskPersist, "")
		if s, err := b.Wait(t.Context(), works, tasks.Ended); err != nil || s.State != tasks.Recovered {
			t.Errorf("the one that works has ended %s, %v", s.State, err)
		}
		<-time.After(time.Minute)
		if b.reclaims() != 0 || len(b.aside()) != 0 {
			t.Errorf("%d reclaims, set aside are %v", b.reclaims(), b.aside())
		}
		broken.Store(false)
		<-time.After(time.Minute)
		if v := b.view(works); v.Deferred == "" || b.reclaims() != 1 {
			t.Errorf("it has put off %q, and there were %d reclaims", v.Deferred, b.reclaims())
		}
		wantCode(t, b.Clear(done, "tester"), 0, "")
	})
}
