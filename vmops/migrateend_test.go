package vmops

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

// TestMigrationEnds: what the harness cannot know by comparing runs: how a migration must end.
func TestMigrationEnds(t *testing.T) {
	run := func(t *testing.T, w *world, params string, meanwhile func(*tasks.Engine, string)) tasks.Summary {
		t.Helper()
		e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: w.Verbs(func(*tasks.Scope, string) error { return nil }), Log: zerolog.Nop()})
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		id, err := e.Submit(t.Context(), tasks.Submission{Verb: "VM.migrate", Params: json.RawMessage(params), Who: "tester"})
		if err != nil {
			t.Fatal(err)
		}
		meanwhile(e, id)
		v, err := e.Wait(t.Context(), id, tasks.Ended)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
		return v
	}
	migrate := `{"vmID":"` + vmID + `","params":{"dst":"` + farAgent + `"}}`
	t.Run("nothing is left of a machine that has gone", func(t *testing.T) {
		for _, how := range []string{"", dieArrived} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(virt.Running).withFar()
				w.far.breaks = how
				v := run(t, w, migrate, func(*tasks.Engine, string) {})
				there := w.far.machines[vmID]
				if v.State != tasks.Finished || len(w.machines) != 0 || there == nil || there.state.Phase != virt.Running {
					t.Errorf("%q: it ended %s: %s\n%s", how, v.State, v.Message, w.Seen())
				}
			})
		}
	})
	t.Run("post-copy cannot be stopped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(virt.Running).withFar()
			w.saveTakes = time.Hour
			schedule := `{"vmID":"` + vmID + `","params":{"dst":"` + farAgent + `","convergenceSchedule":{"stalling":[{"limit":0,"action":{"name":"postcopy"}}]}}}`
			v := run(t, w, schedule, func(e *tasks.Engine, id string) {
				for entered := false; !entered; {
					time.Sleep(100 * time.Millisecond) // of the bubble's clock
					w.mu.Lock()
					entered = w.far.machines[vmID] != nil && w.far.machines[vmID].state.Phase == virt.Running
					w.mu.Unlock()
				}
				if err := e.Stop(id, tasks.StopOptions{Who: "tester"}); code.Of(err) != code.TaskState {
					t.Errorf("the stop answers %v", err)
				}
			})
			if v.State != tasks.Finished || v.StopLost {
				t.Errorf("it ended %s: %s", v.State, v.Message)
			}
		})
	})
	t.Run("a stop before the job", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(virt.Running).withFar()
			w.far.full = time.Now().Add(time.Hour)
			v := run(t, w, `{"vmID":"`+vmID+`","params":{"dst":"`+farAgent+`","incomingLimit":1}}`, func(e *tasks.Engine, id string) {
				synctest.Wait()
				if err := e.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
					t.Error(err)
				}
			})
			if v.State != tasks.Recovered || w.machines[vmID].state.Phase != virt.Running {
				t.Errorf("it ended %s: %s", v.State, v.Message)
			}
		})
	})
}
