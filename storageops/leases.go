package storageops

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/lease"
	"vdsm-agent/tasks"
)

// Leaser gives leases on volumes: whoever writes a volume's data holds its lease. Verbs take it by Storage.hold or holding.
type Leaser interface {
	// Acquire returns when the task holds the lease, and does not wait for one who has it. Workers that are started for the task
	// from then on hold it too: it is free again when release was called and the last of them is gone. A task may have a lease
	// more than once, and releases it as often.
	//
	//  - Another task of this agent has it, or a worker that its former run has left: 651, which wraps errOurs.
	//  - Somebody else has it: 651, naming the holder.
	Acquire(ctx context.Context, task string, v volumeRef) (release func(), err error)
}

// errOurs: who has the lease works for this agent, or worked for its former run and was killed. It can be waited for.
var errOurs = errors.New("this agent")

// hold takes the lease of a volume for the task. One that this agent has itself is waited for until ctx ends, and the task says so: a
// worker of a former run may be writing still. Anybody else's is refused (651).
func (st *Storage) hold(ctx context.Context, s *tasks.Scope, v volumeRef) (release func(), err error) {
	const most = 5 * time.Second
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, most) {
		release, err := st.leases.Acquire(ctx, s.TaskID(), v)
		if !errors.Is(err, errOurs) {
			s.Note("")
			return release, err
		}
		s.Note("waiting for the volume's lease: " + err.Error())
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// holding is a step's Do that writes a volume's data: its lease is held meanwhile.
func (st *Storage) holding(v volumeRef, do func(context.Context, *tasks.Scope) error) func(context.Context, *tasks.Scope) error {
	return func(ctx context.Context, s *tasks.Scope) error {
		release, err := st.hold(ctx, s, v)
		if err != nil {
			return err
		}
		defer release()
		return do(ctx, s)
	}
}

// localLeases are locks on files in the domain; see package lease. On a domain that hosts share they keep out the agents of all of
// them, but not VDSM.
type localLeases struct {
	domains registry

	mu   sync.Mutex
	held map[string][]*heldLease // by task
}

// heldLease is a lease that a task has, and how often.
type heldLease struct {
	volumeRef
	*lease.Lease
	times int
}

func (l *localLeases) Acquire(_ context.Context, task string, v volumeRef) (func(), error) {
	if h := l.again(task, v); h != nil {
		return l.releaser(task, h), nil
	}
	d, err := l.domains.patiently(v.Domain)
	if err != nil {
		return nil, err
	}
	taken, err := d.Lease(v.Volume, task)
	if busy, ok := errors.AsType[*lease.BusyError](err); ok {
		if busy.Ours {
			return nil, code.Errorf(code.AcquireLock, "%s is still being written by %w: its lease is %s", v, errOurs, busy)
		}
		return nil, code.Errorf(code.AcquireLock, "%s is being written by somebody else: its lease is %s; try again when that is gone", v, busy)
	}
	if err != nil {
		return nil, err
	}
	h := &heldLease{v, taken, 1}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[task] = append(l.held[task], h)
	return l.releaser(task, h), nil
}

// again counts a lease that the task has already; nil if it has not. mu is never held while a file system is asked: one that hangs
// would hold up the workers of all tasks.
func (l *localLeases) again(task string, v volumeRef) *heldLease {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held[task] {
		if h.volumeRef == v {
			h.times++
			return h
		}
	}
	return nil
}

func (l *localLeases) releaser(task string, h *heldLease) func() {
	return sync.OnceFunc(func() {
		if l.last(task, h) {
			h.Close()
		}
	})
}

// last gives the lease up once, and says whether that was the last time.
func (l *localLeases) last(task string, h *heldLease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.times--; h.times > 0 {
		return false
	}
	l.held[task] = slices.DeleteFunc(l.held[task], func(other *heldLease) bool { return other == h })
	if len(l.held[task]) == 0 {
		delete(l.held, task)
	}
	return true
}

// files are the open files of the leases that the task has, once more, for a worker. The caller closes them.
func (l *localLeases) files(task string) ([]*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var files []*os.File
	for _, h := range l.held[task] {
		f, err := h.Dup()
		if err != nil {
			closeAll(files)
			return nil, code.Errorf(code.General, "a worker cannot be given the lease of %s: %w", h.volumeRef, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() // a second descriptor of a lease: nothing is written through it
	}
}
