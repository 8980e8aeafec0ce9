package proc

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// helperVariable makes the test binary an agent that starts one worker and does nothing more, instead of running tests.
const helperVariable = "PROC_TEST_HELPER_OPTIONS"

func TestMain(m *testing.M) {
	if o := os.Getenv(helperVariable); o != "" {
		helperAgent(o)
	}
	os.Exit(m.Run())
}

// helperAgent never returns. Its argument is "dir\ncgroup\nname\nscript".
func helperAgent(options string) {
	o := strings.SplitN(options, "\n", 4)
	m, err := New(Options{Dir: o[0], Cgroup: o[1], Name: o[2], Log: zerolog.New(os.Stderr)})
	if err == nil {
		_, err = m.Start(Spec{Task: "task/of former run", Argv: []string{"sh", "-c", o[3]}, Stdout: os.Stdout, Stderr: os.Stderr})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// modes are the values of Options.Cgroup that the tests run with.
var modes = map[string]string{"cgroup": "", "group": "off"}

// inModes runs a test with a Manager of each mode.
func inModes(t *testing.T, test func(t *testing.T, m *Manager)) {
	for name, cgroup := range modes {
		t.Run(name, func(t *testing.T) { test(t, newManager(t, t.TempDir(), cgroup, newName())) })
	}
}

func newName() string { return "test-" + rand.Text() }

func newManager(t *testing.T, dir, cgroup, name string) *Manager {
	t.Helper()
	m, err := New(Options{Dir: dir, Cgroup: cgroup, Name: name, Log: zerolog.New(zerolog.NewTestWriter(t))})
	if err != nil {
		t.Fatal(err)
	}
	if (m.subtree != "") != (cgroup == "") {
		t.Fatalf("mode is %q; these tests need a cgroup v2 tree they may make cgroups in", m.Mode())
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if m.subtree != "" {
			if _, err := os.Stat(m.subtree); !os.IsNotExist(err) {
				t.Errorf("after Close %s is still there: %v", m.subtree, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "w*")); len(left) > 0 {
			t.Errorf("records left: %v", left)
		}
	})
	return m
}

func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

func start(t *testing.T, m *Manager, s Spec) *Worker {
	t.Helper()
	if s.Task == "" {
		s.Task = "task-1"
	}
	w, err := m.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// talk is a worker whose lines the test reads, and which the test can tell to go on.
type talk struct {
	*Worker
	t     *testing.T
	lines *bufio.Reader
	stdin io.WriteCloser
}

func startTalk(t *testing.T, m *Manager, s Spec) *talk {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s.Stdin, s.Stdout = inR, outW
	w := start(t, m, s)
	go func() {
		_ = w.Wait()
		_ = outW.Close()
		_ = inR.Close()
	}()
	t.Cleanup(func() { _ = outR.Close(); _ = inW.Close() })
	return &talk{Worker: w, t: t, lines: bufio.NewReader(outR), stdin: inW}
}

func (k *talk) line() string {
	k.t.Helper()
	l, err := k.lines.ReadString('\n')
	if err != nil {
		k.t.Fatalf("the worker ended early: %v (%v)", err, k.Wait())
	}
	return strings.TrimSuffix(l, "\n")
}

// pid reads a line that is a pid, and holds that process.
func (k *talk) pid() *process { return hold(k.t, k.line()) }

func hold(t *testing.T, pid string) *process {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func mustBeGone(t *testing.T, w *Worker, ps ...*process) {
	t.Helper()
	<-w.Gone()
	for _, p := range ps {
		if !p.exited() {
			t.Errorf("Gone is closed and %s", describe(p.pid))
		}
	}
	if p := w.Pids(); p != nil {
		t.Errorf("Gone is closed and Pids is %v", p)
	}
	if d := w.Describe(); d != nil {
		t.Errorf("Gone is closed and Describe is %q", d)
	}
}

func mustNotBeGone(t *testing.T, w *Worker) {
	t.Helper()
	if w.isGone() {
		t.Fatal("Gone is closed and the worker lives")
	}
}

func signalOf(t *testing.T, err error) unix.Signal {
	t.Helper()
	e, ok := err.(*ExitError)
	if !ok {
		t.Fatalf("Wait = %v, want an *ExitError", err)
	}
	return e.Signal
}

// agent is a helper process that started one worker.
type agent struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

func startAgent(t *testing.T, dir, cgroup, name, script string) *agent {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{cmd: exec.Command(exe)}
	a.cmd.Env = append(os.Environ(), helperVariable+"="+strings.Join([]string{dir, cgroup, name, script}, "\n"))
	a.cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd.Stdout, a.lines = w, bufio.NewReader(r)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() { a.crash(); _ = r.Close() })
	return a
}

func (a *agent) pid(t *testing.T) *process {
	t.Helper()
	l, err := a.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return hold(t, strings.TrimSpace(l))
}

// crash kills the agent as a crash would, and reaps it.
func (a *agent) crash() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

func mustWait(t *testing.T, p *process) {
	t.Helper()
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
}
