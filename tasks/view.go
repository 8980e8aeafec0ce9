package tasks

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// View is all that is visible of a task at one moment. It is the caller's own copy.
type View struct {
	ID, Verb, Word, Flow, Tag string
	Params                    json.RawMessage
	Who                       string
	State                     State
	Code                      code.Code // 411 while it is being stopped; else 0 until the end
	Message                   string    // one sentence
	Progress                  Progress
	Steps                     []StepView
	LastCheckpoint            time.Time // zero = none
	Cancelable                bool
	NotCancelable             string // why not
	PointOfNoReturn           string // the step, "" = none before the end
	PastPointOfNoReturn       bool
	DecidedBy                 string
	Revertible                bool // as far as its state tells; the result is looked at when a revert is asked for
	CancelWithin              time.Duration
	StopAsked, RevertAsked    *Asked
	StopLost                  bool
	Stopped                   bool // undone because of a stop
	Locks                     []Lock
	WaitsBehind               []string // tasks that have a lock it needs
	Pids                      []int
	Stuck                     *Stuck
	Residue, Remainder        []string
	Created, Started          time.Time
	Ended, Updated            time.Time
	Deferred                  string // the task that carries out what this one put off
}

// StepView is one step.
type StepView struct {
	Name           string
	State          StepState
	Started, Ended time.Time
	CheckpointAt   time.Time
	Error          string
}

// Asked is a request that was recorded.
type Asked struct {
	At  time.Time
	Who string
}

// Stuck says since when a task is past its bound, and what holds it.
type Stuck struct {
	Since   time.Time
	Holders []string
}

// Get returns the task as it is now. Errors: 401 unknown or cleared.
func (e *Engine) Get(id string) (View, error) {
	t, err := e.find(id)
	if err != nil {
		return View{}, err
	}
	return t.view(), nil
}

// Filter selects tasks; zero values select all.
type Filter struct {
	State State
	Verb  string
	Tag   string
	Flow  string
}

// List returns the uncleared tasks that match, oldest first. It waits for nobody.
func (e *Engine) List(f Filter) []View {
	var out []View
	for _, t := range e.all() {
		r := t.record()
		if (f.State == "" || r.State == f.State) && (f.Verb == "" || r.Verb == f.Verb) &&
			(f.Tag == "" || r.Tag == f.Tag) && (f.Flow == "" || r.Flow == f.Flow) {
			out = append(out, t.view())
		}
	}
	slices.SortFunc(out, func(a, b View) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// Log returns the audit trail of a task, cleared or not.
func (e *Engine) Log(id string) ([]store.Entry, error) { return e.store.Log(id) }

// Wait returns the task as soon as until says so, or with 851 when ctx ends first. A task that is cleared meanwhile
// answers 401.
func (e *Engine) Wait(ctx context.Context, id string, until func(View) bool) (View, error) {
	t, err := e.find(id)
	if err != nil {
		return View{}, err
	}
	for {
		turn := t.turn()
		v := t.view()
		if v.State == Cleared {
			return v, code.Errorf(code.UnknownTask, "task %s was cleared", id)
		}
		if until(v) {
			return v, nil
		}
		select {
		case <-turn:
		case <-e.closing:
			return v, code.Errorf(code.ShuttingDown, "the agent is shutting down; the task goes on when it is back")
		case <-ctx.Done():
			return v, code.Errorf(code.ResourceTimeout, "the task is still %s: %s", v.State, v.Message)
		}
	}
}

// Ended is the usual condition to Wait for.
func Ended(v View) bool { return v.State.Final() }

// Verbs returns the verbs that can be submitted, by name.
func (e *Engine) Verbs() []*Verb {
	return slices.SortedFunc(maps.Values(e.verbs), func(a, b *Verb) int { return strings.Compare(a.Name, b.Name) })
}

func (t *task) view() View {
	r := t.record()
	v := View{
		ID: r.ID, Verb: r.Verb, Word: t.verb.Word, Flow: r.Flow, Tag: r.Tag, Params: slices.Clone(r.Params), Who: r.Who,
		State: r.State, Code: r.wireCode(), Message: t.message(r),
		Progress:        t.progress.view(r.State == Running || r.State == Committing),
		PointOfNoReturn: t.verb.Contract.PointOfNoReturn, DecidedBy: t.verb.Contract.DecidedBy,
		PastPointOfNoReturn: r.State == Committing || r.State == Finished,
		Revertible:          r.State == Failed && r.undoFailed() || r.State == Finished && t.verb.Contract.Revert != "",
		CancelWithin:        t.verb.Contract.Bound,
		StopAsked:           r.Stop.asked(), RevertAsked: r.Revert.asked(), StopLost: r.StopLost,
		Stopped: r.Cause != nil && r.Cause.Kind == causeStop,
		Residue: slices.Clone(r.Residue), Remainder: slices.Clone(r.Remains),
		Created: r.Created, Started: r.Started, Ended: r.Ended, Updated: r.Updated, Deferred: r.Deferred,
	}
	if v.Word == "" {
		v.Word = r.Verb
	}
	v.Cancelable, v.NotCancelable = cancelable(r)
	for _, s := range r.Steps {
		v.Steps = append(v.Steps, StepView{s.Name, s.State, s.Started, s.Ended, s.CheckpointAt, s.Error})
		if s.CheckpointAt.After(v.LastCheckpoint) {
			v.LastCheckpoint = s.CheckpointAt
		}
	}
	if r.State.Final() {
		return v
	}
	v.Locks = ordered(t.plan.Locks)
	t.mu.Lock()
	claim, workers, since := t.claim, slices.Clone(t.workers), t.stuckSince
	t.mu.Unlock()
	if claim != nil {
		v.WaitsBehind = t.engine.locks.behind(claim)
	}
	for _, w := range workers {
		v.Pids = append(v.Pids, w.Pids()...)
	}
	if !since.IsZero() {
		v.Stuck = &Stuck{since, t.holders()}
	}
	return v
}

func (q *request) asked() *Asked {
	if q == nil {
		return nil
	}
	return &Asked{q.At, q.Who}
}

// message is the task's sentence: that of its end, or what it does now.
func (t *task) message(r *record) string {
	switch {
	case r.State.Final() && r.Message != "":
		return r.Message
	case r.State == Queued && r.Revert != nil:
		return "waiting to be reverted"
	case r.State == Queued:
		return "waiting for its locks or for a free slot"
	case r.State == Aborting && r.Cause != nil:
		return r.Cause.Message + "; waiting until its work has ended"
	case r.State == Recovering && r.Cause != nil:
		return r.Cause.Message + "; being undone"
	case len(r.Steps) == 0:
		return string(r.State)
	}
	return "at step " + r.currentName()
}
