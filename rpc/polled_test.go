package rpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
)

// TestPolledAnswersAreFresh: whatever happens to tasks, what engines poll says the same as the
// tasks one by one.
func TestPolledAnswersAreFresh(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			chance := rand.New(rand.NewPCG(seed, 0))
			e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
			if err := e.Start(nil); err != nil {
				t.Fatal(err)
			}
			defer e.Close(context.Background())
			methods := map[string]rpc.Method{}
			for _, m := range rpc.Methods(e, nil) {
				methods[m.Name] = m
			}
			var ids []string
			for range 150 {
				one := func() string { return ids[chance.IntN(len(ids))] }
				var err error
				switch n := chance.IntN(10); {
				case n < 3 || len(ids) == 0:
					params := fmt.Sprintf(`{"tag":%q,"locks":["l%d"],"steps":[{"slices":%d,"pace":1000000000,"failAt":%d}]}`,
						[]string{"spm", "spm", "local"}[chance.IntN(3)], chance.IntN(3), chance.IntN(4), chance.IntN(8))
					var id string
					id, err = e.Submit(t.Context(), tasks.Submission{Verb: "Mock.run", Params: json.RawMessage(params), Who: "tester"})
					ids = append(ids, id)
				case n == 3:
					err = e.Stop(one(), tasks.StopOptions{Who: "tester"})
				case n == 4:
					err = e.Revert(t.Context(), one(), "tester")
				case n == 5:
					err = e.Clear(one(), "tester")
				case n == 6:
					err = e.Pause(one(), "tester")
				case n == 7:
					err = e.Resume(one(), "tester")
				default:
					time.Sleep(time.Duration(chance.IntN(1500)) * time.Millisecond)
				}
				if code.Of(err) == code.General {
					t.Fatal(err)
				}
				compare(t, e, methods)
			}
		})
	}
}

// compare fails if what is polled is not what the engine says of each task.
func compare(t *testing.T, e *tasks.Engine, methods map[string]rpc.Method) {
	t.Helper()
	synctest.Wait()
	statuses, infos := map[string]wire.TaskStatus{}, map[string]wire.TaskInfo{}
	for _, s := range e.List(tasks.Filter{Tag: tasks.TagSPM}) {
		statuses[s.ID], infos[s.ID] = wire.StatusOf(s), wire.InfoOf(s)
	}
	same(t, methods["Host.getAllTasksStatuses"], statuses)
	same(t, methods["Host.getAllTasksInfo"], infos)
}

func same[T any](t *testing.T, m rpc.Method, want map[string]T) {
	t.Helper()
	result, err := m.Handle(t.Context(), &rpc.Request{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]T{}
	if err := json.Unmarshal(result.(json.RawMessage), &got); err != nil {
		t.Fatalf("%s answers %s: %v", m.Name, result, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s answers %v, want %v", m.Name, got, want)
	}
}
