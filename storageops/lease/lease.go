// Package lease lets one writer hold a volume: an open file description lock (F_OFD_SETLK) on a file with the volume's name, in a
// directory of locks.
//
// Such a lock belongs to the open file, not to a process: whoever inherits the descriptor holds it too. So the agent gives it to
// every worker that writes, and the lock is free when the last of them is gone, and not before. Nothing ever unlocks it.
//
// A file of a lock is removed only by one that holds the lock, and whoever has taken a lock looks whether its file still has
// its name, else begins again: never do two hold locks on two files of one name. What is in the file is for people, and tells
// an agent which locks its own former run has left to a worker; it decides nothing.
//
// It knows nothing of tasks and domains. It may be imported by storageops and storageops/domain.
package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// Holder is who has taken a lock.
type Holder struct {
	Agent string    `json:"agent"`
	Host  string    `json:"host"`
	Task  string    `json:"task"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// BusyError says that somebody else has the lock.
type BusyError struct {
	Holder Holder // as the lock's file says; of one that was just taken it may still be the one before
	Pids   []int  // the processes of this host that have it, as far as they can be seen
	Ours   bool   // the same agent has taken it, in this run or a former one
}

func (e *BusyError) Error() string {
	var s strings.Builder
	if e.Holder == (Holder{}) {
		s.WriteString("held by one that has left no name")
	} else {
		fmt.Fprintf(&s, "held for task %s of the agent %s on %s since %s", e.Holder.Task, e.Holder.Agent, e.Holder.Host,
			e.Holder.Since.Format(time.RFC3339))
	}
	for i, pid := range e.Pids {
		s.WriteString(map[bool]string{true: ", by process ", false: " and "}[i == 0])
		fmt.Fprintf(&s, "%d (%s)", pid, program(pid))
	}
	return s.String()
}

// Lease is a lock that is held.
type Lease struct {
	dir  *os.Root
	name string
	f    *os.File
}

// Take takes the lock of that name in dir, whose owner a new file gets. It does not wait. dir must stay open as long as the lease.
//
//   - Somebody else has it: a *BusyError. That may be another open file of the same process.
//   - What is there is no regular file: 371.
func Take(dir *os.Root, name string, h Holder) (*Lease, error) {
	for try := 1; ; try++ {
		f, err := open(dir, name, os.O_CREATE)
		if err != nil {
			return nil, err
		}
		switch err := lock(f); {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
			busy := &BusyError{Holder: read(f), Pids: holders(f)}
			busy.Ours = busy.Holder.Agent == h.Agent
			f.Close()
			if busy.Ours && len(busy.Pids) == 0 && try < unseen {
				continue
			}
			return nil, busy
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		switch named, err := isNamed(dir, name, f); {
		case err != nil:
			f.Close()
			return nil, err
		case named:
			l := &Lease{dir, name, f}
			l.write(h)
			return l, nil
		}
		f.Close() // it was removed before it was locked: the next one has another file
	}
}

// open opens a lock's file, and makes it with os.O_CREATE.
func open(dir *os.Root, name string, flag int) (*os.File, error) {
	f, err := dir.OpenFile(name, os.O_RDWR|flag|unix.O_NONBLOCK, 0o660) // a FIFO must not hold us
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = code.Errorf(code.DomainLayout, "%s must be a regular file, since it is a lock; look at it and remove it by hand", f.Name())
	}
	if err == nil && flag != 0 && fi.Size() == 0 {
		err = own(dir, f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// own gives a new file the owner of its directory.
func own(dir *os.Root, f *os.File) error {
	top, err := dir.Stat(".")
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	want, ok1 := top.Sys().(*syscall.Stat_t)
	have, ok2 := fi.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || want.Uid == have.Uid && want.Gid == have.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}

// isNamed says whether the open file still has its name.
func isNamed(dir *os.Root, name string, f *os.File) (bool, error) {
	held, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := dir.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !now.Mode().IsRegular():
		return false, code.Errorf(code.DomainLayout, "%s must be a regular file, since it is a lock; look at it and remove it by hand", f.Name())
	}
	return os.SameFile(held, now), nil
}

// unseen is how often a lock of this agent's that no process holds is tried again. The kernel lets a process that starts another one go
// on before that has closed the descriptors that it is not to have, so give may return a moment too early.
const unseen = 50

func lock(f *os.File) error {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	for {
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); err != unix.EINTR {
			return err
		}
	}
}

// write leaves the holder's name. A full file system is no reason not to hold the lock.
func (l *Lease) write(h Holder) {
	text, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings, a number and a time of this century always marshal
	}
	if l.f.Truncate(0) == nil {
		_, _ = l.f.WriteAt(append(text, '\n'), 0)
	}
}

func read(f *os.File) (h Holder) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err != nil || json.Unmarshal(text, &h) != nil {
		return Holder{}
	}
	return h
}

// Dup is the lease's open file once more, for a worker: as long as it has it open the lock is held. The caller closes it.
func (l *Lease) Dup() (*os.File, error) {
	fd, err := unix.FcntlInt(l.f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", l.f.Name(), err)
	}
	return os.NewFile(uintptr(fd), l.f.Name()), nil
}

// Close ends this process's own hold. Workers that have the lease keep it. If there are none its file is removed.
func (l *Lease) Close() {
	give(l.f)
	_ = drop(l.dir, l.name) // Sweep comes back to it
}

// give closes a locked file, for good when it returns: a process that was being started meanwhile, and had a copy of every descriptor
// until it ran its program, has none any more.
func give(f *os.File) {
	f.Close() // nothing that was written through it matters
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
}

// Sweep removes the files of locks that nobody holds.
func Sweep(dir *os.Root) error {
	top, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	names, err := top.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, drop(dir, name))
	}
	return err
}

// drop removes a lock's file unless somebody holds it.
func drop(dir *os.Root, name string) error {
	f, err := open(dir, name, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer give(f)
	if lock(f) != nil {
		return nil
	}
	if named, err := isNamed(dir, name, f); err != nil || !named {
		return err
	}
	return dir.Remove(name)
}
