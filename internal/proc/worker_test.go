package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTerminateIsHeardOnceThenKill(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`trap 'echo heard' TERM; echo ready; while :; do read x && echo "$x"; done`)})
		w.line()
		w.Terminate()
		if l := w.line(); l != "heard" {
			t.Fatalf("got %q", l)
		}
		w.Terminate() // must not be heard again: the next line is the answer to what is said now
		fmt.Fprintln(w.stdin, "still here")
		if l := w.line(); l != "still here" {
			t.Fatalf("got %q", l)
		}
		mustNotBeGone(t, w.Worker)
		w.Kill()
		w.Kill()
		mustBeGone(t, w.Worker)
		if s := signalOf(t, w.Wait()); s != unix.SIGKILL {
			t.Errorf("ended by %v", s)
		}
		w.Kill()
		w.Terminate()
	})
}

func TestTerminateReachesAll(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`setsid sh -c 'trap "echo child; exit" TERM; echo $$; while :; do sleep 1000 & wait; done' &
			trap "wait; exit 7" TERM; wait`)})
		child := w.pid()
		w.Terminate()
		if l := w.line(); l != "child" {
			t.Errorf("the child said %q", l)
		}
		mustBeGone(t, w.Worker, child)
		if e, ok := w.Wait().(*ExitError); !ok || e.Code != 7 {
			t.Errorf("Wait = %v", w.Wait())
		}
	})
}

func TestTerminateContinuesStopped(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`trap "exit 5" TERM; echo ready; kill -STOP $$; while :; do :; done`)})
		w.line()
		waitStopped(t, w.leader.pid)
		w.Terminate()
		if e, ok := w.Wait().(*ExitError); !ok || e.Code != 5 {
			t.Errorf("Wait = %v", w.Wait())
		}
	})
}

// waitStopped returns when our child pid is in state T. It leaves the child's exit to be reaped by its owner.
func waitStopped(t *testing.T, pid int) {
	t.Helper()
	var err error
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestKillReachesDoubleForkedSetsidChild(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`(setsid sh -c 'trap "" TERM HUP; echo $$; sleep 1000; :' & ) ; read x`)})
		child := w.pid()
		if n := len(w.Pids()); n < 2 {
			t.Errorf("Pids = %v, want the leader and its children", w.Pids())
		}
		w.Kill()
		mustBeGone(t, w.Worker, child)
	})
}

// A child in the leader's group is found without the mark too.
func TestChildWithoutMark(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`env -i sh -c 'echo $$; exec sleep 1000' & wait`)})
		child := w.pid()
		w.Kill()
		mustBeGone(t, w.Worker, child)
		w = startTalk(t, m, Spec{Argv: sh(`env -i sh -c 'echo $$; exec sleep 1000' & read x; exit 0`)})
		child = w.pid()
		_ = w.stdin.Close()
		mustBeGone(t, w.Worker, child)
	})
}

// A child that was met with its mark stays known when it takes the mark off.
func TestMetChildStaysKnown(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		r, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w := startTalk(t, m, Spec{Files: []*os.File{r},
			Argv: sh(`setsid sh -c 'echo $$; read x <&3; exec env -i sh -c "echo changed; exec sleep 1000"' & read x`)})
		child := w.pid()
		if p := w.Pids(); len(p) != 2 {
			t.Errorf("Pids = %v, want two", p)
		}
		_, _ = r.Close(), in.Close()
		w.line()
		w.Kill()
		mustBeGone(t, w.Worker, child)
	})
}

// What outlives the leader is killed before Gone, and the leader's exit status is the worker's.
func TestLeaderExitsFirst(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		w := startTalk(t, m, Spec{Argv: sh(`setsid sh -c 'trap "" TERM HUP; echo $$; exec sleep 1000' & read x; exit 0`)})
		child := w.pid()
		mustNotBeGone(t, w.Worker)
		_ = w.stdin.Close()
		if err := w.Wait(); err != nil {
			t.Error(err)
		}
		mustBeGone(t, w.Worker, child)
	})
}

// A worker outlives the thread that asked for it: only the launcher's thread counts for the parent-death signal.
func TestThreadOfCallerMayEnd(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		workers := make(chan *talk)
		tid := make(chan int, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			tid <- unix.Gettid()
			workers <- startTalk(t, m, Spec{Argv: sh(`while read x; do echo "$x"; done`)})
		}()
		w := <-workers
		for thread := fmt.Sprintf("/proc/self/task/%d", <-tid); ; runtime.Gosched() {
			if _, err := os.Stat(thread); os.IsNotExist(err) {
				break
			}
		}
		fmt.Fprintln(w.stdin, "alive")
		if l := w.line(); l != "alive" {
			t.Errorf("got %q", l)
		}
	})
}

func TestParentDeath(t *testing.T) {
	for name, cgroup := range modes {
		t.Run(name, func(t *testing.T) {
			dir, id := t.TempDir(), newName()
			a := startAgent(t, dir, cgroup, id, `echo $$; exec sleep 1000`)
			worker := a.pid(t)
			if worker.exited() {
				t.Fatal("the worker ended before its agent")
			}
			a.crash()
			mustWait(t, worker)
			tidy(t, dir, cgroup, id)
		})
	}
}

// tidy removes what a helper agent left, through the front door.
func tidy(t *testing.T, dir, cgroup, name string) {
	t.Helper()
	ws, err := newManager(t, dir, cgroup, name).Leftovers()
	if err != nil {
		t.Error(err)
	}
	for _, w := range ws {
		<-w.Gone()
	}
}

func TestFrozenCgroupIsKilled(t *testing.T) {
	m := newManager(t, t.TempDir(), "", newName())
	w := startTalk(t, m, Spec{Argv: sh(`trap "exit 9" TERM; setsid sh -c 'trap "exit 9" TERM; echo $$; while :; do :; done' & wait`)})
	child := w.pid()
	path := w.held.(*leaf).path
	if err := os.WriteFile(filepath.Join(path, "cgroup.freeze"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for frozen := false; !frozen; runtime.Gosched() {
		b, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
		if err != nil {
			t.Fatal(err)
		}
		frozen = strings.Contains(string(b), "frozen 1")
	}
	w.Terminate() // heard when it thaws, which it never does
	mustNotBeGone(t, w.Worker)
	w.Kill()
	mustBeGone(t, w.Worker, child)
	if s := signalOf(t, w.Wait()); s != unix.SIGKILL {
		t.Errorf("ended by %v", s)
	}
}

// A worker that made cgroups below its own is found, killed and tidied up there too.
func TestNestedCgroups(t *testing.T) {
	m := newManager(t, t.TempDir(), "", newName())
	w := startTalk(t, m, Spec{Argv: sh(`mkdir -p "$1/x/y"; sh -c 'echo $$ > "$1/x/y/cgroup.procs"; echo $$; exec sleep 1000' sh "$1" & read x`,
		filepath.Join(m.subtree, fmt.Sprintf("w%d-task-1", m.serial+1)))})
	child := w.pid()
	if n := len(w.Pids()); n != 2 {
		t.Errorf("Pids = %v, want two", w.Pids())
	}
	w.Kill()
	mustBeGone(t, w.Worker, child)
}

func TestDescribeStopped(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		// A name that looks like the fields after it.
		w := start(t, m, Spec{Argv: sh(`printf ') D 1 (' > /proc/$$/comm; kill -STOP $$; :`)})
		waitStopped(t, w.leader.pid)
		want := fmt.Sprintf("pid %d () D 1 () in state T (stopped), waiting in ", w.leader.pid)
		if d := w.Describe(); len(d) != 1 || !strings.HasPrefix(d[0], want) {
			t.Errorf("Describe = %q, want it to begin with %q", d, want)
		}
		w.Kill()
		mustBeGone(t, w)
	})
}

// A process in state D survives SIGKILL until the kernel lets go of it. Writing to a frozen file system is such a state.
func TestStateD(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		mount, thaw := frozenFileSystem(t)
		w := start(t, m, Spec{Argv: []string{"dd", "if=/dev/zero", "of=" + mount + "/file", "bs=4k", "count=1"}})
		waitFrozen(w.leader.pid)
		w.Terminate()
		w.Kill() // returns though nothing can die
		d := w.Describe()
		want := fmt.Sprintf("pid %d (dd) in state D (uninterruptible), waiting in ", w.leader.pid)
		if len(d) != 1 || !strings.HasPrefix(d[0], want) || len(d[0]) == len(want) {
			t.Errorf("Describe = %q, want %q and the function", d, want)
		}
		t.Log(d)
		if p := w.Pids(); len(p) != 1 || p[0] != w.leader.pid {
			t.Errorf("Pids = %v", p)
		}
		mustNotBeGone(t, w)
		thaw()
		mustBeGone(t, w)
		if s := signalOf(t, w.Wait()); s != unix.SIGKILL && s != unix.SIGTERM {
			t.Errorf("ended by %v", s)
		}
	})
}

// Close is bounded although a worker cannot die, says so, and the next run finds the worker.
func TestCloseWithStateD(t *testing.T) {
	for name, cgroup := range modes {
		t.Run(name, func(t *testing.T) {
			mount, thaw := frozenFileSystem(t)
			dir, id := t.TempDir(), newName()
			first, err := New(Options{Dir: dir, Cgroup: cgroup, Name: id})
			if err != nil {
				t.Fatal(err)
			}
			w := start(t, first, Spec{Task: "stuck", Argv: []string{"dd", "if=/dev/zero", "of=" + mount + "/file", "bs=4k", "count=1"}})
			waitFrozen(w.leader.pid)
			err = first.Close()
			if err == nil || !strings.Contains(err.Error(), "of task stuck does not die: pid ") {
				t.Errorf("Close = %v", err)
			}
			mustNotBeGone(t, w)
			second := newManager(t, dir, cgroup, id)
			left, err := second.Leftovers()
			if err != nil || len(left) != 1 || left[0].Task() != "stuck" {
				t.Fatalf("Leftovers = %v, %v", left, err)
			}
			mustNotBeGone(t, left[0])
			if d := left[0].Describe(); len(d) != 1 || !strings.Contains(d[0], "in state D") {
				t.Errorf("Describe = %q", d)
			}
			thaw()
			mustBeGone(t, left[0])
			mustBeGone(t, w)
		})
	}
}

// waitFrozen returns when the process waits for the frozen file system, as opposed to a short wait for its program's pages.
func waitFrozen(pid int) {
	for d := ""; !strings.Contains(d, "in state D") || !strings.Contains(d, "rwsem"); runtime.Gosched() {
		d = describe(pid)
	}
}

// frozenFileSystem mounts a small file system and freezes it. If thaw is not called, the clean-up does it.
func frozenFileSystem(t *testing.T) (mount string, thaw func()) {
	t.Helper()
	dir := t.TempDir()
	mount = filepath.Join(dir, "mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "--size=8M", dir+"/image")
	run(t, "mkfs.ext4", "-q", dir+"/image")
	run(t, "mount", "-o", "loop", dir+"/image", mount)
	t.Cleanup(func() { run(t, "umount", mount) })
	run(t, "fsfreeze", "--freeze", mount)
	frozen := true
	thaw = func() {
		if frozen {
			frozen = false
			run(t, "fsfreeze", "--unfreeze", mount)
		}
	}
	t.Cleanup(thaw)
	return mount, thaw
}
