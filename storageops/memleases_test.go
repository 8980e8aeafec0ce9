package storageops

import (
	"context"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
)

// memLease is a lease in memory: held by its task as often as it was acquired, and by each worker that was started meanwhile.
type memLease struct {
	volumeRef
	task    string
	times   int
	workers []*memWorker
}

// memLeases are the leases of a world, as a task reaches them. They are locks: a crash leaves none.
type memLeases struct {
	*hand
	world *world
}

func (m memLeases) Acquire(_ context.Context, task string, v volumeRef) (release func(), err error) {
	err = code.Errorf(code.AcquireLock, "the gate let nothing happen")
	if gate := m.pass("take the lease of volume "+v.Volume, func(*disk) { release, err = m.world.acquire(task, v) }); gate != nil {
		return nil, gate
	}
	return release, err
}

// acquire takes the lease if nobody else has it.
func (w *world) acquire(task string, v volumeRef) (func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.leases, func(l *memLease) bool { return l.volumeRef == v })
	if i < 0 {
		w.leases = append(w.leases, &memLease{volumeRef: v, task: task})
		i = len(w.leases) - 1
	}
	l := w.leases[i]
	if l.task != task {
		return nil, code.Errorf(code.AcquireLock, "%s is being written by %w: task %s", v, errOurs, l.task)
	}
	l.times++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		l.times--
		w.dropLeases()
	}, nil
}

// dropLeases forgets the leases that nobody has any more. The caller holds mu.
func (w *world) dropLeases() {
	w.leases = slices.DeleteFunc(w.leases, func(l *memLease) bool { return l.times == 0 && len(l.workers) == 0 })
}

// leased notes a worker that writes the data of a volume without having its lease: nothing ends well then.
func (h *hand) leased(name string) {
	in := strings.Split(name, "/") // "", domain, "images", image, volume
	if h.worker == nil || len(in) != 5 || in[2] != "images" {
		return
	}
	v := volumeRef{in[1], in[3], in[4]}
	w := h.worker.world
	w.mu.Lock()
	defer w.mu.Unlock()
	has := func(l *memLease) bool { return l.volumeRef == v && slices.Contains(l.workers, h.worker) }
	if slices.Contains(w.workers, h.worker) && !slices.ContainsFunc(w.leases, has) {
		w.wrong = append(w.wrong, h.worker.what+" of task "+h.worker.task+" has written "+v.String()+" without its lease")
	}
}

var _ Leaser = memLeases{}
