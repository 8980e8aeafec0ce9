package tasks_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest/mock"
)

// TestFlowRaces lets a submit and the cancel of its flow meet, with one of them held in the store while the other comes. The
// submit is refused, or its task is stopped; never is it forgotten.
func TestFlowRaces(t *testing.T) {
	kind := func(c store.Change) string {
		if len(c.Fence) > 0 {
			return "cancel"
		}
		return "submit"
	}
	for _, c := range []struct {
		name  string
		order []string // who comes first
		held  []string // whom the disk is slow with, in the order in which they are let go
	}{
		{"the submit is being recorded", []string{"submit", "cancel"}, []string{"submit"}},
		{"the fence is being recorded", []string{"cancel", "submit"}, []string{"cancel"}},
		{"both are, the fence before", []string{"cancel", "submit"}, []string{"cancel", "submit"}},
		{"both are, the submit before", []string{"submit", "cancel"}, []string{"cancel", "submit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				slow := map[string]chan struct{}{}
				for _, who := range c.held {
					slow[who] = make(chan struct{})
				}
				b.store.OnCommit = func(change store.Change) error {
					if wait := slow[kind(change)]; wait != nil {
						<-wait
					}
					return nil
				}
				var id string
				var refused, failed error
				var stopped []tasks.FlowChange
				done := make(chan struct{}, 2)
				calls := map[string]func(){
					"submit": func() {
						p := steps(mock.Knobs{Name: "a", Pace: time.Hour})
						id, refused = b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, p), Flow: "f"})
					},
					"cancel": func() { stopped, failed = b.CancelFlow(t.Context(), "f", "tester", false) },
				}
				for _, call := range c.order {
					go func() { calls[call](); done <- struct{}{} }()
					synctest.Wait()
				}
				for _, who := range c.held {
					close(slow[who])
					synctest.Wait()
				}
				<-done
				<-done
				if failed != nil {
					t.Fatal(failed)
				}
				if refused != nil {
					wantCode(t, refused, code.FlowCancelled, "tester")
					return
				}
				if !slices.ContainsFunc(stopped, func(f tasks.FlowChange) bool { return f.ID == id }) {
					t.Fatalf("the cancel names %v, and not the task that was taken", stopped)
				}
				b.expect(b.ended(id), tasks.Recovered, code.TaskAborted)
			})
		})
	}
}
