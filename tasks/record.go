package tasks

import (
	"encoding/json"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// record is a task as it is stored: everything that must survive a crash. It is never changed in place once it was
// published; (*task).change works on a clone.
type record struct {
	ID       string          `json:"id"`
	Verb     string          `json:"verb"`
	Params   json.RawMessage `json:"params"`
	Flow     string          `json:"flow,omitempty"`
	Tag      string          `json:"tag"`
	Who      string          `json:"who"`
	State    State           `json:"state"`
	Created  time.Time       `json:"created"`
	Started  time.Time       `json:"started,omitzero"`
	Ended    time.Time       `json:"ended,omitzero"`
	Updated  time.Time       `json:"updated"`
	Steps    []stepRecord    `json:"steps"`
	Stop     *request        `json:"stop,omitempty"`
	Revert   *request        `json:"revert,omitempty"`
	Cause    *cause          `json:"cause,omitempty"`
	StopLost bool            `json:"stopLost,omitempty"`
	Message  string          `json:"message,omitempty"`
	Residue  []string        `json:"residue,omitempty"`
	Remains  []string        `json:"remainder,omitempty"`
	Finger   json.RawMessage `json:"fingerprint,omitempty"`
	Done     int64           `json:"done,omitempty"` // bytes, as of the last change
	Total    int64           `json:"total,omitempty"`
	Deferred string          `json:"deferred,omitempty"` // id of the task that carries out what this one put off
	Paused   *request        `json:"paused,omitempty"`
	Limit    int64           `json:"limit,omitempty"` // bytes per second, 0 = none
	// AtEnd asks that the task be reverted when it finishes: its flow was cancelled when it could not be stopped any more.
	AtEnd   *request  `json:"atEnd,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // a finished task can be reverted until then; zero = until it is cleared
	Expired bool      `json:"expired,omitempty"`

	version uint64 // of the store's row; 0 before the insert
	plan    *Plan  // what the verb does with the parameters; the same for all records of a task
}

// stepRecord is what is stored of a step.
type stepRecord struct {
	Name         string          `json:"name"`
	State        StepState       `json:"state,omitempty"`
	Plan         json.RawMessage `json:"plan,omitempty"`
	Checkpoint   json.RawMessage `json:"checkpoint,omitempty"`
	CheckpointAt time.Time       `json:"checkpointAt,omitzero"`
	Started      time.Time       `json:"started,omitzero"`
	Ended        time.Time       `json:"ended,omitzero"`
	Error        string          `json:"error,omitempty"` // of its undo
}

// StepState is where a step is.
type StepState string

// The states of a step.
const (
	StepWaiting    StepState = ""
	StepStarted    StepState = "started" // its plan is recorded; its effect may be there, in part or whole
	StepDone       StepState = "done"
	StepUndone     StepState = "undone"
	StepUndoFailed StepState = "undo-failed"
)

// request is what a client asked of a task.
type request struct {
	At    time.Time `json:"at"`
	Who   string    `json:"who"`
	Force bool      `json:"force,omitempty"`
	Retry bool      `json:"retry,omitempty"` // of an undo that failed
}

// cause is why a task is undone, or failed.
type cause struct {
	Kind    causeKind `json:"kind"`
	Code    code.Code `json:"code"`
	Message string    `json:"message"`
	Step    string    `json:"step,omitempty"`
}

type causeKind string

const (
	causeStop   causeKind = "stop"
	causeError  causeKind = "error"
	causeRevert causeKind = "revert"
)

// ended is what is kept in memory of a task that has ended: what lists show, and what retention needs.
type ended struct {
	state                         State
	code                          code.Code
	message, flow, tag            string
	done, total                   int64
	created, ended, updated       int64 // microseconds since 1970
	expires                       int64 // 0 = never, or it has happened
	version                       uint64
	revertible, stopped, stopLost bool
	atEnd                         bool // it is to be reverted
}

func (r *record) ended(v *Verb) *ended {
	e := &ended{
		state: r.State, code: r.wireCode(), message: r.Message, flow: r.Flow, tag: r.Tag, done: r.Done, total: r.Total,
		created: r.Created.UnixMicro(), ended: r.Ended.UnixMicro(), updated: r.Updated.UnixMicro(), version: r.version,
		revertible: r.revertible(v), stopped: r.stopped(), stopLost: r.StopLost, atEnd: r.State == Finished && r.AtEnd != nil,
	}
	if r.State == Finished && !r.Expires.IsZero() && !r.Expired {
		e.expires = r.Expires.UnixMicro()
	}
	return e
}

// revertible says whether a revert would be taken, as far as the task itself tells; the result is looked at when a revert is
// asked for.
func (r *record) revertible(v *Verb) bool {
	return r.State == Failed && r.undoFailed() || r.State == Finished && v.Contract.Revert != "" && !r.Expired
}

func (r *record) stopped() bool { return r.Cause != nil && r.Cause.Kind == causeStop }

func (r *record) clone() *record {
	c := *r
	c.Steps = slices.Clone(r.Steps)
	c.Residue = slices.Clone(r.Residue)
	c.Remains = slices.Clone(r.Remains)
	return &c
}

// row is the record as the store takes it, one version on.
func (r *record) row() (store.Record, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return store.Record{}, code.Errorf(code.TaskPersist, "the task cannot be written as JSON: %w", err)
	}
	return store.Record{
		ID: r.ID, Version: r.version + 1, Verb: r.Verb, Tag: r.Tag, Flow: r.Flow, State: string(r.State),
		Cleared: r.State == Cleared, Created: r.Created, Updated: r.Updated, Body: body,
	}, nil
}

// asWritten takes all that encoding/json writes: parts of a record come from verbs, and not all are checked for what the faster
// decoder refuses by default.
var asWritten = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func readRecord(row store.Record) (*record, error) {
	r := &record{}
	return r, r.read(row)
}

// read makes r that of the row. Its slice of steps is used again; nothing else of what it was is kept or changed.
func (r *record) read(row store.Record) error {
	*r = record{version: row.Version, Steps: r.Steps[:0]}
	if err := jsonv2.Unmarshal(row.Body, r, asWritten); err != nil {
		return code.Errorf(code.TaskPersist, "the stored task cannot be read: %w", err)
	}
	if r.ID != row.ID || r.Verb != row.Verb || string(r.State) != row.State {
		return code.Errorf(code.TaskPersist, "the stored task disagrees with its columns (id, verb or state)")
	}
	return nil
}

// current is the index of the step that is at work or was last: the last one that was started, or 0.
func (r *record) current() int {
	for i := len(r.Steps) - 1; i >= 0; i-- {
		if r.Steps[i].State != StepWaiting {
			return i
		}
	}
	return 0
}

// currentName is the name of that step; "" in a task without steps.
func (r *record) currentName() string {
	if len(r.Steps) == 0 {
		return ""
	}
	return r.Steps[r.current()].Name
}

// undoFailed says whether an undo is left to be tried again.
func (r *record) undoFailed() bool {
	return slices.ContainsFunc(r.Steps, func(s stepRecord) bool { return s.State == StepUndoFailed })
}

// effects says whether any step may have had an effect that is not undone.
func (r *record) effects() bool {
	return slices.ContainsFunc(r.Steps, func(s stepRecord) bool { return s.State != StepWaiting && s.State != StepUndone })
}
