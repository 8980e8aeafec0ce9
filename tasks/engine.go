package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
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
	// TermGrace is how long a worker has between SIGTERM and SIGKILL; 0 = 2 s.
	TermGrace time.Duration
	// FenceFor is how long a cancelled flow refuses new forward tasks; 0 = 1 h.
	FenceFor time.Duration
}

// Engine runs tasks. Its methods may be called from any goroutine; those that ask for a change return after it is on stable
// storage.
type Engine struct {
	options Options
	store   store.Store
	log     zerolog.Logger
	verbs   map[string]*Verb
	locks   *lockTable

	ctx     context.Context // ends when the agent shuts down
	shut    context.CancelCauseFunc
	closing <-chan struct{}
	running sync.WaitGroup // drives and escalations

	mu       sync.Mutex // guards what follows; never held while anything blocks
	tasks    map[string]*task
	incoming map[string]chan struct{} // ids that are being submitted; closed when decided

	flows flows
}

// New makes an engine. It does nothing until Start.
func New(o Options) *Engine {
	if o.TermGrace == 0 {
		o.TermGrace = 2 * time.Second
	}
	if o.FenceFor == 0 {
		o.FenceFor = time.Hour
	}
	ctx, shut := context.WithCancelCause(context.Background())
	e := &Engine{
		options: o, store: o.Store, log: o.Log, verbs: map[string]*Verb{}, locks: newLockTable(o.Limits),
		ctx: ctx, shut: shut, closing: ctx.Done(), tasks: map[string]*task{}, incoming: map[string]chan struct{}{},
	}
	for _, v := range o.Verbs {
		if _, twice := e.verbs[v.Name]; twice || v.Contract.Bound <= 0 || v.Plan == nil {
			panic("verb " + v.Name + " is registered twice, or has no bound or no plan")
		}
		e.verbs[v.Name] = v
	}
	return e
}

// Start loads what the store has and lets every task go on from where it is recorded to be. left are the workers of
// the former run that are not proven gone yet, by task: such a task waits for them, and no other does. A record that cannot be
// understood is set aside and logged; it never prevents the start.
func (e *Engine) Start(left map[string][]Worker) error {
	if err := e.flows.load(e.store); err != nil {
		return err
	}
	var found []*task
	unreadable := map[string]string{}
	err := e.store.Live(func(row store.Record) error {
		t, err := e.restore(row)
		if err != nil {
			unreadable[row.ID] = err.Error()
			return nil //nolint:nilerr // it is set aside below, and logged
		}
		found = append(found, t)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the tasks cannot be read from the store: %w", err)
	}
	for id, reason := range unreadable {
		e.log.Error().Str("task", id).Str("reason", reason).Msg("a stored task cannot be understood and is set aside; see vdsm-agentctl store check")
		if err := e.store.SetAside(id, reason); err != nil {
			return fmt.Errorf("the damaged record %s cannot be set aside: %w", id, err)
		}
	}
	e.mu.Lock()
	for _, t := range found {
		e.tasks[t.record().ID] = t
	}
	e.mu.Unlock()
	for _, t := range found { // those that held their locks take them again before any that only waited
		if s := t.state(); !s.Final() && s != Queued {
			t.enter()
		}
	}
	for _, t := range found { // here, so that those that wait keep their order
		if t.state() == Queued {
			t.enter()
		}
	}
	for _, t := range found {
		if t.state().Final() {
			continue
		}
		for _, w := range left[t.record().ID] {
			t.attach(w)
			t.watchBound()
		}
		e.start(t)
	}
	return nil
}

// restore makes a task of a stored row.
func (e *Engine) restore(row store.Record) (*task, error) {
	r, err := readRecord(row)
	if err != nil {
		return nil, err
	}
	v, ok := e.verbs[r.Verb]
	if !ok {
		return nil, fmt.Errorf("there is no verb %q", r.Verb)
	}
	plan, err := v.Plan(r.ID, r.Params)
	if err != nil {
		return nil, fmt.Errorf("the parameters are not understood any more: %w", err)
	}
	if len(plan.Steps) != len(r.Steps) {
		return nil, fmt.Errorf("the verb has %d steps, the record %d", len(plan.Steps), len(r.Steps))
	}
	for i, s := range plan.Steps {
		if s.Name != r.Steps[i].Name {
			return nil, fmt.Errorf("step %d is %q, in the record %q", i+1, s.Name, r.Steps[i].Name)
		}
	}
	return newTask(e, v, plan, r), nil
}

// start lets a task's own goroutine run. The one before it, if any, has returned.
func (e *Engine) start(t *task) {
	t.mu.Lock()
	t.idle = make(chan struct{})
	t.mu.Unlock()
	e.spawn(t.drive)
}

// spawn runs f in a goroutine that Close waits for. Once the agent shuts down nothing new begins.
func (e *Engine) spawn(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() == nil {
		e.running.Go(f)
	}
}

// Close ends all work without changing what is recorded: workers are killed, and the next Start resumes. It waits until all is
// quiet or ctx ends.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.shut(errShutdown)
	e.mu.Unlock()
	for _, t := range e.all() {
		t.interrupt(errShutdown)
		t.force() // the work so far is in the last checkpoint; nothing is gained by asking
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
// Errors: -32601 no such verb, 1000 parameters, 405 id taken, 443 the flow was cancelled, 413 the store, 3001 shutting
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
	leave, err := e.flows.enter(s.Flow, v.Forward)
	if err != nil {
		return "", err
	}
	defer leave()
	if e.ctx.Err() != nil {
		return "", code.Errorf(code.ShuttingDown, "the agent is shutting down; submit again when it is back")
	}
	t := newTask(e, v, plan, newRecord(s, plan))
	err = t.change(s.Who, "submitted", func(r *record) error { r.State = Queued; return nil })
	if err != nil {
		return "", err
	}
	e.register(t)
	return s.ID, nil
}

func newRecord(s Submission, plan *Plan) *record {
	now := time.Now().UTC()
	r := &record{ID: s.ID, Verb: s.Verb, Params: s.Params, Flow: s.Flow, Tag: plan.Tag, Who: s.Who, State: Init, Created: now, Updated: now}
	for _, step := range plan.Steps {
		r.Steps = append(r.Steps, stepRecord{Name: step.Name})
	}
	return r
}

func (e *Engine) register(t *task) {
	e.mu.Lock()
	e.tasks[t.record().ID] = t
	e.mu.Unlock()
	t.enter() // here, so that tasks queue in the order of their submits
	e.start(t)
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
	if t != nil {
		if r := t.record(); r.Verb == s.Verb && string(r.Params) == string(s.Params) {
			return true, nil
		}
		return false, code.Errorf(code.AddTask, "task %s exists with another verb or other parameters; choose another id", s.ID)
	}
	row, err := e.store.Get(s.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil:
		return false, storeError(err)
	case !row.Cleared: // an earlier submit was answered "unknown", and is there
		if t, err = e.restore(row); err != nil {
			return false, err
		}
		e.register(t)
		return e.known(s)
	}
	return false, code.Errorf(code.AddTask, "task %s was cleared and is in the history; choose another id", s.ID)
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

// adopt lets a task run that was recorded together with another's change.
func (e *Engine) adopt(id string) {
	row, err := e.store.Get(id)
	if err == nil && !row.Cleared {
		var t *task
		if t, err = e.restore(row); err == nil {
			e.register(t)
			return
		}
	}
	if err != nil {
		e.log.Error().Err(err).Str("task", id).Msg("a recorded task cannot be read now; it runs after the next start of the agent")
	}
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

func (e *Engine) all() []*task {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*task, 0, len(e.tasks))
	for _, t := range e.tasks {
		out = append(out, t)
	}
	return out
}

func (e *Engine) find(id string) (*task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.tasks[id]; ok {
		return t, nil
	}
	return nil, code.Errorf(code.UnknownTask, "there is no task %s (it may have been cleared)", id)
}
