package proc

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// retryProof is how long a worker's death stays unproven after an error of the proof itself (no descriptors, no memory).
const retryProof = 200 * time.Millisecond

// Worker is one program at work for a task, with all processes that it started. All methods may be called at any time and
// by several goroutines at once; after the worker is gone they do nothing.
type Worker struct {
	task  string
	argv0 string
	log   zerolog.Logger

	running atomic.Bool // its processes, if any, are in held
	held    holder      // not used by others before running is true

	mu         sync.Mutex // orders Terminate and Kill with the start and the end
	killed     bool       // Kill was called; before it runs that means: as soon as it does
	terminated bool       // Terminate was called
	leader     *process   // nil for a worker of a former run

	child   *os.Process // the leader as our child, to be reaped; nil for a worker of a former run
	streams *streams    // nil for a worker of a former run
	state   *os.ProcessState

	gone chan struct{}
	done chan struct{} // closed after gone, when all output was handed over and err is set
	err  error
}

func newWorker(task, argv0 string, log zerolog.Logger) *Worker {
	return &Worker{
		task: task, argv0: argv0,
		log:  log.With().Str("task", task).Str("program", argv0).Logger(),
		gone: make(chan struct{}), done: make(chan struct{}),
	}
}

// Task is the id of the task that it works for.
func (w *Worker) Task() string { return w.task }

// Gone is closed when it is proven that no process of the worker is alive, and never before. Its leader was reaped then.
func (w *Worker) Gone() <-chan struct{} { return w.gone }

// Wait blocks until the worker is gone and all its output was handed over.
//
//   - The leader ended with status 0, or the worker is one of a former run: nil. (What the leader left behind was killed.)
//   - It ended otherwise: an *ExitError.
//   - It ended with status 0 and a writer of Spec failed: that writer's error.
func (w *Worker) Wait() error {
	<-w.done
	return w.err
}

// Pids are the processes that are alive now; nil when it is gone.
func (w *Worker) Pids() []int {
	ms := w.members()
	defer closeAll(ms)
	var pids []int
	for _, p := range ms {
		pids = append(pids, p.pid)
	}
	return pids
}

// Describe says in one sentence for each live process what it does; nil when the worker is gone.
func (w *Worker) Describe() []string {
	ms := w.members()
	defer closeAll(ms)
	var lines []string
	for _, p := range ms {
		if s := describe(p.pid); s != "" {
			lines = append(lines, s)
		}
	}
	return lines
}

func (w *Worker) members() []*process {
	if !w.running.Load() || w.isGone() {
		return nil
	}
	ms, err := w.held.members()
	if err != nil {
		w.log.Warn().Err(err).Msg("the processes of a worker could not be listed")
	}
	return ms
}

func (w *Worker) isGone() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// Terminate asks all processes of the worker to end (SIGTERM). It does so once: a second SIGTERM means "at once" to some
// programs. A stopped process is continued, so that it can hear the question. It does not wait.
func (w *Worker) Terminate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.terminated || !w.running.Load() || w.isGone() {
		return
	}
	w.terminated = true
	if err := errors.Join(signalAll(w.held, unix.SIGTERM), signalAll(w.held, unix.SIGCONT)); err != nil {
		w.log.Warn().Err(err).Msg("a worker could not be asked to end; it will be killed")
	}
}

// Kill sends SIGKILL to all processes of the worker and returns at once. One in state D stays until the kernel lets go of
// it: Gone tells. Calling it again does no harm.
func (w *Worker) Kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed = true
	if w.running.Load() && !w.isGone() {
		w.killLocked()
	}
}

func (w *Worker) killLocked() {
	// The leader first: with it gone, watch kills the rest again and again until all are, whatever goes wrong here.
	var err error
	if w.leader != nil {
		err = w.leader.signal(unix.SIGKILL)
	}
	if err = errors.Join(err, w.held.kill()); err != nil {
		w.log.Error().Err(err).Strs("processes", w.Describe()).Msg("a worker could not be killed")
	}
}

// launched notes that the processes are there, and makes up for a Kill that came before. watch must follow.
func (w *Worker) launched(leader *process, child *os.Process, st *streams) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader, w.child, w.streams = leader, child, st
	w.running.Store(true)
	if w.killed {
		w.killLocked()
	}
}

// abandon ends a worker that was never launched.
func (w *Worker) abandon() error {
	var err error
	if w.held != nil {
		err = w.held.remove()
	}
	close(w.gone)
	close(w.done)
	return err
}

func (w *Worker) wasKilled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed
}

// watch follows a launched worker until it is gone.
func (w *Worker) watch() {
	if w.leader != nil {
		if err := w.leader.wait(); err != nil {
			w.log.Error().Err(err).Msg("a worker's leader cannot be watched; the worker is killed")
		}
	}
	for told := ""; ; time.Sleep(retryProof) {
		err := w.held.clear()
		if err == nil {
			break
		}
		if told != err.Error() { // once, not at each try
			told = err.Error()
			w.log.Error().Err(err).Msg("it cannot be proven yet that a worker is gone; it will be tried until it can")
		}
	}
	// Reaped last: until then the leader's pid, which is the group's number, is not given to another process.
	if w.child != nil {
		w.state, w.err = w.child.Wait()
	}
	w.mu.Lock() // Kill and Terminate use what is put away here
	defer w.mu.Unlock()
	if w.leader != nil {
		w.leader.close()
	}
	if err := w.held.remove(); err != nil {
		w.log.Warn().Err(err).Msg("what is left of a worker that is gone could not be removed")
	}
	close(w.gone)
}

// finish hands over the rest of the output and settles how the worker ended. It follows watch.
func (w *Worker) finish() {
	defer close(w.done)
	if w.child == nil {
		return
	}
	lost := w.streams.finish()
	if w.err != nil {
		w.err = fmt.Errorf("the exit status of %s is not known: %w", w.argv0, w.err)
		return
	}
	w.err = exitError(w.argv0, w.state, w.streams.tail.String())
	if w.err == nil {
		w.err = lost
	} else if lost != nil {
		w.log.Warn().Err(lost).Msg("a part of a failed worker's output was lost")
	}
}
