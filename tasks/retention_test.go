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

func keep(r tasks.Retention) func(*tasks.Options) {
	return func(o *tasks.Options) { o.Retention = r }
}

// ids lists the uncleared tasks.
func (b *bench) ids() (out []string) {
	for _, s := range b.List(tasks.Filter{}) {
		out = append(out, s.ID)
	}
	return out
}

// TestJobsLeave: those that have ended leave by themselves after their time, however they ended; all others stay.
func TestJobsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, keep(tasks.Retention{Jobs: time.Hour}))
		submit := func(tag string, k mock.Knobs) string {
			p := steps(k)
			p.Tag = tag
			return b.submitAs(tasks.Submission{ID: tag + " " + k.Name, Verb: "Mock.run", Params: encode(t, p), Who: "tester"})
		}
		var jobs []string
		for _, tag := range []string{tasks.TagSDM, tasks.TagVirt, tasks.TagHost} {
			jobs = append(jobs, submit(tag, mock.Knobs{Name: "finishes"}), submit(tag, mock.Knobs{Name: "fails", FailAt: 1}))
		}
		others := []string{submit(tasks.TagSPM, mock.Knobs{Name: "finishes"}), submit(tasks.TagLocal, mock.Knobs{Name: "finishes"}),
			submit(tasks.TagSDM, mock.Knobs{Name: "works", Pace: 2 * time.Hour})}
		slices.Sort(jobs)
		slices.Sort(others)
		all := slices.Sorted(slices.Values(append(slices.Clone(jobs), others...)))
		<-time.After(59 * time.Minute)
		if got := b.ids(); !slices.Equal(slices.Sorted(slices.Values(got)), all) {
			t.Errorf("before their time there are %q", got)
		}
		<-time.After(2 * time.Minute)
		if got := b.ids(); !slices.Equal(slices.Sorted(slices.Values(got)), others) {
			t.Errorf("after an hour there are %q, want %q", got, others)
		}
		for _, id := range jobs {
			log, err := b.Log(id)
			if err != nil || len(log) == 0 || log[len(log)-1].What != "cleared" || log[len(log)-1].Who != "agent" {
				t.Errorf("the trail of %s ends with %+v, %v", id, log[max(0, len(log)-1):], err)
			}
		}
		b = b.restart()
		<-time.After(3*time.Hour - time.Minute) // it begins once more, and ends after two hours
		if got := b.ids(); !slices.Contains(got, "sdm works") {
			t.Errorf("a job left before its time: there are %q", got)
		}
		<-time.After(2 * time.Minute)
		if got := b.ids(); slices.Contains(got, "sdm works") || len(got) != 2 {
			t.Errorf("an hour after its end there are %q", got)
		}
	})
}

// expiring is the mock verb with a trash that is given up a day after the start of the task.
func expiring(o *tasks.Options) {
	likeMock("Test.expiring", func(p *tasks.Plan) {
		p.Expires = func(*tasks.Scope) time.Time { return time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC) } // a bubble begins in 2000
	})(o)
}

// reclaims is how often trash was emptied.
func (b *bench) reclaims() (n int) {
	for _, e := range b.world.Events() {
		if strings.HasSuffix(e, "/reclaim") {
			n++
		}
	}
	return n
}

// TestExpires: what is not cleared in time gives up its undo and its trash, once, whatever the agent did at that moment.
func TestExpires(t *testing.T) {
	meanwhile := map[string]func(b *bench) *bench{
		"up all the time": func(b *bench) *bench { <-time.After(24*time.Hour + time.Second); return b },
		"down then": func(b *bench) *bench {
			b.stop()
			<-time.After(24 * time.Hour)
			b = b.start(nil)
			synctest.Wait()
			return b
		},
		"the store was ill": func(b *bench) *bench {
			<-time.After(23*time.Hour + 30*time.Minute)
			var n atomic.Int64
			b.onCommit(func(store.Change) error {
				return []error{store.ErrUnavailable, store.ErrUnknown}[n.Add(1)%2]
			})
			<-time.After(time.Hour)
			b.onCommit(nil)
			<-time.After(2 * time.Minute)
			return b
		},
	}
	for name, pass := range meanwhile {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, expiring, keep(tasks.Retention{Jobs: time.Hour}))
				p := steps(mock.Knobs{Name: "gone", Deletes: true})
				p.Reclaims = true
				id := b.submitAs(tasks.Submission{Verb: "Test.expiring", Params: encode(t, p), Who: "tester"})
				v := b.ended(id)
				if want := time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC); !v.Revertible || !v.Expires.Equal(want) {
					t.Errorf("revertible %v until %s, want %s", v.Revertible, v.Expires, want)
				}
				b = pass(b)
				v = b.view(id)
				if v.State != tasks.Finished || v.Revertible || v.Deferred == "" || b.reclaims() != 1 {
					t.Errorf("it is %s, revertible %v, has put off %q, and %d times its trash was emptied", v.State, v.Revertible, v.Deferred, b.reclaims())
				}
				wantCode(t, b.Revert(t.Context(), id, "tester"), code.NotRevertible, "not cleared until 2000-01-02")
				b = b.restart()
				<-time.After(48 * time.Hour)
				if got := b.ids(); !slices.Equal(got, []string{id}) {
					t.Errorf("listed are %q", got)
				}
				wantCode(t, b.Clear(id, "tester"), 0, "")
				<-time.After(time.Hour)
				if b.reclaims() != 1 || len(b.ids()) != 0 {
					t.Errorf("after the clear the trash was emptied %d times, and listed are %q", b.reclaims(), b.ids())
				}
			})
		})
	}
}

// TestExpiredNoMore: one that was reverted or cleared in time gives up nothing later.
func TestExpiredNoMore(t *testing.T) {
	for _, reverted := range []bool{false, true} {
		t.Run(fmt.Sprintf("reverted %v", reverted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, expiring)
				p := steps(mock.Knobs{Name: "gone", Deletes: true})
				p.Reclaims = true
				id := b.submitAs(tasks.Submission{Verb: "Test.expiring", Params: encode(t, p), Who: "tester"})
				b.ended(id)
				<-time.After(23 * time.Hour)
				want := 0
				if reverted {
					wantCode(t, b.Revert(t.Context(), id, "tester"), 0, "")
					b.ended(id)
				} else {
					wantCode(t, b.Clear(id, "tester"), 0, "")
					want = 1
				}
				<-time.After(24 * time.Hour)
				if got := b.reclaims(); got != want {
					t.Errorf("the trash was emptied %d times, want %d", got, want)
				}
			})
		})
	}
}

// TestHistoryHasNoSecrets: a secret is kept for the work, and not when the task was cleared; what else it was stays.
func TestHistoryHasNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		const params = `{"steps":[{"name":"a","password":"hunter2"}]}`
		id := b.submitAs(tasks.Submission{Verb: "Mock.run", Params: json.RawMessage(params), Who: "tester"})
		b.ended(id)
		body := func() string {
			row, err := b.store.Get(id)
			if err != nil {
				t.Fatal(err)
			}
			return string(row.Body)
		}
		if !strings.Contains(body(), "hunter2") {
			t.Errorf("it could not be resumed: %s", body())
		}
		if err := b.Clear(id, "tester"); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body(), "hunter2") || !strings.Contains(body(), `"name":"a"`) {
			t.Errorf("the history has %s", body())
		}
	})
}

// TestHistoryIsCut by age and by rows; the trail goes with its task, and nothing that is listed goes.
func TestHistoryIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, keep(tasks.Retention{History: 48 * time.Hour, Rows: 3}))
		kept := b.submit(steps(mock.Knobs{Name: "kept"}))
		b.ended(kept)
		var cleared []string
		clear := func() {
			id := b.submit(steps(mock.Knobs{}))
			b.ended(id)
			wantCode(t, b.Clear(id, "tester"), 0, "")
			cleared = append(cleared, id)
			<-time.After(time.Minute)
		}
		past := func(want ...string) {
			t.Helper()
			list, err := b.Past(store.Place{}, 100)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range list {
				if s.State != tasks.Cleared {
					t.Errorf("in the history is one that is %s", s.State)
				}
				got = append(got, s.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("the history is %v, want %v", got, want)
			}
			for _, id := range cleared {
				log, err := b.Log(id)
				if err != nil || slices.Contains(want, id) != (len(log) > 0) {
					t.Errorf("in the history %v, and its trail has %d entries (%v)", slices.Contains(want, id), len(log), err)
				}
			}
		}
		for range 5 {
			clear()
		}
		past(cleared[4], cleared[3], cleared[2], cleared[1], cleared[0])
		log, _ := b.Log(cleared[0])
		var trail []string
		for _, e := range log {
			trail = append(trail, e.Who+": "+e.What)
		}
		want := []string{"tester: submitted", "agent: has its locks and starts", "agent: step step-1 starts", "agent: finished", "tester: cleared"}
		if !slices.Equal(trail, want) {
			t.Errorf("the trail is %q, want %q", trail, want)
		}
		_, err := b.Submit(t.Context(), tasks.Submission{ID: cleared[0], Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{}))})
		wantCode(t, err, code.AddTask, "history")
		<-time.After(2 * time.Hour)
		past(cleared[4], cleared[3], cleared[2])
		<-time.After(40 * time.Hour)
		clear()
		<-time.After(2 * time.Hour)
		past(cleared[5], cleared[4], cleared[3])
		<-time.After(8 * time.Hour)
		past(cleared[5])
		<-time.After(48 * time.Hour)
		past()
		if v := b.view(kept); v.State != tasks.Finished {
			t.Errorf("the one that was never cleared is %s", v.State)
		}
		b.submitAs(tasks.Submission{ID: cleared[0], Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{}))}) // the id is free again
		b.ended(cleared[0])
	})
}

// TestFencesComeDown by themselves after FenceFor, in memory and in the store, also when the agent was down then.
func TestFencesComeDown(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("down %v", down), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(o *tasks.Options) { o.FenceFor = 10 * time.Minute })
				try := func() error {
					_, err := b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, steps(mock.Knobs{})), Flow: "f1"})
					return err
				}
				b.cancel(false)
				wantCode(t, try(), code.FlowCancelled, "free again at 2000-01-01T00:10:00Z")
				<-time.After(5 * time.Minute)
				b.cancel(false) // again: its time begins anew
				<-time.After(10*time.Minute - time.Second)
				wantCode(t, try(), code.FlowCancelled, "")
				if down {
					b.stop()
				}
				<-time.After(time.Second)
				if down {
					b = b.start(nil)
				}
				wantCode(t, try(), 0, "")
				<-time.After(time.Minute)
				if fences, err := b.store.Fences(); err != nil || len(fences) != 0 {
					t.Errorf("the store has the fences %+v, %v", fences, err)
				}
			})
		})
	}
}

// TestTrailOfRequests: who asked for what is in the trail, in order, also what was refused for nothing.
func TestTrailOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.submit(steps(slow))
		<-time.After(1500 * time.Millisecond)
		for i, ask := range []func(who string) error{
			func(who string) error { return b.Pause(id, who) },
			func(who string) error { return b.SetLimit(id, who, 5) },
			func(who string) error { return b.Resume(id, who) },
			func(who string) error { return b.Stop(id, tasks.StopOptions{Who: who}) },
		} {
			synctest.Wait()
			if err := ask(fmt.Sprint("client ", i)); err != nil {
				t.Fatal(err)
			}
		}
		b.ended(id)
		log, err := b.Log(id)
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		for i, e := range log {
			if i > 0 && e.At.Before(log[i-1].At) {
				t.Error("the trail goes back in time")
			}
			if e.Who != "agent" && e.Who != "tester" {
				asked = append(asked, e.Who+": "+e.What)
			}
		}
		want := []string{"client 0: pause asked for", "client 1: limited to 5 bytes per second", "client 2: resume asked for", "client 3: stop asked for"}
		if !slices.Equal(asked, want) {
			t.Errorf("the trail is %q, want %q", asked, want)
		}
		if _, err := b.Log("none"); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the trail of nothing: %v", err)
		}
	})
}
