package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// ErrInUse says that another process, or another SQLite of this one, writes the store.
var ErrInUse = errors.New("the store is in use")

// lock takes the right to write the store at path. It is an open-file-description lock on a file of its own, because
// the store's file is replaced in a recovery, and because SQLite's locks must let an administrator read. The kernel
// drops it with the process; the file stays and holds the process id of the last holder.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the store: %w", err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		holder, _ := os.ReadFile(f.Name()) // for the message only
		f.Close()
		return nil, code.Errorf(code.TaskPersist, "%s is written by process %s; stop that one first: %w",
			path, strings.TrimSpace(string(holder)), ErrInUse)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return f, nil
}

// locked says whether somebody writes the store at path. It leaves no trace.
func locked(path string) (bool, error) {
	f, err := os.Open(path + ".lock")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, err
	}
	return l.Type != unix.F_UNLCK, nil
}
