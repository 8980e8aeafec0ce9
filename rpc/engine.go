package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

// Engine is what this package needs of the task engine; *tasks.Engine is one, and says what each method promises.
type Engine interface {
	Submit(ctx context.Context, s tasks.Submission) (string, error)
	Stop(id string, o tasks.StopOptions) error
	Preview(id string) (tasks.Preview, error)
	Revert(ctx context.Context, id, who string) error
	Clear(id, who string) error
	Pause(id, who string) error
	Resume(id, who string) error
	SetLimit(id, who string, bytesPerSecond int64) error
	Get(id string) (tasks.View, error)
	Summary(id string) (tasks.Summary, error)
	List(f tasks.Filter) []tasks.Summary
	Changes() uint64
	Page(f tasks.Filter, after tasks.Place, limit int) (page []tasks.Summary, more bool)
	Past(before store.Place, limit int) ([]tasks.Summary, error)
	Log(id string) ([]store.Entry, error)
	Wait(ctx context.Context, id string, until func(tasks.Summary) bool) (tasks.Summary, error)
	CancelFlow(ctx context.Context, flow, who string, revert bool) ([]tasks.FlowChange, error)
	ReleaseFlow(flow string) error
	Flows(state tasks.State) []tasks.FlowView
	Fenced(flow string) (since time.Time, fenced bool)
	Queue() tasks.Queue
	SetLimits(running map[tasks.Class]int, queue *int) error
	Verbs() []*tasks.Verb
}

var _ Engine = (*tasks.Engine)(nil)

// Methods is the whole table: every verb that e runs as a task, the calls, and the verbs about tasks and flows.
func Methods(e Engine, calls []tasks.Call) []Method {
	out := slices.Concat(taskMethods(e), hostMethods(e), flowMethods(e))
	for _, v := range e.Verbs() {
		out = append(out, submit(e, v))
	}
	for _, c := range calls {
		out = append(out, Method{Name: c.Name, Doc: c.Doc, Role: c.Role, Params: c.Params, Result: c.Result, Ours: c.Ours, Handle: func(ctx context.Context, r *Request) (any, error) {
			return c.Answer(ctx, r.Params)
		}})
	}
	return out
}

// MaxTaskParams is the most bytes of parameters that a task may have: they are kept with it.
const MaxTaskParams = 512 << 10

// submission is what every verb that makes a task takes besides its own parameters.
type submission struct {
	TaskID param.UUID `json:"taskID" default:"" doc:"the id that the task shall have; a new one without"`
	FlowID flowID     `json:"flowID" default:"" doc:"correlation id of the action that the task is part of"`
}

// extras lists the parameters of submission that a verb does not have by itself: those that it has are its own.
func extras(own []param.Field) []param.Field {
	return slices.DeleteFunc(param.Describe(submission{}), func(f param.Field) bool {
		return slices.ContainsFunc(own, func(o param.Field) bool { return o.Name == f.Name })
	})
}

// submit makes a method of a verb that runs as a task.
func submit(e Engine, v *tasks.Verb) Method {
	m := Method{Name: v.Name, Doc: v.Doc, Role: v.Role, Params: v.Params, Result: param.UUID(""), Ours: v.Ours, Task: true}
	var own []param.Field
	if v.Params != nil {
		own = param.Describe(v.Params)
	}
	more := extras(own)
	m.Handle = func(ctx context.Context, r *Request) (any, error) {
		if len(r.Params) > MaxTaskParams {
			return nil, code.Errorf(code.InvalidParameter, "the parameters have %d bytes; a task may have %d at most", len(r.Params), MaxTaskParams)
		}
		params, s, err := separate(r.Params, more)
		if err != nil {
			return nil, err
		}
		id := string(s.TaskID)
		if s.TaskID.IsBlank() {
			id = ""
		}
		flow := string(s.FlowID)
		if flow == "" {
			flow = r.Flow
		}
		return answered(e.Submit(ctx, tasks.Submission{ID: id, Verb: v.Name, Params: params, Flow: flow, Who: r.Who}))
	}
	return m
}

// separate takes what belongs to the submission out of a verb's parameters.
func separate(raw json.RawMessage, more []param.Field) (json.RawMessage, submission, error) {
	var s submission
	all := map[string]json.RawMessage{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, s, code.Errorf(code.InvalidParameter, "the parameters must be a JSON object with a value for each name")
		}
	}
	mine := map[string]json.RawMessage{}
	for _, f := range more {
		if value, given := all[f.Name]; given {
			mine[f.Name] = value
			delete(all, f.Name)
		}
	}
	rest, err := json.Marshal(all)
	if err != nil {
		return nil, s, err
	}
	taken, err := json.Marshal(mine)
	if err != nil {
		return nil, s, err
	}
	return rest, s, param.Decode(taken, &s, param.Strict)
}

// answered makes a handler's answer of a typed one: without it an empty value would go with an error.
func answered[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// taskID is the id of a task that exists: as VDSM does, not empty and without a dot.
type taskID string

// UnmarshalJSON refuses what cannot be the id of a task.
func (t *taskID) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil || s == "" || strings.Contains(s, ".") {
		return code.Errorf(code.InvalidParameter, "it must be the id of a task: a string that is not empty and has no dot")
	}
	*t = taskID(s)
	return nil
}

// flowID is a correlation id, as engines choose it.
type flowID string

const maxFlowID = 255

// UnmarshalJSON refuses what is no correlation id.
func (f *flowID) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil || len(s) > maxFlowID {
		return code.Errorf(code.InvalidParameter, "it must be a correlation id: a string of %d bytes at most", maxFlowID)
	}
	*f = flowID(s)
	return nil
}

// required refuses an absent correlation id where one is needed.
func (f flowID) required() error {
	if f == "" {
		return code.Errorf(code.InvalidParameter, "parameter \"flowID\" is empty")
	}
	return nil
}

// state is one of the engine's words for the state of a task; "" = any.
type state tasks.State

// UnmarshalJSON refuses words that are no state of a task in a list.
func (s *state) UnmarshalJSON(b []byte) error {
	var word string
	if err := json.Unmarshal(b, &word); err != nil || word != "" && !slices.Contains(listed, tasks.State(word)) {
		return code.Errorf(code.InvalidParameter, "it must be one of %s", strings.Trim(fmt.Sprint(listed), "[]"))
	}
	*s = state(word)
	return nil
}

// listed are the states of tasks that lists show.
var listed = []tasks.State{
	tasks.Queued, tasks.Running, tasks.Committing, tasks.Aborting, tasks.Recovering, tasks.Finished, tasks.Recovered, tasks.Failed,
}
