package tasks

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// Summary is what lists show of a task at one moment. It is the caller's own copy, and costs no look into the store.
type Summary struct {
	ID, Verb, Word, Flow, Tag string
	State                     State
	Code                      code.Code // 411 while it is being stopped; else 0 until the end
	Message                   string    // one sentence
	Progress                  Progress
	Cancelable                bool
	NotCancelable             string // why not
	Revertible                bool   // as far as its state tells; the result is looked at when a revert is asked for
	StopLost                  bool
	Stopped                   bool // undone because of a stop
	Paused                    bool
	StuckSince                time.Time // zero = it is not stuck
	Created, Ended, Updated   time.Time
}

// View is all that is visible of a task at one moment. It is the caller's own copy.
type View struct {
	Summary
	Params                 json.RawMessage
	Who                    string
	Steps                  []StepView
	LastCheckpoint         time.Time // zero = none
	PointOfNoReturn        string    // the step, "" = none before the end
	PastPointOfNoReturn    bool
	DecidedBy              string
	CancelWithin           time.Duration
	StopAsked, RevertAsked *Asked
	PauseAsked             *Asked
	RevertAtEnd            *Asked // its flow was cancelled when it could not be stopped any more
	Limit                  int64  // bytes per second, 0 = none
	Locks                  []Lock
	WaitsFor               []string // in words: locks that others have, or a slot
	WaitsBehind            []string // tasks that have, or will have before, a lock that it needs
	Pids                   []int
	Stuck                  *Stuck
	Residue, Remainder     []string
	Started                time.Time
	Expires                time.Time // until then a finished task can be reverted; zero = until it is cleared
	Deferred               string    // the task that carries out what this one put off
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

// Get returns the task as it is now. Errors: 401 unknown or cleared; 413 if it has ended and the store cannot be read.
func (e *Engine) Get(id string) (View, error) {
	t, err := e.find(id)
	if err != nil {
		return View{}, err
	}
	v, err := t.view()
	if err == nil && v.State == Cleared {
		err = unknownTask(id)
	}
	return v, err
}

// Summary returns what lists show of a task, without a look into the store. Errors: 401 unknown or cleared.
func (e *Engine) Summary(id string) (Summary, error) {
	t, err := e.find(id)
	if err != nil {
		return Summary{}, err
	}
	return t.summary(), nil
}

// Filter selects tasks; zero values select all.
type Filter struct {
	State State
	Verb  string
	Tag   string
	Flow  string
}

func (f Filter) matches(t *task) bool {
	return (f.State == "" || t.state() == f.State) && (f.Verb == "" || t.verb.Name == f.Verb) &&
		(f.Tag == "" || t.tag() == f.Tag) && (f.Flow == "" || t.flow() == f.Flow)
}

// List returns the uncleared tasks that match, oldest first. It waits for nobody.
func (e *Engine) List(f Filter) []Summary {
	list, _ := e.Page(f, Place{}, 0)
	return list
}

// Changes counts what has changed in lists so far, but for what is seen of a task only while it has not ended: its progress and its
// message. So while it is the same, a list of tasks that have all ended is the same too. It is counted after the change
// can be seen, and before anybody is told of it.
func (e *Engine) Changes() uint64 { return e.changes.Load() }

// Place is a task's place in the order of lists, by creation, then by id. It never changes, so that pages neither repeat nor
// miss a task.
type Place struct {
	Created time.Time
	ID      string
}

func (p Place) compare(q Place) int {
	return cmp.Or(p.Created.Compare(q.Created), strings.Compare(p.ID, q.ID))
}

func (t *task) place() Place { return Place{t.created, t.id} }

func (t *task) comparePlace(p Place) int { return t.place().compare(p) }

// Place is where the task stands.
func (s *Summary) Place() Place { return Place{s.Created, s.ID} }

// Page is List from behind a place on, limit tasks at most (0 = all); more says that there are others behind them.
func (e *Engine) Page(f Filter, after Place, limit int) (page []Summary, more bool) {
	for _, t := range e.matching(f, after, limit) {
		if limit > 0 && len(page) == limit {
			return page, true
		}
		page = append(page, t.summary())
	}
	return page, false
}

// matching finds the tasks of a page, and one more if there is one.
func (e *Engine) matching(f Filter, after Place, limit int) []*task {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := 0
	if after != (Place{}) {
		var there bool
		if from, there = slices.BinarySearchFunc(e.order, after, (*task).comparePlace); there {
			from++
		}
	}
	var found []*task
	for _, t := range e.order[from:] {
		if f.matches(t) {
			if found = append(found, t); limit > 0 && len(found) > limit {
				break
			}
		}
	}
	return found
}

// Log returns the audit trail of a task, cleared or not.
func (e *Engine) Log(id string) ([]store.Entry, error) { return e.store.Log(id) }

// Verbs returns the verbs that can be submitted, by name.
func (e *Engine) Verbs() []*Verb {
	return slices.SortedFunc(maps.Values(e.verbs), func(a, b *Verb) int { return strings.Compare(a.Name, b.Name) })
}

func (t *task) summary() Summary {
	r := t.rec.Load()
	if r == nil {
		return t.end.Load().summary(t)
	}
	s := r.summary(t.verb)
	s.Progress = t.progress.view(r.State == Running && r.Paused == nil || r.State == Committing && r.Paused == nil)
	s.Message = t.message(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.StuckSince = t.stuckSince
	return s
}

// summary is as much of a summary as the record alone tells.
func (r *record) summary(v *Verb) Summary {
	s := Summary{
		ID: r.ID, Verb: r.Verb, Word: cmp.Or(v.Word, r.Verb), Flow: r.Flow, Tag: r.Tag, State: r.State, Code: r.wireCode(), Message: r.Message,
		Progress: Progress{Done: r.Done, Total: r.Total}, Revertible: r.revertible(v), StopLost: r.StopLost, Stopped: r.stopped(),
		Paused: r.Paused != nil && !r.State.Final(), Created: r.Created, Ended: r.Ended, Updated: r.Updated,
	}
	s.Cancelable, s.NotCancelable = cancelable(r)
	return s
}

func (e *ended) summary(t *task) Summary {
	s := Summary{
		ID: t.id, Verb: t.verb.Name, Word: cmp.Or(t.verb.Word, t.verb.Name), Flow: e.flow, Tag: e.tag, State: e.state, Code: e.code,
		Message: e.message, Progress: Progress{Done: e.done, Total: e.total}, Revertible: e.revertible, StopLost: e.stopLost,
		Stopped: e.stopped, Created: t.created, Ended: time.UnixMicro(e.ended).UTC(), Updated: time.UnixMicro(e.updated).UTC(),
	}
	s.Cancelable, s.NotCancelable = cancelable(&record{State: e.state})
	return s
}

func (t *task) view() (View, error) {
	r, err := t.current()
	if err != nil {
		return View{}, err
	}
	v := View{
		Summary: r.summary(t.verb), Params: slices.Clone(r.Params), Who: r.Who,
		PointOfNoReturn: t.verb.Contract.PointOfNoReturn, DecidedBy: t.verb.Contract.DecidedBy,
		PastPointOfNoReturn: r.State == Committing || r.State == Finished, CancelWithin: t.verb.Contract.Bound,
		StopAsked: r.Stop.asked(), RevertAsked: r.Revert.asked(), PauseAsked: r.Paused.asked(), RevertAtEnd: r.AtEnd.asked(), Limit: r.Limit,
		Residue: slices.Clone(r.Residue), Remainder: slices.Clone(r.Remains), Started: r.Started, Expires: r.Expires, Deferred: r.Deferred,
	}
	for _, s := range r.Steps {
		v.Steps = append(v.Steps, StepView{s.Name, s.State, s.Started, s.Ended, s.CheckpointAt, s.Error})
		if s.CheckpointAt.After(v.LastCheckpoint) {
			v.LastCheckpoint = s.CheckpointAt
		}
	}
	if r.State.Final() {
		return v, nil
	}
	v.Progress = t.progress.view((r.State == Running || r.State == Committing) && r.Paused == nil)
	v.Message = t.message(r)
	v.Locks = ordered(r.plan.Locks)
	if w := t.waits(maxBehind); w != nil {
		v.WaitsFor, v.WaitsBehind = w.sentences(), w.behind()
	}
	t.mu.Lock()
	workers, since := slices.Clone(t.workers), t.stuckSince
	t.mu.Unlock()
	for _, w := range workers {
		v.Pids = append(v.Pids, w.Pids()...)
	}
	if !since.IsZero() {
		v.StuckSince, v.Stuck = since, &Stuck{since, t.holders()}
	}
	return v, nil
}

// waits says what the task waits for before it can begin, or go on; nil = nothing. At most so many tasks are named that are in
// the way of each lock.
func (t *task) waits(most int) *waiting {
	t.mu.Lock()
	c := t.claim
	t.mu.Unlock()
	if c == nil {
		return nil
	}
	return t.engine.locks.waits(c, most)
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
		return "waiting to be reverted" + t.waitsFor()
	case r.State == Queued:
		return "waiting" + t.waitsFor()
	case r.Paused != nil && (r.State == Running || r.State == Committing):
		return "paused by " + r.Paused.Who + " at step " + r.currentName()
	case r.State == Aborting && r.Cause != nil:
		return r.Cause.Message + "; waiting until its work has ended"
	case r.State == Recovering && r.Cause != nil:
		return r.Cause.Message + "; being undone"
	case len(r.Steps) == 0:
		return string(r.State)
	}
	if slot := t.waitsFor(); slot != "" { // it was resumed
		return "at step " + r.currentName() + ", waiting" + slot
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.note != "" {
		return "at step " + r.currentName() + ": " + t.note
	}
	return "at step " + r.currentName()
}

func (t *task) waitsFor() string {
	w := t.waits(1)
	if w == nil {
		return ""
	}
	return " for " + strings.Join(w.sentences(), " and for ")
}
