package lease

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

const name = "00000000-0000-4000-8000-00000000000a"

func locks(t *testing.T) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func holder(agent string) Holder {
	return Holder{Agent: agent, Host: "here", Task: "task-of-" + agent, PID: os.Getpid(), Since: time.Unix(1700000000, 0).UTC()}
}

func take(t *testing.T, dir *os.Root) *Lease {
	t.Helper()
	l, err := Take(dir, name, holder("a"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func busy(t *testing.T, dir *os.Root, agent string) *BusyError {
	t.Helper()
	l, err := Take(dir, name, holder(agent))
	var busy *BusyError
	if !errors.As(err, &busy) {
		t.Fatalf("taken twice: %v, %v", l, err)
	}
	return busy
}

func TestBusy(t *testing.T) {
	dir := locks(t)
	l := take(t, dir)
	if b := busy(t, dir, "a"); !b.Ours || b.Holder != holder("a") {
		t.Errorf("our own says %+v", b)
	}
	b := busy(t, dir, "b")
	if b.Ours || !slices.Equal(b.Pids, []int{os.Getpid()}) {
		t.Errorf("another's says %+v", b)
	}
	for _, word := range []string{"task-of-a", "agent a on here", fmt.Sprint("process ", os.Getpid()), "lease.test"} {
		if !strings.Contains(b.Error(), word) {
			t.Errorf("%q does not say %q", b, word)
		}
	}
	l.Close()
	if _, err := dir.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a lock that was given up: %v", err)
	}
	take(t, dir).Close()
}

// The lease is what a worker still has when everybody else has given it up, and then it is free.
func TestAWorkerKeepsIt(t *testing.T) {
	dir := locks(t)
	l := take(t, dir)
	given, err := l.Dup()
	if err != nil {
		t.Fatal(err)
	}
	worker := exec.Command("sleep", "1000")
	worker.ExtraFiles = []*os.File{given}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	given.Close()
	l.Close()
	if b := busy(t, dir, "a"); !slices.Equal(b.Pids, []int{worker.Process.Pid}) || !strings.Contains(b.Error(), "(sleep)") {
		t.Errorf("the worker has it, and the answer is %v", b)
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	busy(t, dir, "a")
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait()
	take(t, dir).Close()
}

// However takes, releases and removals of the file fall together: there is one holder at a time.
func TestOneHolder(t *testing.T) {
	dir := locks(t)
	var inside, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				l, err := Take(dir, name, holder("a"))
				var busy *BusyError
				if errors.As(err, &busy) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the lease")
				}
				taken.Add(1)
				inside.Add(-1)
				l.Close()
				if err := Sweep(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("nobody ever had it")
	}
}

// A process that is being started has a copy of every descriptor until it runs its program. It must not look like a holder.
func TestReleaseWhileProcessesStart(t *testing.T) {
	dir := locks(t)
	quit := make(chan struct{})
	var starter sync.WaitGroup
	starter.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			if err := exec.Command("true").Run(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 200 {
		take(t, dir).Close()
	}
	close(quit)
	starter.Wait()
}

func TestNoLock(t *testing.T) {
	for kind, put := range map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
		"away":      func(path string) error { return os.Symlink("/etc/shadow", path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(kind, func(t *testing.T) {
			dir := locks(t)
			if err := put(filepath.Join(dir.Name(), name)); err != nil {
				t.Fatal(err)
			}
			_, err := Take(dir, name, holder("a"))
			if err == nil {
				t.Fatal("it was taken")
			}
			if (kind == "link" || kind == "fifo") && code.Of(err) != code.DomainLayout {
				t.Errorf("it answers %v", err)
			}
		})
	}
}

func TestSweep(t *testing.T) {
	dir := locks(t)
	left, err := dir.Create("00000000-0000-4000-8000-00000000000b")
	if err != nil {
		t.Fatal(err)
	}
	left.Close()
	l := take(t, dir)
	defer l.Close()
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir.Name())
	if err != nil || len(names) != 1 || names[0].Name() != name {
		t.Errorf("the sweep leaves %v, %v", names, err)
	}
}

func TestOwner(t *testing.T) {
	dir := locks(t)
	if err := os.Chown(dir.Name(), 36, 36); err != nil {
		t.Fatalf("this test changes owners, so it must run as root: %v", err)
	}
	defer take(t, dir).Close()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir.Name(), name), &st); err != nil || st.Uid != 36 || st.Gid != 36 {
		t.Errorf("it is %d:%d, %v", st.Uid, st.Gid, err)
	}
}
