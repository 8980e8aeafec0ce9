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
	"vdsm-agent/rpc/wire"
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
	Subscribe() *tasks.Subscription
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
	Drain(ctx context.Context, who string) error
	Undrain(who string)
	Verbs() []*tasks.Verb
	Hold(what string, locks []tasks.Lock) (release func(), err error)
}

var _ Engine = (*tasks.Engine)(nil)

// Methods is the whole table: every verb that e runs as a task, the calls, and the verbs about tasks and flows.
func Methods(e Engine, calls []tasks.Call) []Method {
	out := slices.Concat(taskMethods(e), hostMethods(e), flowMethods(e), jobMethods(e), eventMethods())
	for _, v := range e.Verbs() {
		out = append(out, submit(e, v))
	}
	for _, c := range calls {
		out = append(out, Method{Name: c.Name, Doc: c.Doc, Role: c.Role, Params: c.Params, Result: c.Result, Ours: c.Ours, Cancels: c.Cancels, Handle: func(ctx context.Context, r *Request) (any, error) {
			return call(tasks.WithAsker(ctx, r.Who), e, c, r.Params)
		}})
	}
	return out
}

// call answers a verb that makes no task, while it holds its locks.
func call(ctx context.Context, e Engine, c tasks.Call, params json.RawMessage) (any, error) {
	if c.Locks != nil {
		locks, err := c.Locks(params)
		if err != nil {
			return nil, err
		}
		release, err := e.Hold(c.Name, locks)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	return c.Answer(ctx, params)
}

// MaxTaskParams is the most bytes of parameters that a task may have: they are kept with it.
const MaxTaskParams = 512 << 10

// submission is what every verb that makes a task takes besides its own parameters.
type submission struct {
	TaskID param.UUID `json:"taskID" default:"" doc:"the id that the task shall have; a new one without"`
	FlowID flowID     `json:"flowID" default:"" doc:"correlation id of the action that the task is part of"`
}

// jobSubmission is that of a verb whose tasks are jobs.
type jobSubmission struct {
	JobID  param.UUID `json:"job_id" doc:"the id that the job shall have"`
	FlowID flowID     `json:"flowID" default:"" doc:"correlation id of the action that the job is part of"`
}

// extras lists the parameters of the submission that a method's verb does not have by itself: those that it has are its own.
func (m *Method) extras(own []param.Described) []param.Described {
	var of any = submission{}
	switch {
	case m.Job:
		of = jobSubmission{}
	case !m.Task:
		return nil
	}
	return slices.DeleteFunc(param.DescribeSchemas(of), func(f param.Described) bool {
		return slices.ContainsFunc(own, func(o param.Described) bool { return o.Name == f.Name })
	})
}

// submit makes a method of a verb that runs as a task.
func submit(e Engine, v *tasks.Verb) Method {
	contract := wire.ContractOf(v.Contract, v.Forward)
	m := Method{Name: v.Name, Doc: v.Doc, Role: v.Role, Params: v.Params, Ours: v.Ours, Task: true, Job: v.Job, Contract: &contract}
	if !v.Job && !v.AnswersTrue {
		m.Result = param.UUID("")
	}
	var own []param.Described
	if v.Params != nil {
		own = param.DescribeSchemas(v.Params)
	}
	more := m.extras(own)
	m.Handle = func(ctx context.Context, r *Request) (any, error) {
		if len(r.Params) > MaxTaskParams {
			return nil, code.Errorf(code.InvalidParameter, "the parameters have %d bytes; a task may have %d at most", len(r.Params), MaxTaskParams)
		}
		params, s, err := separate(r.Params, more, v)
		if err != nil {
			return nil, err
		}
		s.Verb, s.Params, s.Who = v.Name, params, r.Who
		if s.Flow == "" {
			s.Flow = r.Flow
		}
		if len(s.Flow) > maxFlowID {
			return nil, code.Errorf(code.InvalidParameter, "the correlation id of the message has %d bytes; it may have %d at most", len(s.Flow), maxFlowID)
		}
		id, err := e.Submit(ctx, s)
		if err != nil || v.Job || v.AnswersTrue {
			return nil, err
		}
		return id, nil
	}
	return m
}

// separate takes what belongs to the submission out of a verb's parameters.
func separate(raw json.RawMessage, more []param.Described, v *tasks.Verb) (rest json.RawMessage, s tasks.Submission, err error) {
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
	if rest, err = json.Marshal(all); err != nil {
		return nil, s, err
	}
	taken, err := json.Marshal(mine)
	if err != nil {
		return nil, s, err
	}
	var id param.UUID
	var flow flowID
	if v.Job {
		var p jobSubmission
		err = param.Decode(taken, &p, param.Strict)
		if id, flow = p.JobID, p.FlowID; err == nil && id.IsBlank() {
			err = code.Errorf(code.InvalidParameter, "parameter \"job_id\" is blank; choose an id for the job")
		}
	} else {
		var p submission
		err = param.Decode(taken, &p, param.Strict)
		id, flow = p.TaskID, p.FlowID
	}
	if own, given := all[v.IDParam]; err == nil && given && id.IsBlank() {
		if err = json.Unmarshal(own, &id); err != nil {
			err = code.Errorf(code.InvalidParameter, "parameter %q: %w", v.IDParam, err)
		}
	}
	if !id.IsBlank() {
		s.ID = string(id)
	}
	s.Flow = string(flow)
	return rest, s, err
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
	return oneOf(s, b, append(slices.Clone(listed), "")...)
}

// oneOf reads a word that is one of some.
func oneOf[T ~string](to *T, b []byte, words ...T) error {
	var word string
	if err := json.Unmarshal(b, &word); err != nil || !slices.Contains(words, T(word)) {
		return code.Errorf(code.InvalidParameter, "it must be one of %s", strings.TrimSpace(strings.Trim(fmt.Sprint(words), "[]")))
	}
	*to = T(word)
	return nil
}

// listed are the states of tasks that lists show.
var listed = []state{
	state(tasks.Queued), state(tasks.Running), state(tasks.Committing), state(tasks.Aborting), state(tasks.Recovering),
	state(tasks.Finished), state(tasks.Recovered), state(tasks.Failed),
}
