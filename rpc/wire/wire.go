// Package wire is what travels: the JSON that this agent answers, and the words of VDSM in it. It may be imported by rpc,
// rpc/client and the command line; it knows tasks only as views.
package wire

import (
	"encoding/json"
	"time"

	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
)

// TaskStatus is VDSM's answer of Task.getStatus. Engines need all of the keys, non-null, and an integer code.
type TaskStatus struct {
	TaskID     string `json:"taskID"`
	TaskState  string `json:"taskState"`
	TaskResult string `json:"taskResult"`
	Code       int    `json:"code"`
	Message    string `json:"message"`
}

// TaskInfo is VDSM's answer of Task.getInfo.
type TaskInfo struct {
	ID   string `json:"id"`
	Verb string `json:"verb"`
}

// Task is one entry of Host.getAllTasks: VDSM's keys, and what a table needs besides.
type Task struct {
	ID         string    `json:"id"`
	Verb       string    `json:"verb"` // VDSM's word
	State      string    `json:"state"`
	Code       int       `json:"code"`
	Message    string    `json:"message"`
	Result     string    `json:"result"` // "", success, cleanSuccess, cleanFailure
	Tag        string    `json:"tag"`
	Method     string    `json:"method"` // "Volume.copy"
	Flow       string    `json:"flow,omitempty"`
	Progress   *Progress `json:"progress,omitempty"`
	Cancelable bool      `json:"cancelable"`
	Revertible bool      `json:"revertible"`
	Stuck      bool      `json:"stuck,omitempty"`
	Paused     bool      `json:"paused,omitempty"`
	Created    time.Time `json:"created"`
	Ended      time.Time `json:"ended,omitzero"`
}

// Progress is in bytes, bytes per second and seconds.
type Progress struct {
	Done    int64   `json:"done"`
	Total   int64   `json:"total"`
	Percent float64 `json:"percent"`
	Rate    float64 `json:"rate,omitempty"`
	Left    float64 `json:"left,omitempty"`
}

// Details is the answer of Task.getDetails: everything that is visible of a task.
type Details struct {
	Task
	Params         json.RawMessage `json:"params"` // without secrets
	Who            string          `json:"who"`
	Steps          []Step          `json:"steps"`
	LastCheckpoint time.Time       `json:"lastCheckpoint,omitzero"`
	NotCancelable  string          `json:"notCancelable,omitempty"` // why
	// PointOfNoReturn is the step, "" when there is none before the end.
	PointOfNoReturn string    `json:"pointOfNoReturn"`
	Passed          bool      `json:"pointOfNoReturnPassed"`
	DecidedBy       string    `json:"decidedBy,omitempty"`
	CancelWithin    float64   `json:"cancelWithin"` // seconds
	Stop            *Asked    `json:"stop,omitempty"`
	Revert          *Asked    `json:"revert,omitempty"`
	RevertAtEnd     *Asked    `json:"revertAtEnd,omitempty"` // its flow was cancelled when it could not be stopped any more
	Pause           *Asked    `json:"pause,omitempty"`
	BytesPerSecond  int64     `json:"bytesPerSecond,omitempty"` // limit, 0 = none
	StopLost        bool      `json:"stopLost,omitempty"`
	Locks           []Lock    `json:"locks"`
	WaitsFor        []string  `json:"waitsFor"`    // in words: locks that others have, or a slot
	WaitsBehind     []string  `json:"waitsBehind"` // tasks that have, or will have before, a lock that it needs; 16 of each lock at most
	Pids            []int     `json:"pids"`
	StuckSince      time.Time `json:"stuckSince,omitzero"`
	StuckHolders    []string  `json:"stuckHolders,omitempty"`
	Residue         []string  `json:"residue"`
	Remainder       []string  `json:"remainder"`
	Deferred        string    `json:"deferred,omitempty"` // the task that carries out what this one put off
	Started         time.Time `json:"started,omitzero"`
	Expires         time.Time `json:"expires,omitzero"` // a finished task can be reverted until then, if it is not cleared
	Updated         time.Time `json:"updated"`
}

// Step is one step of a task.
type Step struct {
	Name         string    `json:"name"`
	State        string    `json:"state"` // waiting, started, done, undone, undo-failed
	Started      time.Time `json:"started,omitzero"`
	Ended        time.Time `json:"ended,omitzero"`
	CheckpointAt time.Time `json:"checkpointAt,omitzero"`
	Error        string    `json:"error,omitempty"`
}

// Asked is a recorded request.
type Asked struct {
	At  time.Time `json:"at"`
	Who string    `json:"who"`
}

// Lock is one lock of a task.
type Lock struct {
	Key       string `json:"key"`
	Exclusive bool   `json:"exclusive"`
}

// Preview is the answer of Task.stop with dryRun.
type Preview struct {
	Cancelable      bool     `json:"cancelable"`
	Reason          string   `json:"reason,omitempty"`
	PointOfNoReturn string   `json:"pointOfNoReturn"`
	Undo            []string `json:"undo"`
	Remainder       []string `json:"remainder"`
}

// Contract is one verb's row of Host.getCancelContract.
type Contract struct {
	CancellableUntil string  `json:"cancellableUntil"`
	PointOfNoReturn  string  `json:"pointOfNoReturn"`
	DecidedBy        string  `json:"decidedBy"`
	Undo             string  `json:"undo"`
	Remainder        string  `json:"remainder"`
	Revert           string  `json:"revert"` // NotRevertible when a finished task cannot be reverted
	BoundSeconds     float64 `json:"boundSeconds"`
	Forward          bool    `json:"forward"`
}

// state words: the engine's state to VDSM's taskState and taskResult (docs/cancel-contract.md, "Wire words").
var words = map[tasks.State][2]string{
	tasks.Init:       {"init", ""},
	tasks.Queued:     {"running", ""},
	tasks.Running:    {"running", ""},
	tasks.Committing: {"running", ""},
	tasks.Aborting:   {"aborting", ""},
	tasks.Recovering: {"cleaning", ""},
	tasks.Finished:   {"finished", "success"},
	tasks.Recovered:  {"finished", "cleanSuccess"},
	tasks.Failed:     {"finished", "cleanFailure"},
	tasks.Cleared:    {"finished", "success"},
}

// StatusOf is what engines see of a task.
func StatusOf(v tasks.Summary) TaskStatus {
	w := words[v.State]
	return TaskStatus{TaskID: v.ID, TaskState: w[0], TaskResult: w[1], Code: int(v.Code), Message: v.Message}
}

// InfoOf is what engines see of a task's verb.
func InfoOf(v tasks.Summary) TaskInfo { return TaskInfo{ID: v.ID, Verb: v.Word} }

// TaskOf is a task's entry of Host.getAllTasks.
func TaskOf(v tasks.Summary) Task {
	return Task{
		ID: v.ID, Verb: v.Word, State: string(v.State), Code: int(v.Code), Message: v.Message, Result: words[v.State][1], Tag: v.Tag,
		Method: v.Verb, Flow: v.Flow, Progress: progressOf(v.Progress), Cancelable: v.Cancelable, Revertible: v.Revertible,
		Stuck: !v.StuckSince.IsZero(), Paused: v.Paused, Created: v.Created, Ended: v.Ended,
	}
}

// DetailsOf is everything that is visible of a task.
func DetailsOf(v tasks.View) Details {
	d := Details{
		Task: TaskOf(v.Summary), Params: param.Shown(v.Params), Who: v.Who, Steps: []Step{}, LastCheckpoint: v.LastCheckpoint, NotCancelable: v.NotCancelable,
		PointOfNoReturn: v.PointOfNoReturn, Passed: v.PastPointOfNoReturn, DecidedBy: v.DecidedBy, CancelWithin: v.CancelWithin.Seconds(),
		Stop: askedOf(v.StopAsked), Revert: askedOf(v.RevertAsked), RevertAtEnd: askedOf(v.RevertAtEnd), Pause: askedOf(v.PauseAsked),
		BytesPerSecond: v.Limit, Expires: v.Expires, StopLost: v.StopLost,
		Locks: []Lock{}, WaitsFor: OrEmpty(v.WaitsFor), WaitsBehind: OrEmpty(v.WaitsBehind), Pids: OrEmpty(v.Pids), Residue: OrEmpty(v.Residue), Remainder: OrEmpty(v.Remainder),
		Deferred: v.Deferred, Started: v.Started, Updated: v.Updated,
	}
	for _, s := range v.Steps {
		state := string(s.State)
		if s.State == tasks.StepWaiting {
			state = "waiting"
		}
		d.Steps = append(d.Steps, Step{s.Name, state, s.Started, s.Ended, s.CheckpointAt, s.Error})
	}
	for _, l := range v.Locks {
		d.Locks = append(d.Locks, Lock{l.Key, l.Exclusive})
	}
	if v.Stuck != nil {
		d.StuckSince, d.StuckHolders = v.Stuck.Since, v.Stuck.Holders
	}
	return d
}

// PreviewOf is the answer to a dry run of a stop.
func PreviewOf(p tasks.Preview) Preview {
	return Preview{p.Cancelable, p.Reason, p.PointOfNoReturn, OrEmpty(p.Undo), OrEmpty(p.Remainder)}
}

// ContractOf is a verb's row.
func ContractOf(c tasks.Contract, forward bool) Contract {
	revert := c.Revert
	if revert == "" {
		revert = "NotRevertible"
	}
	return Contract{c.CancellableUntil, c.PointOfNoReturn, c.DecidedBy, c.Undo, c.Remainder, revert, c.Bound.Seconds(), forward}
}

// ProgressOf is what the event |tasks|progress|<task id> says.
func ProgressOf(s tasks.Summary) *Progress { return progressOf(s.Progress) }

func progressOf(p tasks.Progress) *Progress {
	if p.Total == 0 {
		return nil
	}
	return &Progress{p.Done, p.Total, p.Percent(), p.Rate, p.Left.Seconds()}
}

func askedOf(a *tasks.Asked) *Asked {
	if a == nil {
		return nil
	}
	return &Asked{a.At, a.Who}
}

// OrEmpty makes of nil an empty list: clients get [], never null.
func OrEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Ended is the answer of Task.stop and Task.revert: true or, to a client that wants to wait, the state in which the task has ended.
// A dry run of a stop answers a Preview.
type Ended struct{}

// TaskList is the answer of Host.getAllTasks: a map of Task by id, as VDSM's, or with a limit a TaskPage.
type TaskList struct{}
