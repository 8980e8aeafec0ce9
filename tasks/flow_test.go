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
	for _, c := range []struct {
		name string
		held func(store.Change) bool // the transaction that the disk is slow with
		// first is at work in the store when the other comes.
		first string
	}{
		{"the submit is being recorded", func(c store.Change) bool { return len(c.Put) > 0 }, "submit"},
		{"the fence is being recorded", func(c store.Change) bool { return len(c.Fence) > 0 }, "cancel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				slow := make(chan struct{})
				b.store.OnCommit = func(change store.Change) error {
					if c.held(change) {
						<-slow
					}
					return nil
				}
				var id string
				var refused, failed error
				var stopped []tasks.FlowChange
				done := make(chan struct{})
				calls := map[string]func(){
					"submit": func() {
						p := steps(mock.Knobs{Name: "a", Pace: time.Hour})
						id, refused = b.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: encode(t, p), Flow: "f"})
					},
					"cancel": func() { stopped, failed = b.CancelFlow(t.Context(), "f", "tester", false) },
				}
				order := []string{"submit", "cancel"}
				if c.first == "cancel" {
					slices.Reverse(order)
				}
				for _, call := range order {
					go func() { calls[call](); done <- struct{}{} }()
					synctest.Wait()
				}
				close(slow)
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
