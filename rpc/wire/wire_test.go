package wire

import (
	"encoding/json"
	"testing"
	"time"

	"vdsm-agent/tasks"
)

// TestStatusBytes holds the exact bytes of Task.getStatus that engines read, for every state of the engine: all keys, the
// code an integer, and no null.
func TestStatusBytes(t *testing.T) {
	cases := map[tasks.State]struct {
		view tasks.Summary
		want string
	}{
		tasks.Init:       {tasks.Summary{}, `{"taskID":"t","taskState":"init","taskResult":"","code":0,"message":""}`},
		tasks.Queued:     {tasks.Summary{Message: "waiting"}, `{"taskID":"t","taskState":"running","taskResult":"","code":0,"message":"waiting"}`},
		tasks.Running:    {tasks.Summary{Message: "at step copy"}, `{"taskID":"t","taskState":"running","taskResult":"","code":0,"message":"at step copy"}`},
		tasks.Committing: {tasks.Summary{}, `{"taskID":"t","taskState":"running","taskResult":"","code":0,"message":""}`},
		tasks.Aborting:   {tasks.Summary{Code: 411}, `{"taskID":"t","taskState":"aborting","taskResult":"","code":411,"message":""}`},
		tasks.Recovering: {tasks.Summary{Code: 205}, `{"taskID":"t","taskState":"cleaning","taskResult":"","code":205,"message":""}`},
		tasks.Finished:   {tasks.Summary{Message: "finished"}, `{"taskID":"t","taskState":"finished","taskResult":"success","code":0,"message":"finished"}`},
		tasks.Recovered:  {tasks.Summary{Code: 411}, `{"taskID":"t","taskState":"finished","taskResult":"cleanSuccess","code":411,"message":""}`},
		tasks.Failed:     {tasks.Summary{Code: 225, Message: "left behind: \"x\""}, `{"taskID":"t","taskState":"finished","taskResult":"cleanFailure","code":225,"message":"left behind: \"x\""}`},
		tasks.Cleared:    {tasks.Summary{}, `{"taskID":"t","taskState":"finished","taskResult":"success","code":0,"message":""}`},
	}
	for _, move := range tasks.Transitions {
		for _, state := range []tasks.State{move.From, move.To} {
			if _, tested := cases[state]; !tested {
				t.Errorf("state %s is not tested", state)
			}
		}
	}
	for state, c := range cases {
		c.view.ID, c.view.State = "t", state
		if got := bytes(t, StatusOf(c.view)); got != c.want {
			t.Errorf("%s: got %s, want %s", state, got, c.want)
		}
	}
}

func bytes(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestEmptyBytes: what is not there is left out or empty, but a list is never null.
func TestEmptyBytes(t *testing.T) {
	cases := []struct {
		name string
		of   any
		want string
	}{
		{"info", InfoOf(tasks.Summary{}), `{"id":"","verb":""}`},
		{"task", TaskOf(tasks.Summary{}), `{"id":"","verb":"","state":"","code":0,"message":"","result":"","tag":"","method":"","cancelable":false,"revertible":false,"created":"0001-01-01T00:00:00Z"}`},
		{"details", DetailsOf(tasks.View{Params: json.RawMessage("{}")}), `{"id":"","verb":"","state":"","code":0,"message":"","result":"","tag":"","method":"","cancelable":false,"revertible":false,"created":"0001-01-01T00:00:00Z","params":{},"who":"","steps":[],"pointOfNoReturn":"","pointOfNoReturnPassed":false,"cancelWithin":0,"locks":[],"waitsFor":[],"waitsBehind":[],"pids":[],"residue":[],"remainder":[],"updated":"0001-01-01T00:00:00Z"}`},
		{"preview", PreviewOf(tasks.Preview{}), `{"cancelable":false,"pointOfNoReturn":"","undo":[],"remainder":[]}`},
		{"log", LogOf(nil), `[]`},
		{"contract", ContractOf(tasks.Contract{Bound: 1500 * time.Millisecond}, true), `{"cancellableUntil":"","pointOfNoReturn":"","decidedBy":"","undo":"","remainder":"","revert":"NotRevertible","boundSeconds":1.5,"forward":true}`},
		{"a task of a flow that was cleared meanwhile", FlowTaskOf(tasks.FlowChange{ID: "t", Before: tasks.Running}), `{"verb":"","before":"running","after":"cleared","code":0,"message":"the task was cleared meanwhile"}`},
	}
	for _, c := range cases {
		if got := bytes(t, c.of); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestFullDetails: everything that can be visible of a task, in one.
func TestFullDetails(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	asked := func(who string) *tasks.Asked { return &tasks.Asked{At: at, Who: who} }
	got := bytes(t, DetailsOf(tasks.View{
		Summary: tasks.Summary{
			ID: "t", Verb: "SDM.merge", Word: "merge", Flow: "f", Tag: "sdm", State: tasks.Aborting, Code: 411, Message: "m",
			Progress: tasks.Progress{Done: 1, Total: 4, Rate: 0.5, Left: 6 * time.Second}, NotCancelable: "n", Revertible: true, StopLost: true,
			Paused: true, StuckSince: at, Created: at, Ended: at, Updated: at,
		},
		Params: json.RawMessage(`{"a":1}`), Who: "root (pid 1)",
		Steps:          []tasks.StepView{{Name: "s", Started: at, Ended: at, CheckpointAt: at, Error: "e"}, {Name: "u", State: tasks.StepUndone}},
		LastCheckpoint: at, PointOfNoReturn: "p", PastPointOfNoReturn: true, DecidedBy: "qemu-img", CancelWithin: 10 * time.Second,
		StopAsked: asked("a"), RevertAsked: asked("b"), RevertAtEnd: asked("c"), PauseAsked: asked("e"), Limit: 9,
		Locks: []tasks.Lock{{Key: "k", Exclusive: true}}, WaitsFor: []string{"a slot"}, WaitsBehind: []string{"w"}, Pids: []int{7},
		Stuck: &tasks.Stuck{Since: at, Holders: []string{"h"}}, Residue: []string{"r"}, Remainder: []string{"q"}, Started: at, Expires: at, Deferred: "d",
	}))
	const when = `"2030-01-02T03:04:05Z"`
	want := `{"id":"t","verb":"merge","state":"aborting","code":411,"message":"m","result":"","tag":"sdm","method":"SDM.merge","flow":"f",` +
		`"progress":{"done":1,"total":4,"percent":25,"rate":0.5,"left":6},"cancelable":false,"revertible":true,"stuck":true,"paused":true,"created":` + when + `,"ended":` + when +
		`,"params":{"a":1},"who":"root (pid 1)","steps":[{"name":"s","state":"waiting","started":` + when + `,"ended":` + when + `,"checkpointAt":` + when +
		`,"error":"e"},{"name":"u","state":"undone"}],"lastCheckpoint":` + when + `,"notCancelable":"n","pointOfNoReturn":"p","pointOfNoReturnPassed":true,` +
		`"decidedBy":"qemu-img","cancelWithin":10,"stop":{"at":` + when + `,"who":"a"},"revert":{"at":` + when + `,"who":"b"},"revertAtEnd":{"at":` + when + `,"who":"c"},` +
		`"pause":{"at":` + when + `,"who":"e"},"bytesPerSecond":9,"stopLost":true,` +
		`"locks":[{"key":"k","exclusive":true}],"waitsFor":["a slot"],"waitsBehind":["w"],"pids":[7],"stuckSince":` + when + `,"stuckHolders":["h"],"residue":["r"],"remainder":["q"],` +
		`"deferred":"d","started":` + when + `,"expires":` + when + `,"updated":` + when + `}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
