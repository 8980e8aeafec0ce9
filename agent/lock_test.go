package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestLockHandOver: a lock that what a killed agent left gives up soon is waited for; one that stays is refused, with its pid.
func TestLockHandOver(t *testing.T) {
	dir := t.TempDir()
	hold := func() *os.File {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err == nil {
			_, err = f.WriteString("4711\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	synctest.Test(t, func(t *testing.T) {
		forked := hold()
		go func() {
			time.Sleep(lockWait / 2)
			forked.Close()
		}()
		f, err := lockState(dir)
		if err != nil {
			t.Fatalf("a lock that was given up is refused: %v", err)
		}
		f.Close()
		another := hold()
		defer another.Close()
		if f, err := lockState(dir); err == nil || !strings.Contains(err.Error(), "4711") {
			f.Close()
			t.Fatalf("a lock that is held: %v", err)
		}
	})
}
