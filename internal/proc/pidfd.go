package proc

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is one process, held by its pidfd: a signal sent through it never reaches another process that got the same
// pid. It is waited for in Go's poller, so a wait costs a goroutine and no thread.
type process struct {
	pid  int
	file *os.File
	conn syscall.RawConn
}

// openProcess holds the process that has this pid now. The caller that means a certain process checks its identity
// afterwards. The error is unix.ESRCH if there is none.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	return newProcess(pid, fd), nil
}

// newProcess takes over a pidfd. It cannot fail, for a process that runs without a hold on it would be the worst case.
func newProcess(pid, fd int) *process {
	_ = unix.SetNonblock(fd, true) // sets a flag of an open descriptor. Non-blocking is what brings it into the poller
	file := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid))
	conn, _ := file.SyscallConn() // fails on a nil file only
	return &process{pid: pid, file: file, conn: conn}
}

func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}

// exited says whether all threads of the process have ended; it may still be a zombie.
func (p *process) exited() (yes bool) {
	_ = p.conn.Control(func(fd uintptr) { yes = readable(fd) }) // it fails only on a closed file, and we are its only user
	return yes
}

// wait blocks until all threads of the process have ended. It does not reap.
func (p *process) wait() error { return p.conn.Read(readable) }

// signal sends sig. To a process that has ended it does nothing.
func (p *process) signal(sig unix.Signal) (err error) {
	cerr := p.conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	return errors.Join(err, cerr)
}

func (p *process) close() { _ = p.file.Close() } // nothing was written through it

func closeAll(ps []*process) {
	for _, p := range ps {
		p.close()
	}
}
