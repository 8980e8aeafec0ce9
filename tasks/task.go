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

// task is a task in memory: its record, and what is true only while the agent lives. Of one that has ended only what lists
// show is kept, so that very many can wait to be cleared; the rest is read from the store when somebody asks.
type task struct {
	engine  *Engine
	id      string
	verb    *Verb
	created time.Time
	own     bool // asked for by the agent itself: nobody else would clear it

	// lock orders the changes of the record. It is a channel, not a mutex, so that a bubble of testing/synctest sees
	// who waits for it. Whoever holds it may wait for the store, and for nothing else.
	lock   chan struct{}
	doubt  *record                // a change whose fate is unknown: look before the next; guarded by lock
	landed *record                // the last one that was found to be there after all; guarded by lock
	since  int64                  // microseconds since 1970: when it got its state, or was read; guarded by lock
	rec    atomic.Pointer[record] // what the store has; replaced, never changed; nil when the task has ended
	end    atomic.Pointer[ended]  // set before rec becomes nil

	progress progress

	mu          sync.Mutex // guards what follows; never held while anything blocks
	changed     chan struct{}
	interrupted error // why the running step was told to end: errStopped, errPaused, errShutdown
	cancel      context.CancelCauseFunc
	workers     []Worker
	claim       *claim
	answered    bool // the program that the current step asks has answered
	forced      bool // workers get SIGKILL without SIGTERM
	stuckSince  time.Time
	stuckWhy    string
	note        string        // what the step waits for
	bound       *time.Timer   // marks the task as stuck; nil = not started
	idle        chan struct{} // closed when drive has returned
}

// Why a step's ctx ended.
var (
	errStopped  = errors.New("the task was stopped")
	errPaused   = errors.New("the task was paused")
	errShutdown = errors.New("the agent is shutting down")
)

// newTask makes a task of a record that has its plan, or has ended.
func newTask(e *Engine, v *Verb, r *record) *task {
	t := &task{engine: e, id: r.ID, verb: v, created: r.Created, own: r.Who == agentItself, lock: make(chan struct{}, 1), since: time.Now().UnixMicro()}
	t.progress.reset(r.Done, r.Total)
	t.show(r)
	return t
}

// log makes the task's logger: every line carries task, verb and flow.
func (t *task) log() *zerolog.Logger {
	l := t.engine.log.With().Str("task", t.id).Str("verb", t.verb.Name).Str("flow", t.flow()).Logger()
	return &l
}

// record is what the store has of a task that has not ended; nil afterwards. The task's own goroutine may rely on it until it
// has recorded an end; everybody else uses current.
func (t *task) record() *record { return t.rec.Load() }

// load is the record of any task; the caller holds lock, or does not mind one that is not published yet. Errors: 413 when that of
// an ended one cannot be read, or was set aside since it cannot be understood.
func (t *task) load() (*record, error) {
	if r := t.rec.Load(); r != nil {
		return r, nil
	}
	row, err := t.engine.store.Get(t.id)
	if err != nil {
		return nil, code.Errorf(code.TaskPersist, "the task has ended, and the rest of it cannot be read from the store now: %w", err)
	}
	r, err := t.engine.understand(t.verb, row)
	if err != nil { // looking at every ended task at the start would take too long
		if aside := t.engine.setAside(t.id, err); aside != nil {
			return nil, code.Errorf(code.TaskPersist, "%w", aside)
		}
		t.engine.forget(t)
		return nil, code.Errorf(code.TaskPersist, "the task was set aside, see vdsm-agentctl store check: %w", err)
	}
	return r, nil
}

func (t *task) state() State {
	if r := t.rec.Load(); r != nil {
		return r.State
	}
	return t.end.Load().state
}

func (t *task) version() uint64 {
	if r := t.rec.Load(); r != nil {
		return r.version
	}
	return t.end.Load().version
}

func (t *task) flow() string {
	if r := t.rec.Load(); r != nil {
		return r.Flow
	}
	return t.end.Load().flow
}

func (t *task) isPaused() bool {
	r := t.rec.Load()
	return r != nil && r.Paused != nil
}

func (t *task) tag() string {
	if r := t.rec.Load(); r != nil {
		return r.Tag
	}
	return t.end.Load().tag
}

// show makes r what readers see.
func (t *task) show(r *record) {
	if r.State.Final() {
		t.end.Store(r.ended(t.verb))
		r = nil
	}
	t.rec.Store(r)
	t.engine.changes.Add(1)
}

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
	before, err := t.load()
	if err != nil {
		return err
	}
	if before.State == Cleared {
		return unknownTask(t.id)
	}
	after := before.clone()
	if err := mutate(after); err != nil {
		return err
	}
	if err := checkTransition(before.State, after.State); err != nil {
		return err
	}
	if after.State != Running && after.State != Committing {
		after.Paused = nil // only one that works can be paused
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
		if unknown(err) {
			t.doubt = after
		}
		return storeError(err)
	}
	after.version = row.Version
	t.publish(before.Deferred, after)
	return nil
}

func unknown(err error) bool {
	return errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrConflict)
}

// ask is change for a client. One who was told that it is not known whether the request was recorded may never ask again, so
// the task finds out by itself.
func (t *task) ask(who, what string, mutate func(*record) error, also ...func(*record, *store.Change) error) error {
	err := t.change(who, what, mutate, also...)
	if unknown(err) {
		t.engine.spawn(t.resolve)
	}
	return err
}

// resolve looks until it is known what became of a change whose fate was unknown.
func (t *task) resolve() { t.engine.until(func() bool { return t.settle() == nil }) }

// settle is settleDoubt for those who do not hold the lock.
func (t *task) settle() error {
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	return t.settleDoubt()
}

// current is load for clients: of a task that has ended it waits for a change that is being recorded, so that nobody is shown
// what others cannot see yet.
func (t *task) current() (*record, error) {
	if r := t.rec.Load(); r != nil {
		return r, nil
	}
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	if err := t.settleDoubt(); err != nil {
		return nil, err
	}
	return t.load()
}

// settleDoubt finds out what became of a change whose fate was unknown: it is not there, or there as a whole. Either way the
// task goes on from what is recorded. The caller holds lock.
func (t *task) settleDoubt() error {
	if t.doubt == nil {
		return nil
	}
	row, err := t.engine.store.Get(t.id)
	if err != nil {
		return storeError(err)
	}
	if row.Version == t.version() {
		t.doubt = nil
		if t.state().Final() {
			t.unlock() // of a revert that was not recorded
		}
		return nil
	}
	after, err := t.engine.understand(t.verb, row)
	if err != nil {
		return err
	}
	t.doubt, t.landed = nil, t.doubt
	t.publish("", after)
	if !after.State.Final() {
		t.engine.start(t)
	}
	return nil
}

// publish shows a record that the store has to all readers and, if it is a stop or a pause, to the task's own goroutine. Who sees a
// final state finds the task's locks free, and the task that it put off known. deferred is what was put off before.
func (t *task) publish(deferred string, r *record) {
	before, paused := t.state(), t.isPaused()
	if r.State.Final() {
		t.unlock()
	}
	if id := r.Deferred; id != deferred && t.engine.adopt(id) != nil { // it is there, so it can be read when the store is well
		t.engine.spawn(func() { t.engine.adoptLater(id) })
	}
	t.show(r)
	if before != r.State {
		t.observe(before, r)
	}
	if r.State == Cleared {
		t.engine.forget(t)
	}
	if before != r.State {
		t.engine.log.Info().Str("task", t.id).Str("verb", t.verb.Name).Str("flow", r.Flow).Str("from", string(before)).
			Str("state", string(r.State)).Msg("task moved") // as log does, without a logger for each move
	}
	if before != Init && (before != r.State || paused != t.isPaused()) { // of a new task it is told when the task is known
		t.engine.events.publish(Moved, t)
	}
	switch {
	case r.State == Aborting && r.Stop != nil:
		t.interrupt(errStopped)
	case r.Paused != nil && !paused && r.inSlices():
		t.interrupt(errPaused)
	}
	t.wake()
}

// noteThat keeps what the step at work says of itself.
func (t *task) noteThat(text string) {
	t.mu.Lock()
	changed := t.note != text
	t.note = text
	t.mu.Unlock()
	if changed {
		t.wake()
	}
}

// wake tells everybody who waits for this task to look again.
func (t *task) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// turn returns a channel that is closed at the next wake.
func (t *task) turn() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
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
	err := t.insist(func() error { return t.change(agentItself, what, once, also...) })
	if errors.Is(err, errLanded) || code.Of(err) == code.UnknownTask { // cleared already, so its end was there
		return nil
	}
	return err
}

// insist asks again and again until the store takes the request, or it is answered for another reason. errShutdown if the agent
// goes first.
func (t *task) insist(ask func() error) (err error) {
	answered := t.engine.until(func() bool {
		if err = ask(); code.Of(err) != code.TaskPersist {
			return true
		}
		t.log().Error().Err(err).Msg("the store does not take a change of the task; trying again")
		return false
	})
	if !answered {
		return errShutdown
	}
	return err
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
