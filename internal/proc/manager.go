package proc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
)

// Options say where workers live.
type Options struct {
	Dir    string // a directory of the agent's own, made if it is not there; records of workers lie in it
	Cgroup string // the parent cgroup; "" = the agent's own, if that works; "off" = process groups
	Name   string // the agent's identity, the same over restarts: its cgroups are under "vdsm-agent-<Name>"
	Log    zerolog.Logger
}

// closeWait bounds Close.
const closeWait = 2 * time.Second

// Manager starts workers and knows all that are not gone. Its methods may be called by several goroutines at once.
type Manager struct {
	dir     string
	subtree string // the cgroup above all leaves; "" = process groups
	boot    string
	run     string // makes the marks unlike those of any other run
	log     zerolog.Logger

	plain, idle *launcher

	mu       sync.Mutex
	closed   bool
	serial   uint64               // the last one used, by former runs too
	workers  map[*Worker]struct{} // not gone
	subtrees []string             // as in the file subtreeList
}

// New prepares for workers. With Options.Cgroup "" it falls back to process groups, and says why in the log; with a
// directory that cannot be used it fails. It starts one program, true(1), to prove that a cgroup can be used.
func New(o Options) (*Manager, error) {
	if o.Name == "" || strings.ContainsAny(o.Name, "/\n") {
		return nil, fmt.Errorf("the agent's name %q cannot name a cgroup; use letters and digits", o.Name)
	}
	self, err := openProcess(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("this kernel has no usable pidfds; Linux 5.10 or later is needed: %w", err)
	}
	self.close()
	m := &Manager{dir: o.Dir, run: rand.Text(), log: o.Log, workers: map[*Worker]struct{}{}}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	if m.boot, err = bootID(); err != nil {
		return nil, err
	}
	m.plain, _ = newLauncher(ordinary)
	m.idle, err = newLauncher(beIdle)
	if err != nil { // no reason to work less, only less politely
		m.log.Warn().Err(err).Msg("workers will compete with everything else on this host: their priority cannot be lowered")
	}
	if err := m.prepare(o); err != nil {
		m.stopLaunchers()
		return nil, err
	}
	return m, nil
}

func (m *Manager) prepare(o Options) error {
	if err := m.readSubtrees(); err != nil {
		return err
	}
	cerr := m.chooseCgroup(o)
	if err := m.findSerial(); err != nil {
		return err
	}
	if cerr == nil && m.subtree != "" {
		cerr = m.probe()
	}
	if cerr == nil {
		return nil
	}
	m.subtree = ""
	if o.Cgroup != "" {
		return fmt.Errorf("workers cannot live in the cgroup %s; choose another one, or \"off\": %w", o.Cgroup, cerr)
	}
	m.log.Warn().Err(cerr).Msg("no cgroup can be used for workers; each gets a process group instead")
	return nil
}

// chooseCgroup sets and makes m.subtree, or leaves it empty.
func (m *Manager) chooseCgroup(o Options) error {
	parent := o.Cgroup
	switch parent {
	case "off":
		return nil
	case "":
		var err error
		if parent, err = ownCgroup(); err != nil {
			return err
		}
	}
	subtree := filepath.Join(parent, "vdsm-agent-"+o.Name)
	if err := os.Mkdir(subtree, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(subtree, "cgroup.kill")); err != nil {
		err = fmt.Errorf("%s is not in a cgroup v2 tree of Linux 5.14 or later: %w", parent, err)
		return errors.Join(err, rmdir(subtree))
	}
	m.subtree = subtree
	return m.addSubtree(subtree) // listed before anything is in it
}

// probe proves that a worker can be started in the cgroup and seen to end: seccomp filters and cgroup types forbid it in
// ways that only show when it is tried.
func (m *Manager) probe() error {
	w, err := m.Start(Spec{Task: "probe", Argv: []string{"true"}})
	if err != nil {
		return err
	}
	return w.Wait()
}

// Mode says how workers are held: "cgroup <path>" or "process group".
func (m *Manager) Mode() string {
	if m.subtree == "" {
		return "process group"
	}
	return "cgroup " + m.subtree
}

// Close kills all workers, waits for them, at most 2 s, and removes the empty cgroups. From its call on Start fails. The
// error names the processes that are still alive; they have their SIGKILL, and the next run finds them with Leftovers.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	workers := slices.Collect(maps.Keys(m.workers))
	m.mu.Unlock()

	for _, w := range workers {
		w.Kill()
	}
	bound, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	var err error
	for _, w := range workers {
		select {
		case <-w.gone:
		case <-bound.Done():
			if !w.isGone() {
				err = errors.Join(err, code.Errorf(code.General, "the worker %s of task %s does not die: %s",
					w.argv0, w.task, strings.Join(w.Describe(), "; ")))
			}
		}
	}
	m.stopLaunchers()
	return errors.Join(err, m.dropSubtrees(true))
}

func (m *Manager) stopLaunchers() {
	m.plain.stop()
	m.idle.stop()
}

// add makes the worker known, unless the Manager is closed.
func (m *Manager) add(w *Worker) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	m.workers[w] = struct{}{}
	return nil
}

func (m *Manager) forget(w *Worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, w)
}

// follow sees a launched worker to its end.
func (m *Manager) follow(w *Worker) {
	w.watch()
	m.forget(w)
	w.finish()
}

// nextName is the name of the next worker's holder.
func (m *Manager) nextName(task string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.serial++
	return holderName(m.serial, task)
}
