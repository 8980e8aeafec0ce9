package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long a lock may be held by what a killed agent leaves: a worker that it was just forking has all of its files
// open until it executes its program, or dies.
const lockWait = 2 * time.Second

// patiently calls f again, for at most lockWait, while its error is busy.
func patiently(busy error, f func() error) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		if err := f(); !errors.Is(err, busy) || time.Now().After(end) {
			return err
		}
	}
}

// lockState makes the state directory and takes it for this process; the lock goes when the process does. The lock file holds
// the pid of its holder, for people.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("the state directory cannot be made: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the lock of the state directory cannot be opened: %w", err)
	}
	err = patiently(unix.EWOULDBLOCK, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the state directory %s cannot be locked: %w", dir, err)
		}
		holder, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("another vdsm-agentd runs on %s: %w", dir, err)
		}
		return nil, fmt.Errorf("another vdsm-agentd (pid %s) runs on %s; stop it, or give another --state-dir", strings.TrimSpace(string(holder)), dir)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return f, err
}
