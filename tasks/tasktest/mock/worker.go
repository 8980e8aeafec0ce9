package mock

import (
	"sync"
	"time"
)

// worker stands for a process: it ends at the signal that its kind ends at, or when its work is done.
type worker struct {
	world  *World
	task   string
	kind   string
	gone   chan struct{}
	mu     sync.Mutex
	signal bool
	once   sync.Once
}

// newWorker starts a worker that works for so long; 0 = until a signal ends it.
func (w *World) newWorker(task, kind string, lasts time.Duration) *worker {
	w.mu.Lock()
	w.workers[task]++
	w.mu.Unlock()
	wk := &worker{world: w, task: task, kind: kind, gone: make(chan struct{})}
	switch {
	case kind == Immortal:
		go func() { <-w.released; wk.end(true) }()
	case lasts > 0:
		go func() {
			timer := time.NewTimer(lasts)
			defer timer.Stop()
			select {
			case <-timer.C:
				wk.end(false)
			case <-wk.gone:
			}
		}()
	}
	return wk
}

func (w *worker) end(bySignal bool) {
	w.once.Do(func() {
		w.mu.Lock()
		w.signal = bySignal
		w.mu.Unlock()
		w.world.mu.Lock()
		w.world.workers[w.task]--
		w.world.mu.Unlock()
		close(w.gone)
	})
}

func (w *worker) killed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.signal
}

// Pids is one made-up number while the worker is alive.
func (w *worker) Pids() []int {
	select {
	case <-w.gone:
		return nil
	default:
		return []int{4711}
	}
}

// Describe names the kind of the worker.
func (w *worker) Describe() []string {
	if len(w.Pids()) == 0 {
		return nil
	}
	return []string{"pid 4711 (mock) is " + w.kind}
}

// Terminate ends a polite worker.
func (w *worker) Terminate() {
	if w.kind == Polite {
		w.end(true)
	}
}

// Kill ends a polite or a stubborn worker.
func (w *worker) Kill() {
	if w.kind != Immortal {
		w.end(true)
	}
}

// Gone is closed when the worker has ended.
func (w *worker) Gone() <-chan struct{} { return w.gone }
