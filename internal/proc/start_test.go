package proc

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
}

func TestExit(t *testing.T) {
	for _, c := range []struct{ name, script, want, stderr string }{
		{"success", "echo noise >&2", "", ""},
		{"status", "exit 3", "sh ended with exit status 3", ""},
		{"reason", `printf 'one\ntwo: no space\n\n' >&2; exit 1`, "sh ended with exit status 1: two: no space", "one\ntwo: no space\n\n"},
		{"progress", `printf '(1/100%%)\r(2/100%%)\rbroken' >&2; exit 1`, "sh ended with exit status 1: broken", "(1/100%)\r(2/100%)\rbroken"},
		{"signal", "kill -TERM $$", "sh was ended by SIGTERM (terminated)", ""},
		{"real-time signal", "kill -40 $$", "sh was ended by signal 40 (signal 40)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inModes(t, func(t *testing.T, m *Manager) {
				err := start(t, m, Spec{Argv: sh(c.script)}).Wait()
				if c.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var e *ExitError
				if !errors.As(err, &e) || e.Error() != c.want || e.Stderr != c.stderr || e.Argv0 != "sh" {
					t.Errorf("Wait = %#v (%v)", err, err)
				}
			})
		})
	}
}

func TestStderrKeepsTheEnd(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		err := start(t, m, Spec{Argv: sh(`i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1`)}).Wait()
		var e *ExitError
		if !errors.As(err, &e) || len(e.Stderr) != tailSize || !strings.HasSuffix(e.Stderr, "line 1998\nline 1999\n") {
			t.Errorf("Wait = %#v", err)
		}
	})
}

func TestStreams(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		var out, errs, both bytes.Buffer
		w := start(t, m, Spec{Argv: sh("cat; echo e >&2; exit 2"), Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs})
		var e *ExitError
		if err := w.Wait(); !errors.As(err, &e) || e.Stderr != "" || out.String() != "in" || errs.String() != "e\n" {
			t.Errorf("Wait = %v, output %q, %q", err, out.String(), errs.String())
		}
		w = start(t, m, Spec{Argv: sh("echo 1; echo 2 >&2; echo 3; readlink /proc/self/fd/0"), Stdout: &both, Stderr: &both})
		if err := w.Wait(); err != nil || both.String() != "1\n2\n3\n/dev/null\n" {
			t.Errorf("Wait = %v, output %q", err, both.String())
		}
		// A worker that reads nothing of a long input is no error.
		if err := start(t, m, Spec{Argv: sh("exit 0"), Stdin: io.LimitReader(zeros{}, 1<<20)}).Wait(); err != nil {
			t.Error(err)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

func TestOutputIsCompleteAtWait(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		for range 20 {
			c := &counter{}
			w := start(t, m, Spec{Argv: sh("head -c 3000001 /dev/zero"), Stdout: c})
			if err := w.Wait(); err != nil || c.n != 3000001 {
				t.Fatalf("Wait = %v with %d bytes", err, c.n)
			}
		}
	})
}

// slowWriter holds its first write until it is released.
type slowWriter struct {
	called, release chan struct{}
	once            sync.Once
	got             bytes.Buffer
}

func (s *slowWriter) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.called); <-s.release })
	return s.got.Write(b)
}

// A slow reader of the output delays Wait, not Gone: no process is alive.
func TestSlowWriterDoesNotDelayGone(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		s := &slowWriter{called: make(chan struct{}), release: make(chan struct{})}
		w := start(t, m, Spec{Argv: sh("echo one; head -c 30000 /dev/zero; echo two"), Stdout: s})
		<-s.called
		<-w.Gone()
		select {
		case <-w.done:
			t.Error("Wait would return before the output was handed over")
		default:
		}
		close(s.release)
		if err := w.Wait(); err != nil || s.got.Len() != 30008 || !strings.HasSuffix(s.got.String(), "two\n") {
			t.Errorf("Wait = %v with %d bytes", err, s.got.Len())
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFailedWriterIsTold(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		if err := start(t, m, Spec{Argv: sh("echo x"), Stdout: failingWriter{}}).Wait(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Wait = %v", err)
		}
		// It must not hang on a pipe that nobody reads.
		err := start(t, m, Spec{Argv: []string{"dd", "if=/dev/zero", "bs=1M", "count=8"}, Stdout: failingWriter{}}).Wait()
		if err == nil {
			t.Error("Wait = nil")
		}
	})
}

// In group mode a child that calls setsid and clears its environment is lost (the package's comment says so). It may keep
// the pipe, but Wait must not hang on it, nor lose output. In a cgroup it is not lost.
func TestEscapedChildDoesNotHoldWait(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		pidR, pidW, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer pidR.Close()
		inR, inW, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := start(t, m, Spec{Argv: sh(`env -i setsid sh -c 'echo escaped; echo $$ >&3; exec sleep 1000' & read x; echo end`),
			Stdin: inR, Stdout: &out, Files: []*os.File{pidW}})
		_, _ = pidW.Close(), inR.Close()
		pid, err := bufio.NewReader(pidR).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		child := hold(t, strings.TrimSpace(pid))
		_ = inW.Close()
		if err := w.Wait(); err != nil || out.String() != "escaped\nend\n" {
			t.Errorf("Wait = %v, output %q", err, out.String())
		}
		if escaped := !child.exited(); escaped != (m.subtree == "") {
			t.Errorf("%s: escaped is %v", m.Mode(), escaped)
		}
		if err := child.signal(unix.SIGKILL); err != nil {
			t.Error(err)
		}
	})
}

// mustPipe returns the reading end of a pipe that holds text.
func mustPipe(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteString(text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET", "of the agent")
	inModes(t, func(t *testing.T, m *Manager) {
		var out bytes.Buffer
		dir := t.TempDir()
		w := start(t, m, Spec{Argv: sh("env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort; pwd; cat <&3"), Env: []string{"A=1", "LC_ALL=x", "A=2"},
			Dir: dir, Stdout: &out, Files: []*os.File{mustPipe(t, "third")}})
		if err := w.Wait(); err != nil {
			t.Fatal(err)
		}
		want := "A=2\nLANG=C\nLC_ALL=x\nPATH=" + os.Getenv("PATH") + "\n"
		if m.subtree == "" {
			want += markVariable + "=" + w.held.(*group).rec.Mark + "\n"
		}
		if want += dir + "\nthird"; out.String() != want {
			t.Errorf("got\n%s\nwant\n%s", out.String(), want)
		}
	})
}

func TestStartFails(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		junk := filepath.Join(t.TempDir(), "junk")
		if err := os.WriteFile(junk, []byte("\x7fELF junk"), 0o755); err != nil {
			t.Fatal(err)
		}
		fds := countFds(t)
		for _, s := range []Spec{
			{},
			{Argv: []string{"no-such-program"}},
			{Argv: []string{junk}, Stdin: strings.NewReader(""), Stdout: &bytes.Buffer{}},
			{Argv: sh(":"), Dir: "/no/such/directory"},
			{Argv: sh(":"), Task: strings.Repeat("x", 300)},
		} {
			if w, err := m.Start(s); err == nil {
				t.Errorf("Start(%q) = %v, nil", s.Argv, w)
			} else if code.Of(err) == 0 {
				t.Errorf("Start(%q): %v has no code", s.Argv, err)
			} else {
				t.Log(err)
			}
		}
		if n := countFds(t); n != fds {
			t.Errorf("%d descriptors before, %d after", fds, n)
		}
		if len(m.workers) > 0 {
			t.Errorf("%d workers are known", len(m.workers))
		}
	})
}

func countFds(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func TestManyWorkersLeakNothing(t *testing.T) {
	for name, cgroup := range modes {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			fds := countFds(t)
			dir, id := t.TempDir(), newName()
			m, err := New(Options{Dir: dir, Cgroup: cgroup, Name: id})
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for range 200 {
				all.Go(func() {
					var out bytes.Buffer
					w, err := m.Start(Spec{Task: "quick", Argv: sh("cat; echo x; echo y >&2"), Stdin: strings.NewReader("i"), Stdout: &out, IdleIO: true})
					if err != nil {
						t.Error(err)
						return
					}
					if err := w.Wait(); err != nil || out.String() != "ix\n" {
						t.Errorf("Wait = %v, output %q", err, out.String())
					}
				})
			}
			all.Wait()
			if m.subtree != "" {
				if left, err := below(m.subtree); err != nil || len(left) > 0 {
					t.Errorf("cgroups left: %v, %v", left, err)
				}
			}
			if left, err := recordNames(dir); err != nil || len(left) > 0 {
				t.Errorf("records left: %v, %v", left, err)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			goleak.VerifyNone(t, before)
			if n := countFds(t); n != fds {
				t.Errorf("%d descriptors before, %d after", fds, n)
			}
		})
	}
}

func TestCloseEndsAll(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		var ws []*talk
		var children []*process
		for range 5 {
			w := startTalk(t, m, Spec{Argv: sh(`trap "" TERM; setsid sh -c 'echo $$; exec sleep 1000' & read x`)})
			ws, children = append(ws, w), append(children, w.pid())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		for i, w := range ws {
			if !w.isGone() || !children[i].exited() {
				t.Error("a worker is alive after Close")
			}
		}
		if err := m.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if _, err := m.Start(Spec{Argv: sh(":")}); code.Of(err) != code.ShuttingDown {
			t.Errorf("Start after Close: %v", err)
		}
	})
}

// Close against Start, many times: whatever Start answers, nothing is alive after Close.
func TestCloseRacesStart(t *testing.T) {
	for name, cgroup := range modes {
		t.Run(name, func(t *testing.T) {
			for range 30 {
				dir, id := t.TempDir(), newName()
				m, err := New(Options{Dir: dir, Cgroup: cgroup, Name: id})
				if err != nil {
					t.Fatal(err)
				}
				begun := make(chan struct{}, 8)
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() {
						begun <- struct{}{}
						w, err := m.Start(Spec{Task: "raced", Argv: []string{"sleep", "1000"}})
						if err != nil {
							if code.Of(err) != code.ShuttingDown {
								t.Error(err)
							}
							return
						}
						if s := signalOf(t, w.Wait()); s != unix.SIGKILL {
							t.Errorf("ended by %v", s)
						}
					})
				}
				for range 4 {
					<-begun
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				if m.subtree != "" {
					if _, err := os.Stat(m.subtree); !os.IsNotExist(err) {
						t.Errorf("a cgroup is left: %v", err)
					}
				}
				all.Wait()
			}
		})
	}
}

func TestLimits(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		var out bytes.Buffer
		limits := Limits{AddressSpace: 256 << 20, CPUSeconds: 1}
		w := start(t, m, Spec{Argv: sh("ulimit -S -v; ulimit -H -v; ulimit -S -t; ulimit -H -t; ulimit -c"), Stdout: &out, Limits: limits})
		if err := w.Wait(); err != nil || out.String() != "262144\n262144\n1\n2\n0\n" {
			t.Errorf("Wait = %v, limits %q", err, out.String())
		}
		err := start(t, m, Spec{Argv: []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=1G", "count=1"}, Limits: limits}).Wait()
		if err == nil || !strings.HasPrefix(err.Error(), "dd ended with exit status 1: /usr/bin/dd: memory exhausted") {
			t.Errorf("with too little memory: %v", err)
		}
		err = start(t, m, Spec{Argv: sh("while :; do :; done"), Limits: limits}).Wait()
		if s := signalOf(t, err); s != unix.SIGXCPU {
			t.Errorf("with too little time: %v", err)
		}
		t.Log(err)
		if _, err := m.Start(Spec{Argv: []string{"no-such-program"}, Limits: limits}); err == nil {
			t.Error("a program that does not exist was started")
		}
	})
}

// The worker has the priorities from its start, and nothing else gets them.
func TestIdleIsInherited(t *testing.T) {
	inModes(t, func(t *testing.T, m *Manager) {
		for _, idle := range []bool{true, false, true, false} {
			w := startTalk(t, m, Spec{Argv: sh("nice; echo done; read x"), IdleIO: idle})
			nice, class := w.line(), ioClass(t, w.leader.pid)
			if idle && (nice != "19" || class != ioprioClassIdle) || !idle && (nice != "0" || class == ioprioClassIdle) {
				t.Errorf("IdleIO %v: nice %s, I/O class %d", idle, nice, class)
			}
			w.Kill()
		}
		if ioClass(t, 0) == ioprioClassIdle {
			t.Error("the test itself became idle")
		}
	})
}

func ioClass(t *testing.T, pid int) int {
	t.Helper()
	r, _, e := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(pid), 0)
	if e != 0 {
		t.Fatal(e)
	}
	return int(r) >> ioprioClassShift
}
