package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// Spec is a program to be started.
type Spec struct {
	Task string   // the id of the task it works for
	Argv []string // program and arguments; Argv[0] is looked up in PATH
	// Dir is its working directory; "" = "/". It must not be on storage: a directory that hangs would hold up all starts.
	Dir string
	Env []string // added to PATH, LC_ALL=C and LANG=C, which is all it gets
	// Stdin, Stdout and Stderr are as in os/exec: nil is /dev/null (but see ExitError.Stderr), a file is inherited, all
	// else goes through a pipe. The same writer for both outputs is called by one goroutine at a time.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Files          []*os.File // inherited as descriptors 3, 4, …
	IdleIO         bool       // idle I/O class and nice 19: it yields to all others, and alone it is as fast as ever
	Limits         Limits
}

var errClosed = code.Errorf(code.ShuttingDown, "the agent is shutting down and starts no more workers")

// Start starts a program. When it returns without an error the program runs (or has run) and the worker can be stopped.
//
//   - The program is not found or not executable, a descriptor or a process is not to be had: an error; nothing is alive.
//   - Close was called, even meanwhile: an error with code.ShuttingDown; what was started got SIGKILL.
func (m *Manager) Start(s Spec) (*Worker, error) {
	if len(s.Argv) == 0 {
		return nil, code.Errorf(code.InternalError, "a worker of task %s has no program to run", s.Task)
	}
	w, err := m.start(s)
	if err != nil {
		return nil, code.Or(code.General, err, "cannot start "+s.Argv[0])
	}
	return w, nil
}

func (m *Manager) start(s Spec) (*Worker, error) {
	path, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return nil, err
	}
	argv, err := s.Limits.wrap(path, s.Argv)
	if err != nil {
		return nil, err
	}
	name, err := m.nextName(s.Task)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Dir: s.Dir, ExtraFiles: s.Files}
	if s.Limits != (Limits{}) {
		cmd.Path = argv[0]
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "LANG=C"}, s.Env...)
	// A group of its own in any mode: Ctrl-C in the agent's terminal is meant for the agent.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	w := newWorker(s.Task, s.Argv[0], m.log)
	if err := m.add(w); err != nil { // known before anything is made for it: from now on Close waits for it
		return nil, err
	}
	leader, streams, err := m.launch(w, name, cmd, s)
	if err != nil {
		err = errors.Join(err, w.abandon())
		m.forget(w)
		return nil, err
	}
	if g, ok := w.held.(*group); ok {
		err = g.adopt(leader.pid)
	}
	w.launched(leader, cmd.Process, streams)
	if err != nil {
		w.Kill()
	}
	go m.follow(w)
	if err != nil {
		<-w.gone
		return nil, fmt.Errorf("its process id cannot be recorded: %w", err)
	}
	if w.wasKilled() { // by Close: nobody else has it
		<-w.gone
		return nil, errClosed
	}
	return w, nil
}

// makeHolder makes what will hold the worker, and sets cmd so that it is in there before its first instruction.
func (m *Manager) makeHolder(name, task string, cmd *exec.Cmd) (_ holder, release func(), _ error) {
	if m.subtree == "" {
		mark := m.run + "." + name
		cmd.Env = append(cmd.Env, markVariable+"="+mark)
		g := &group{file: filepath.Join(m.dir, name+recordSuffix), rec: record{Task: task, Boot: m.boot, Mark: mark}}
		if err := g.save(); err != nil {
			return nil, nil, errors.Join(err, g.remove())
		}
		return g, func() {}, nil
	}
	l, err := makeLeaf(filepath.Join(m.subtree, name))
	if err != nil {
		return nil, nil, err
	}
	dir, err := unix.Open(l.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, errors.Join(err, l.remove())
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, dir
	return l, func() { _ = unix.Close(dir) }, nil
}

// launch makes the holder and starts the leader in it. After an error nothing of the worker is alive.
func (m *Manager) launch(w *Worker, name string, cmd *exec.Cmd, s Spec) (*process, *streams, error) {
	held, release, err := m.makeHolder(name, s.Task, cmd)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	w.held = held
	streams, err := openStreams(s)
	if err != nil {
		return nil, nil, err
	}
	streams.give(cmd)
	// The kernel makes the pidfd together with the process: there is no moment at which we have a child and no hold on it.
	pidfd := -1
	cmd.SysProcAttr.PidFD = &pidfd
	l := m.plain
	if s.IdleIO {
		l = m.idle
	}
	if err := l.start(cmd); err != nil {
		streams.abandon()
		return nil, nil, err
	}
	streams.started()
	return newProcess(cmd.Process.Pid, pidfd), streams, nil
}
