package tasks_test

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"

	"github.com/rs/zerolog"
)

// slicedVerb is a verb with one step in slices, which is do.
func slicedVerb(do func(context.Context, *tasks.Scope) error) *tasks.Verb {
	return &tasks.Verb{
		Name: "Test.slices", Params: struct{}{}, Class: tasks.ClassCopy, Contract: tasks.Contract{Bound: 10 * time.Second},
		Plan: func(string, json.RawMessage) (*tasks.Plan, error) {
			return &tasks.Plan{Tag: tasks.TagLocal, Steps: []tasks.Step{{Name: "copy", Slices: true, Do: do}}}, nil
		},
	}
}

// TestResumeBeforeTheStepHasEnded resumes a task whose step has not yet noticed that it was paused: it goes on all the same.
func TestResumeBeforeTheStepHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, let := 0, make(chan struct{})
		verb := slicedVerb(func(ctx context.Context, _ *tasks.Scope) error {
			if calls++; calls == 1 {
				<-ctx.Done()
				<-let
			}
			return context.Cause(ctx)
		})
		b := &bench{t: t, Engine: tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: []*tasks.Verb{verb}, Log: zerolog.Nop()})}
		if err := b.Start(nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.stop)
		id := b.submitAs(tasks.Submission{Verb: "Test.slices", Params: json.RawMessage("{}"), Who: "tester"})
		synctest.Wait()
		if err := b.Pause(id, "tester"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := b.Resume(id, "tester"); err != nil {
			t.Fatal(err)
		}
		close(let)
		if v := b.ended(id); v.State != tasks.Finished || calls != 2 {
			t.Errorf("ended %s after %d calls: %s", v.State, calls, v.Message)
		}
	})
}

// TestProgressThatGoesBack: a slice that is done again does not spoil the rate.
func TestProgressThatGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		verb := slicedVerb(func(_ context.Context, s *tasks.Scope) error {
			for _, done := range []int64{0, 500, 100, 200} {
				s.Progress(done, 1000)
				<-time.After(time.Second)
			}
			<-hold
			return nil
		})
		b := &bench{t: t, Engine: tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: []*tasks.Verb{verb}, Log: zerolog.Nop()})}
		if err := b.Start(nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.stop)
		id := b.submitAs(tasks.Submission{Verb: "Test.slices", Params: json.RawMessage("{}"), Who: "tester"})
		<-time.After(10 * time.Second)
		if p := b.view(id).Progress; p.Rate != 100 || p.Left != 8*time.Second {
			t.Errorf("%.0f bytes per second, %s left", p.Rate, p.Left)
		}
		close(hold)
		b.ended(id)
	})
}
