package rpc_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

// compatStates are ways to bring a task where a client can meet it: its steps, what it needs besides, and lines of a script (see
// TestScripts) in which $T is the task.
var compatStates = []struct{ name, steps, more, before, then, after string }{
	{name: "queued", steps: `[]`, more: `,"locks":["x"]`,
		before: `> {"jsonrpc":"2.0","method":"Mock.run","params":{"steps":[{"pace":3600000000000}],"locks":["x"],"tag":"virt","taskID":"00000000-0000-4000-8000-000000000009"},"id":0}`},
	{name: "running", steps: `[{"name":"copy","slices":10,"pace":1000000000}]`, then: "= after 2500ms"},
	{name: "running, paused", steps: `[{"name":"copy","slices":10,"pace":1000000000}]`, then: "= after 2500ms\n" + compatAsk("Task.pause") + "\n= after 1500ms"},
	{name: "committing", steps: `[{"name":"decide","pointOfNoReturn":true,"failAt":1,"failTimes":3}]`, then: "= until $T committing"},
	{name: "aborting", steps: `[{"name":"copy","worker":"immortal"}]`, then: "= until $T running\n" + compatAsk("Task.stop"), after: "= release"},
	{name: "recovering", steps: `[{"name":"copy","pace":3600000000000}]`, before: "= hold undo", then: "= until $T running\n" + compatAsk("Task.stop"), after: "= go"},
	{name: "finished", steps: `[{"name":"copy","slices":4}]`, then: "= until $T finished"},
	{name: "recovered, it was stopped", steps: `[{"name":"copy","pace":3600000000000}]`, then: "= until $T running\n" + compatAsk("Task.stop") + "\n= until $T recovered"},
	{name: "recovered, it had failed", steps: `[{"name":"copy","slices":4,"failAt":3}]`, then: "= until $T recovered"},
	{name: "recovered, it was reverted", steps: `[{"name":"copy"}]`, then: "= until $T finished\n" + compatAsk("Task.revert") + "\n= until $T recovered"},
	{name: "failed", steps: `[{"name":"copy","undoFails":1},{"name":"b","failAt":1}]`, then: "= until $T failed"},
	{name: "failed, it was stopped", steps: `[{"name":"copy","undoFails":1,"pace":3600000000000}]`, then: "= until $T running\n" + compatAsk("Task.stop") + "\n= until $T failed"},
	{name: "cleared", steps: `[]`, then: "= until $T finished\n" + compatAsk("Task.clear")},
}

// compatVerbs are what engines ask for, and of what kind of task.
var compatVerbs = []struct {
	name string
	job  bool
}{
	{"Task.getStatus", false}, {"Task.getInfo", false}, {"Host.getAllTasksStatuses", false}, {"Host.getAllTasksInfo", false}, {"Host.getAllTasks", false},
	{"Task.stop", false}, {"Task.revert", false}, {"Task.clear", false}, {"Host.getJobs", true}, {"Job.abort", true}, {"Job.delete", true},
}

// compatAsk is a request about the task, as engines send it.
func compatAsk(method string) string {
	params := `{"taskID":"$T"}`
	switch {
	case method == "Host.getJobs":
		params = `{"job_type":"storage","job_ids":["$T"]}`
	case strings.HasPrefix(method, "Host."):
		params = `{}`
	case strings.HasPrefix(method, "Job."):
		params = `{"job_id":"$T"}`
	}
	return fmt.Sprintf(`> {"jsonrpc":"2.0","method":%q,"params":%s,"id":0}`, method, params)
}

// TestCompatibility holds, for each verb that engines call about tasks and jobs, and each state, the exact bytes of the answer in
// testdata/compat.golden; -rewrite writes it. The model of the engine (engine_test.go) reads each.
func TestCompatibility(t *testing.T) {
	const golden, id = "testdata/compat.golden", "00000000-0000-4000-8000-000000000001"
	var got strings.Builder
	for _, state := range compatStates {
		fmt.Fprintf(&got, "%s\n", state.name)
		for _, verb := range compatVerbs {
			submit := fmt.Sprintf(`> {"jsonrpc":"2.0","method":"Mock.run","params":{"steps":%s,"tag":"spm","taskID":"$T"%s},"id":0}`, state.steps, state.more)
			if verb.job {
				submit = fmt.Sprintf(`> {"jsonrpc":"2.0","method":"Mock.job","params":{"steps":%s,"job_id":"$T"%s},"id":0}`, state.steps, state.more)
			}
			text := strings.Join([]string{state.before, submit, state.then, compatAsk(verb.name)}, "\n")
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t)
				played := strings.Split(strings.TrimSpace(s.play(strings.ReplaceAll(text, "$T", id))), "\n")
				fmt.Fprintf(&got, "\t%-24s %s\n", verb.name, strings.TrimPrefix(played[len(played)-1], "< "))
				s.play(state.after)
			})
		}
	}
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got.String() {
		t.Errorf("%s\n%s", golden, difference(string(want), got.String()))
	}
}
