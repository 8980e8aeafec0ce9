package tasks

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"

	"github.com/rs/zerolog"
)

// task is a task in memory: its record, and what is true only while the agent lives.
type task struct {
	engine *Engine
	verb   *Verb
	plan   *Plan
	log    zerolog.Logger

	// lock orders the changes of the record. It is a channel, not a mutex, so that a bubble of testing/synctest sees
	// who waits for it. Whoever holds it may wait for the store, and for nothing else.
	lock   chan struct{}
	doubt  *record                // a change whose fate is unknown: look before the next; guarded by lock
	landed *record                // the last one that was found to be there after all; guarded by lock
	rec    atomic.Pointer[record] // what the store has; replaced, never changed

	progress progress

	mu          sync.Mutex // guards what follows; never held while anything blocks
	changed     chan struct{}
	interrupted error // why the running step was told to end: errStopped, errShutdown
	cancel      context.CancelCauseFunc
	workers     []Worker
	claim       *claim
	answered    bool // the program that decides the current step has answered
	forced      bool // workers get SIGKILL without SIGTERM
	stuckSince  time.Time
	stuckWhy    string
	bound       *time.Timer   // marks the task as stuck; nil = not started
	idle        chan struct{} // closed when drive has returned
}

// Why a step's ctx ended.
var (
	errStopped  = errors.New("the task was stopped")
	errShutdown = errors.New("the agent is shutting down")
)

func newTask(e *Engine, v *Verb, p *Plan, r *record) *task {
	t := &task{
		engine: e, verb: v, plan: p, lock: make(chan struct{}, 1), changed: make(chan struct{}),
		log: e.log.With().Str("task", r.ID).Str("verb", r.Verb).Str("flow", r.Flow).Logger(),
	}
	t.rec.Store(r)
	t.progress.reset(r.Done, r.Total)
	return t
}

func (t *task) record() *record { return t.rec.Load() }
func (t *task) state() State    { return t.record().State }

// change is the only way a record changes. It calls mutate with a copy of the record as it is now, checks the move
// against the table, and returns after the store has it; then readers see it. An error of mutate, an illegal move and an
// error of the store leave the record as it was.
//
// also, if not nil, adds to the transaction what must be recorded together with the change.
func (t *task) change(who, what string, mutate func(*record) error, also ...func(*record, *store.Change) error) error {
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	if err := t.settleDoubt(); err != nil {
		return err
	}
	before := t.record()
	after := before.clone()
	if err := mutate(after); err != nil {
		return err
	}
	if err := checkTransition(before.State, after.State); err != nil {
		return err
	}
	after.Updated = time.Now().UTC()
	after.Done, after.Total = t.progress.bytes()
	c := store.Change{}
	for _, add := range also {
		if err := add(after, &c); err != nil {
			return err
		}
	}
	row, err := after.row()
	if err != nil {
		return err
	}
	c.Put = append(c.Put, row)
	if what != "" {
		c.Log = append(c.Log, store.Entry{Task: after.ID, At: after.Updated, Who: who, What: what})
	}
	if err := t.engine.store.Commit(c); err != nil {
		if errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrConflict) {
			t.doubt = after
		}
		return storeError(err)
	}
	after.version = row.Version
	t.publish(after)
	return nil
}

// settleDoubt finds out what became of a change whose fate was unknown: it is not there, or there as a whole. The caller
// holds lock.
func (t *task) settleDoubt() error {
	if t.doubt == nil {
		return nil
	}
	row, err := t.engine.store.Get(t.record().ID)
	if err != nil {
		return storeError(err)
	}
	doubted := t.doubt
	t.doubt = nil
	if row.Version == t.record().version {
		return nil
	}
	after, err := readRecord(row)
	if err != nil {
		return err
	}
	t.landed = doubted
	t.publish(after)
	return nil
}

// publish shows a record that the store has to all readers and, if it is a stop, to the task's own goroutine. Who sees a
// final state finds the task's locks free, and the task that it put off known.
func (t *task) publish(r *record) {
	if r.State.Final() {
		t.unlock()
	}
	if r.Deferred != t.record().Deferred {
		t.engine.adopt(r.Deferred)
	}
	before := t.rec.Swap(r)
	if before.State != r.State {
		t.log.Info().Str("from", string(before.State)).Str("state", string(r.State)).Msg("task moved")
	}
	if r.State == Aborting && r.Stop != nil {
		t.interrupt(errStopped)
	}
	t.wake()
}

// wake tells everybody who waits for this task to look again.
func (t *task) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}

// turn returns a channel that is closed at the next wake.
func (t *task) turn() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// persist is change by the agent itself, for the task's own goroutine, which cannot go on without: it tries again until the store has it, the
// task is not in a state where it applies, or the agent shuts down.
func (t *task) persist(what string, mutate func(*record) error, also ...func(*record, *store.Change) error) error {
	var mine *record
	once := func(r *record) error {
		if mine != nil && t.landed == mine {
			return errLanded
		}
		mine = r
		return mutate(r)
	}
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err := t.change(agentItself, what, once, also...)
		if errors.Is(err, errLanded) {
			return nil
		}
		if code.Of(err) != code.TaskPersist {
			return err
		}
		t.log.Error().Err(err).Dur("retry", delay).Msg("the store does not take the task's state; trying again")
		select {
		case <-time.After(delay):
		case <-t.engine.closing:
			return errShutdown
		}
	}
}

// errLanded: a change whose fate was unknown is there.
var errLanded = errors.New("the change was recorded")

const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

func storeError(err error) error {
	switch {
	case errors.Is(err, store.ErrUnknown):
		return code.Errorf(code.TaskPersist, "it is not known whether the request was recorded; ask for the task's state before you repeat it: %w", err)
	default:
		return code.Errorf(code.TaskPersist, "the request could not be recorded and has no effect; try again when the store is well: %w", err)
	}
}
