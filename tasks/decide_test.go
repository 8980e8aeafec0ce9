package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"

	"github.com/rs/zerolog"
)

// TestDecide: a step that decides by itself passes the point of no return when that is recorded, not before, and not after a stop.
func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name   string
		before bool // the stop comes before the decision
		fails  int  // how often the step fails behind it
	}{{"a stop before", true, 0}, {"a stop behind it", false, 0}, {"an error behind it", false, 2}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				decided := make(chan struct{})
				tries := 0
				verb := &tasks.Verb{
					Name: "Test.decides", Class: tasks.ClassLight, Contract: tasks.Contract{Bound: 10 * time.Second},
					Plan: func(string, json.RawMessage) (*tasks.Plan, error) {
						return &tasks.Plan{Tag: tasks.TagVirt, Steps: []tasks.Step{{Name: "one", DecidedBy: "libvirt", Do: func(ctx context.Context, s *tasks.Scope) error {
							var was bool
							if _, err := s.LastCheckpoint(&was); err != nil {
								return err
							}
							if !was {
								<-time.After(time.Second)
								if err := s.Decide(true); err != nil {
									return err
								}
								close(decided)
							}
							<-time.After(time.Second)
							if tries++; tries <= c.fails {
								return errors.New("not yet")
							}
							return nil
						}}}}, nil
					},
				}
				e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: []*tasks.Verb{verb}, Log: zerolog.Nop()})
				if err := e.Start(nil); err != nil {
					t.Fatal(err)
				}
				id, err := e.Submit(t.Context(), tasks.Submission{Verb: "Test.decides", Params: json.RawMessage("{}"), Who: "tester"})
				if err != nil {
					t.Fatal(err)
				}
				if !c.before {
					<-decided
				}
				err = e.Stop(id, tasks.StopOptions{Who: "tester"})
				if c.before && err != nil || !c.before && code.Of(err) != code.TaskState {
					t.Errorf("the stop answers %v", err)
				}
				v, err := e.Wait(t.Context(), id, tasks.Ended)
				if err != nil {
					t.Fatal(err)
				}
				want := tasks.Finished
				if c.before {
					want = tasks.Recovered
				}
				if v.State != want || v.StopLost {
					t.Errorf("it ended %s: %s", v.State, v.Message)
				}
				if err := e.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
