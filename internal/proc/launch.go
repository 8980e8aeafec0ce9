package proc

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// The priority of workers that must not be felt. Measured: `qemu-img convert` of 1 GiB takes as long with nice 19 and the
// idle class as without when nothing else runs, so there is no reason for less. Not SCHED_IDLE: while a worker is started
// its thread holds locks of the Go runtime, and must not be starved.
const (
	idleNice = 19

	ioprioWhoProcess = 1
	ioprioClassIdle  = 3
	ioprioClassShift = 13
)

// launcher is one OS thread that starts processes. The kernel sends the parent-death signal when the *thread* that
// started a process ends, so the thread must live as long as the Manager. Priorities belong to threads too and are
// inherited: a second thread of low priority starts workers that have it from their first instruction.
type launcher struct {
	requests chan func()
	quit     chan struct{}
}

// newLauncher starts the thread and runs prepare on it; prepare's error is returned, and the launcher works all the same.
func newLauncher(prepare func() error) (*launcher, error) {
	l := &launcher{requests: make(chan func()), quit: make(chan struct{})}
	prepared := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, and no other gets its priority
		prepared <- prepare()
		for {
			select {
			case r := <-l.requests:
				r()
			case <-l.quit:
				return
			}
		}
	}()
	return l, <-prepared
}

// start runs cmd.Start on the launcher's thread. It returns errClosed if the launcher was stopped before.
func (l *launcher) start(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	select {
	case l.requests <- func() { done <- cmd.Start() }:
		return <-done
	case <-l.quit:
		return errClosed
	}
}

// stop ends the thread after the start that is under way, if there is one. Processes that it started get SIGKILL.
func (l *launcher) stop() { close(l.quit) }

func ordinary() error { return nil }

// beIdle gives the calling thread the idle I/O class and the lowest CPU priority.
func beIdle() error {
	_, _, e := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioClassIdle<<ioprioClassShift)
	if e != 0 {
		return fmt.Errorf("setting the idle I/O class: %w", e)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, idleNice); err != nil {
		return fmt.Errorf("setting nice %d: %w", idleNice, err)
	}
	return nil
}
