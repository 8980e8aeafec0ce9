package tasktest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// ErrApplied is what MemStore.OnCommit answers to have the client told "unknown" although the change is there. It is a
// store.ErrUnknown; any other ErrUnknown leaves the change out.
var ErrApplied = fmt.Errorf("%w (it was)", store.ErrUnknown)

// MemStore is a store.Store in memory that can crash and fail. It means the same as store.SQLite; StoreSuite holds
// both to that.
//
// What is on "stable storage" are the changes that were answered with nil. A change is open from the call of Commit
// until its answer, and if the answer is ErrUnknown, until the next change or Prune that is answered with nil (by
// which the real store has recovered). A crash keeps or drops each open change, whole.
//
// It blocks only where OnCommit does, and takes its mutex for moments only, so it may be used in a synctest bubble.
type MemStore struct {
	// OnCommit, if set, is called for every valid change before it is looked at, on the goroutine of the caller and
	// without a lock: it may block, may call the store, and may be called by several goroutines at once. If it answers
	// an error, that is the answer of Commit and the change is not applied (but see ErrApplied). Set it before use.
	OnCommit func(c store.Change) error

	mu      sync.Mutex
	closed  bool
	tasks   map[string]store.Record
	log     map[string][]store.Entry
	fences  map[string]store.Fence
	aside   map[string]store.SetAside
	open    []*openChange // in the order of the calls
	counter MemCounter
}

// openChange is a change of which a crash may keep everything or nothing.
type openChange struct {
	change  store.Change
	unknown bool // answered so
}

// MemCounter counts calls of Commit by their answer.
type MemCounter struct{ Done, Conflict, Unavailable, Unknown, Refused int }

var _ store.Store = (*MemStore)(nil)

// NewMemStore returns an empty store.
func NewMemStore() *MemStore {
	return &MemStore{
		tasks: map[string]store.Record{}, log: map[string][]store.Entry{}, fences: map[string]store.Fence{},
		aside: map[string]store.SetAside{},
	}
}

// Crash returns what a process would find that started now: every change that was answered, and of the open ones, in their
// order, those for which keep says so. The receiver is not changed and can go on, so one run can be crashed at every point;
// close it to make its process dead.
func (m *MemStore) Crash(keep func() bool) *MemStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMemStore()
	maps.Copy(n.tasks, m.tasks)
	for id, entries := range m.log {
		n.log[id] = slices.Clone(entries)
	}
	maps.Copy(n.fences, m.fences)
	maps.Copy(n.aside, m.aside)
	for _, o := range m.open {
		if keep() {
			_ = n.apply(o.change) // a change that conflicts with what is there was not written
		}
	}
	return n
}

// Open is how many changes are open: a crash now asks keep so many times.
func (m *MemStore) Open() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.open)
}

// Counter returns the counts so far.
func (m *MemStore) Counter() MemCounter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counter
}

// Commit is Store's.
func (m *MemStore) Commit(c store.Change) error {
	if err := store.Validate(c); err != nil {
		return err
	}
	o := &openChange{change: clone(c)}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return store.ErrClosed
	}
	m.open = append(m.open, o)
	m.mu.Unlock()

	var err error
	if m.OnCommit != nil {
		err = m.OnCommit(clone(c))
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		err = store.ErrClosed
	case err == nil:
		if err = m.apply(o.change); err == nil {
			m.open = slices.DeleteFunc(m.open, func(p *openChange) bool { return p.unknown })
		}
	case errors.Is(err, ErrApplied):
		if conflict := m.apply(o.change); conflict != nil {
			err = conflict
		}
	}
	m.tally(err)
	o.unknown = errors.Is(err, store.ErrUnknown) && !errors.Is(err, ErrApplied)
	if !o.unknown {
		m.open = slices.DeleteFunc(m.open, func(p *openChange) bool { return p == o })
	}
	return err
}

func (m *MemStore) tally(err error) {
	switch {
	case err == nil:
		m.counter.Done++
	case errors.Is(err, store.ErrConflict):
		m.counter.Conflict++
	case errors.Is(err, store.ErrUnavailable):
		m.counter.Unavailable++
	case errors.Is(err, store.ErrUnknown):
		m.counter.Unknown++
	default:
		m.counter.Refused++
	}
}

// apply applies the whole change, or nothing of it and answers ErrConflict.
func (m *MemStore) apply(c store.Change) error {
	put := map[string]store.Record{}
	for _, r := range c.Put {
		have, ok := put[r.ID]
		if !ok {
			have = m.tasks[r.ID] // Version 0 if there is none
		}
		if r.Version != have.Version+1 {
			return code.Errorf(code.TaskPersist, "version %d of task %s does not follow %d: %w", r.Version, r.ID,
				have.Version, store.ErrConflict)
		}
		put[r.ID] = r
	}
	maps.Copy(m.tasks, put)
	for _, e := range c.Log {
		m.log[e.Task] = append(m.log[e.Task], e)
	}
	for _, f := range c.Fence {
		m.fences[f.Flow] = f
	}
	for _, flow := range c.Unfence {
		delete(m.fences, flow)
	}
	return nil
}

// Count is Store's.
func (m *MemStore) Count() (live int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, store.ErrClosed
	}
	for id, r := range m.tasks {
		if _, aside := m.aside[id]; !r.Cleared && !aside {
			live++
		}
	}
	return live, nil
}

// History is Store's. A page is short only if it is the last.
func (m *MemStore) History(behind store.Place, limit int) ([]store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	cleared := m.history()
	if at := (store.Place{Updated: micro(behind.Updated), ID: behind.ID}); behind != (store.Place{}) {
		cleared = slices.DeleteFunc(cleared, func(r store.Record) bool { return comparePlaces(placeOf(r), at) >= 0 })
	}
	var page []store.Record
	for _, r := range cleared[:min(len(cleared), max(limit, 0))] {
		page = append(page, cloneRecord(r))
	}
	return page, nil
}

// history returns the cleared records that were not set aside, newest first. The mutex is held.
func (m *MemStore) history() (cleared []store.Record) {
	for id, r := range m.tasks {
		if _, aside := m.aside[id]; r.Cleared && !aside {
			cleared = append(cleared, r)
		}
	}
	slices.SortFunc(cleared, func(a, b store.Record) int { return comparePlaces(placeOf(b), placeOf(a)) })
	return cleared
}

func placeOf(r store.Record) store.Place { return store.Place{Updated: r.Updated, ID: r.ID} }

func comparePlaces(a, b store.Place) int {
	return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.ID, b.ID))
}

// Prune is Store's. It is one step, and it never fails.
func (m *MemStore) Prune(before time.Time, keep int) (removed int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, store.ErrClosed
	}
	for i, r := range m.history() {
		if i >= keep || r.Updated.Before(micro(before)) {
			delete(m.tasks, r.ID)
			delete(m.log, r.ID)
			removed++
		}
	}
	if removed > 0 {
		m.open = slices.DeleteFunc(m.open, func(p *openChange) bool { return p.unknown })
	}
	return removed, nil
}

// Live is Store's.
func (m *MemStore) Live(each func(store.Record) error) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return store.ErrClosed
	}
	var live []store.Record
	for id, r := range m.tasks {
		if _, aside := m.aside[id]; !r.Cleared && !aside {
			live = append(live, cloneRecord(r))
		}
	}
	m.mu.Unlock()
	slices.SortFunc(live, func(a, b store.Record) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	for _, r := range live {
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// Get is Store's.
func (m *MemStore) Get(id string) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return store.Record{}, store.ErrClosed
	}
	r, ok := m.tasks[id]
	if !ok {
		return store.Record{}, code.Errorf(code.UnknownTask, "task %s is not known: %w", id, store.ErrNotFound)
	}
	return cloneRecord(r), nil
}

// Log is Store's.
func (m *MemStore) Log(id string) ([]store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	return slices.Clone(m.log[id]), nil
}

// Fences is Store's. They are in the order of their flows.
func (m *MemStore) Fences() ([]store.Fence, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, store.ErrClosed
	}
	var fences []store.Fence
	for _, flow := range slices.Sorted(maps.Keys(m.fences)) {
		fences = append(fences, m.fences[flow])
	}
	return fences, nil
}

// SetAside is Store's.
func (m *MemStore) SetAside(id, reason string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return store.ErrClosed
	}
	if _, ok := m.tasks[id]; ok {
		m.aside[id] = store.SetAside{ID: id, Reason: reason, At: micro(time.Now())}
	}
	return nil
}

// Check is Store's. A MemStore is always sound.
func (m *MemStore) Check() (store.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return store.Report{}, store.ErrClosed
	}
	report := store.Report{Path: "memory", States: map[string]int{}, SetAside: []store.SetAside{}, Problems: []string{}}
	for id, r := range m.tasks {
		_, aside := m.aside[id]
		switch {
		case aside:
			report.SetAside = append(report.SetAside, m.aside[id])
		case r.Cleared:
			report.History++
		default:
			report.Live++
			report.States[r.State]++
		}
	}
	slices.SortFunc(report.SetAside, func(a, b store.SetAside) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	return report, nil
}

// Close is Store's. Changes whose OnCommit has not returned are not waited for: they answer ErrClosed, and a crash
// may keep them until then.
func (m *MemStore) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// clone returns a change that shares nothing with c, with its times as they are stored.
func clone(c store.Change) store.Change {
	n := store.Change{Unfence: slices.Clone(c.Unfence)}
	for _, r := range c.Put {
		n.Put = append(n.Put, cloneRecord(r))
	}
	for _, e := range c.Log {
		e.At = micro(e.At)
		n.Log = append(n.Log, e)
	}
	for _, f := range c.Fence {
		f.At, f.Until = micro(f.At), micro(f.Until)
		n.Fence = append(n.Fence, f)
	}
	return n
}

func cloneRecord(r store.Record) store.Record {
	r.Body = bytes.Clone(r.Body)
	r.Created, r.Updated = micro(r.Created), micro(r.Updated)
	return r
}

// micro returns t as a store keeps it.
func micro(t time.Time) time.Time { return time.UnixMicro(t.UnixMicro()).UTC() }
