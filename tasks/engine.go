package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// Options are what an Engine needs.
type Options struct {
	Store store.Store
	Verbs []*Verb
	Log   zerolog.Logger
	// Limits says how many tasks of a class run at a time; 0 or absent = no limit.
	Limits map[Class]int
	// QueueLimit is how many tasks may wait; any beyond is refused. 0 = no limit.
	QueueLimit int
	// Tuning can be changed by Tune.
	Tuning
	// Loading is told during Start how many of how many tasks are read. May be nil.
	Loading func(done, total int)
	// Pulse shows that the engine is alive.
	Pulse Pulse
	// Observer is told what the engine does; nil = nobody is.
	Observer Observer
	// Passing is called before a task passes its point of no return, and what it returns when the step has come to its end, or the agent
	// has. Both return soon. nil = nobody wants to know.
	Passing func(task string) (passed func())
}

// Engine runs tasks. Its methods may be called from any goroutine; those that ask for a change return after it is on stable
// storage.
type Engine struct {
	options  Options
	store    store.Store
	log      zerolog.Logger
	verbs    map[string]*Verb
	locks    *lockTable
	events   bus
	observer Observer
	queue    atomic.Int64 // Options.QueueLimit, as it is now
	tuning   atomic.Pointer[Tuning]
	changes  atomic.Uint64 // see Changes

	ctx     context.Context // ends when the agent shuts down
	shut    context.CancelCauseFunc
	closing <-chan struct{}
	running sync.WaitGroup // drives, escalations, retention

	mu       sync.Mutex // guards what follows; never held while anything blocks
	tasks    map[string]*task
	order    []*task                  // the same tasks, by place
	incoming map[string]chan struct{} // ids that are being submitted; closed when decided

	flows flows
	gate  gate
}

// New makes an engine. It does nothing until Start.
func New(o Options) *Engine {
	ctx, shut := context.WithCancelCause(context.Background())
	e := &Engine{
		options: o, store: o.Store, log: o.Log, verbs: map[string]*Verb{}, locks: newLockTable(o.Limits),
		ctx: ctx, shut: shut, closing: ctx.Done(), tasks: map[string]*task{}, incoming: map[string]chan struct{}{},
	}
	if e.observer = o.Observer; o.Observer == nil {
		e.observer = nobody{}
	}
	e.queue.Store(int64(o.QueueLimit))
	e.Tune(o.Tuning)
	for _, v := range o.Verbs {
		if _, twice := e.verbs[v.Name]; twice || v.Contract.Bound <= 0 || v.Plan == nil || !slices.Contains(Classes, v.Class) {
			panic("verb " + v.Name + " is registered twice, or has no bound, no plan or no class")
		}
		e.verbs[v.Name] = v
	}
	return e
}

// start lets a task's own goroutine run, unless it does already.
func (e *Engine) start(t *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle == nil && e.spawn(t.drive) {
		t.idle = make(chan struct{})
	}
}

// spawn runs f in a goroutine that Close waits for. Once the agent shuts down nothing new begins, and the answer is false.
func (e *Engine) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return false
	}
	e.running.Go(f)
	return true
}

// Close ends all work without changing what is recorded: workers are killed, and the next Start resumes. It waits until all is
// quiet or ctx ends.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.shut(errShutdown)
	e.mu.Unlock()
	for _, t := range e.all() {
		if !t.state().Final() {
			t.interrupt(errShutdown)
			t.force() // the work so far is in the last checkpoint; nothing is gained by asking
		}
	}
	quiet := make(chan struct{})
	go func() { e.running.Wait(); close(quiet) }()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("some tasks did not come to rest: %w", ctx.Err())
	}
}

// Submit records a task and returns its id (G1). The id, if the client chose one, is looked up before anything else is
// checked (G9): the same verb and parameters answer the id again; anything else, or an id in the history, is refused with 405.
//
// Errors: -32601 no such verb, 1000 parameters, 405 id taken, 405 too while the agent is drained, 443 the flow was cancelled, 413 the store, 3001 shutting
// down, and those of the verb's Admit.
func (e *Engine) Submit(ctx context.Context, s Submission) (string, error) {
	v, ok := e.verbs[s.Verb]
	if !ok {
		return "", code.Errorf(code.MethodNotFound, "there is no verb %q", s.Verb)
	}
	params, err := canonical(s.Params)
	if err != nil {
		return "", err
	}
	s.Params = params
	if s.ID == "" {
		s.ID = uuid.NewString()
	} else {
		done, err := e.reserve(ctx, s.ID)
		if err != nil {
			return "", err
		}
		defer done()
		if known, err := e.known(s); known || err != nil {
			return s.ID, err
		}
	}
	plan, err := v.Plan(s.ID, params)
	if err != nil {
		return "", err
	}
	if v.Admit != nil {
		if err := v.Admit(ctx, params); err != nil {
			return "", err
		}
	}
	done, err := e.gate.enter(s.Part)
	if err != nil {
		return "", err
	}
	defer done()
	leave, err := e.flows.enter(s.Flow, v.Forward)
	if err != nil {
		return "", err
	}
	defer leave()
	if e.ctx.Err() != nil {
		return "", code.Errorf(code.ShuttingDown, "the agent is shutting down; submit again when it is back")
	}
	limit := int(e.queue.Load())
	kept := e.locks.reserve(limit, v.Class, plan.Locks)
	if kept == nil {
		return "", code.Errorf(code.AddTask, "the queue is full: %d tasks wait; submit again when some have begun, or raise the limit", limit)
	}
	t := newTask(e, v, newRecord(s, plan))
	err = t.change(s.Who, "submitted", func(r *record) error { r.State = Queued; return nil })
	if err != nil {
		e.locks.giveBack(kept)
		if unknown(err) {
			e.spawn(func() { e.adoptLater(s.ID) })
			err = code.Errorf(code.TaskPersist, "task %s: %w", s.ID, err)
		}
		return "", err
	}
	e.register(t, kept)
	return s.ID, nil
}

// adoptLater looks until it is known whether a task is recorded, such as one whose submit was answered "unknown", and lets it run if
// it is.
func (e *Engine) adoptLater(id string) {
	e.until(func() bool {
		err := e.adopt(id)
		if err == nil || errors.Is(err, store.ErrNotFound) {
			return true
		}
		e.log.Warn().Str("task", id).Err(err).Msg("whether the task is recorded cannot be seen yet; trying again")
		return false
	})
}

// until tries, with growing pauses, until it is done; false if the agent shuts down first.
func (e *Engine) until(done func() bool) bool {
	for delay := retryFirst; !done(); delay = min(2*delay, retryMost) {
		select {
		case <-time.After(delay):
		case <-e.closing:
			return false
		}
	}
	return true
}

func newRecord(s Submission, plan *Plan) *record {
	now := time.Now().UTC()
	r := &record{
		ID: s.ID, Verb: s.Verb, Params: s.Params, Flow: s.Flow, Tag: plan.Tag, Who: s.Who, State: Init, Created: now, Updated: now, plan: plan,
	}
	for _, step := range plan.Steps {
		r.Steps = append(r.Steps, stepRecord{Name: step.Name})
	}
	return r
}

// register makes a recorded task known and lets it run. kept is its seat in the queue, or nil. Nobody can change the task before its
// first event.
func (e *Engine) register(t *task, kept *seat) {
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	e.mu.Lock()
	_, known := e.tasks[t.id]
	if !known {
		e.add(t)
	}
	e.mu.Unlock()
	if known {
		e.locks.giveBack(kept)
		return
	}
	if t.state().Final() {
		e.events.publish(Moved, t)
		return
	}
	t.enter(kept) // here, so that tasks queue in the order of their submits
	e.events.publish(Moved, t)
	e.start(t)
}

// add puts a task where it belongs in the order. The caller holds mu.
func (e *Engine) add(t *task) {
	e.tasks[t.id] = t
	at := len(e.order)
	if at > 0 && e.order[at-1].comparePlace(t.place()) > 0 {
		at, _ = slices.BinarySearchFunc(e.order, t.place(), (*task).comparePlace)
	}
	e.order = slices.Insert(e.order, at, t)
	e.changes.Add(1)
}

// forget takes a cleared task out of all lists.
func (e *Engine) forget(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[t.id] != t {
		return
	}
	delete(e.tasks, t.id)
	if at, there := slices.BinarySearchFunc(e.order, t.place(), (*task).comparePlace); there {
		e.order = slices.Delete(e.order, at, at+1)
	}
	e.changes.Add(1)
}

// reserve makes submits of one id come one after the other.
func (e *Engine) reserve(ctx context.Context, id string) (done func(), err error) {
	for {
		e.mu.Lock()
		other, busy := e.incoming[id]
		if !busy {
			mine := make(chan struct{})
			e.incoming[id] = mine
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				delete(e.incoming, id)
				e.mu.Unlock()
				close(mine)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, code.Errorf(code.ResourceTimeout, "another submit of task %s has not ended: %w", id, ctx.Err())
		}
	}
}

// known says whether the id is that of this very submission; an error if it is another's.
func (e *Engine) known(s Submission) (bool, error) {
	e.mu.Lock()
	t := e.tasks[s.ID]
	e.mu.Unlock()
	if t == nil {
		row, err := e.store.Get(s.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return false, nil
		case err != nil:
			return false, storeError(err)
		case row.Cleared:
			return false, code.Errorf(code.AddTask, "task %s was cleared and is in the history; choose another id", s.ID)
		}
		// Its submit was answered "unknown", and it is there.
		if err := e.adopt(s.ID); err != nil {
			return false, err
		}
		if t, err = e.find(s.ID); err != nil {
			return false, code.Errorf(code.AddTask, "task %s was set aside, since its record is damaged; choose another id", s.ID)
		}
	}
	r, err := t.load()
	if err != nil {
		return false, err
	}
	if r.Verb != s.Verb || string(r.Params) != string(s.Params) {
		return false, code.Errorf(code.AddTask, "task %s exists with another verb or other parameters; choose another id", s.ID)
	}
	return true, nil
}

// alsoSubmit adds the task that s asks for, if any, to a change of r.
func (e *Engine) alsoSubmit(s *Submission, r *record, c *store.Change) error {
	if s == nil {
		return nil
	}
	v, ok := e.verbs[s.Verb]
	if !ok {
		return code.Errorf(code.InternalError, "there is no verb %q to carry out what was put off", s.Verb)
	}
	params, err := canonical(s.Params)
	if err != nil {
		return err
	}
	id := uuid.NewString()
	plan, err := v.Plan(id, params)
	if err != nil {
		return err
	}
	next := newRecord(Submission{ID: id, Verb: s.Verb, Params: params, Flow: r.Flow, Who: agentItself}, plan)
	next.State = Queued
	row, err := next.row()
	if err != nil {
		return err
	}
	r.Deferred = next.ID
	c.Put = append(c.Put, row)
	c.Log = append(c.Log, store.Entry{Task: next.ID, At: next.Created, Who: agentItself, What: "submitted at the end of task " + r.ID})
	return nil
}

// adopt lets a task run that is recorded and not known yet; one that cannot be understood is set aside. Errors: ErrNotFound, those
// of the store.
func (e *Engine) adopt(id string) error {
	row, err := e.store.Get(id)
	if err != nil || row.Cleared {
		return err
	}
	t, err := e.restore(row, &record{})
	if err != nil {
		return e.setAside(id, err)
	}
	e.register(t, nil)
	return nil
}

// canonical writes JSON in one way: no spaces, keys sorted.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return json.RawMessage("{}"), nil
	}
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, code.Errorf(code.InvalidParameter, "the parameters must be a JSON object: %w", err)
	}
	return json.Marshal(v)
}

// all is every uncleared task, oldest first.
func (e *Engine) all() []*task {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.order)
}

func (e *Engine) find(id string) (*task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.tasks[id]; ok {
		return t, nil
	}
	return nil, unknownTask(id)
}

func unknownTask(id string) error {
	return code.Errorf(code.UnknownTask, "there is no task %s (it may have been cleared)", id)
}
