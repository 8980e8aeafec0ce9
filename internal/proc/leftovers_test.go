package proc

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A crash leaves a child that the parent-death signal did not reach. The next run finds it, in whatever mode it runs.
func TestLeftovers(t *testing.T) {
	for formerName, former := range modes {
		for nowName, now := range modes {
			t.Run(formerName+" then "+nowName, func(t *testing.T) {
				dir, id := t.TempDir(), newName()
				a := startAgent(t, dir, former, id, `echo $$; (setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000`)
				leader, child := a.pid(t), a.pid(t)
				a.crash()
				mustWait(t, leader)
				if child.exited() {
					t.Fatal("there is nothing left to be found")
				}

				m := newManager(t, dir, now, id)
				ws, err := m.Leftovers()
				if err != nil || len(ws) != 1 {
					t.Fatalf("Leftovers = %v, %v", ws, err)
				}
				w := ws[0]
				if w.Task() != "task/of former run" {
					t.Errorf("Task = %q", w.Task())
				}
				mustBeGone(t, w, child)
				if err := w.Wait(); err != nil {
					t.Errorf("Wait = %v", err)
				}
				// A name of the former run is not given again.
				if nw := start(t, m, Spec{Argv: sh(":")}); nw.Wait() != nil {
					t.Error(nw.Wait())
				}
				if again, err := newManager(t, dir, now, id).Leftovers(); err != nil || len(again) > 0 {
					t.Errorf("the third run finds %v, %v", again, err)
				}
			})
		}
	}
}

// A crash right after a start may leave a record without a pid, and a living leader: the mark finds it.
func TestLeftoverByMark(t *testing.T) {
	m := newManager(t, t.TempDir(), "off", newName())
	p := stranger(t, markVariable+"=mark of a start")
	writeRecord(t, m.dir, "w1-t", record{Task: "t", Boot: m.boot, Mark: "mark of a start"})
	ws, err := m.Leftovers()
	if err != nil || len(ws) != 1 || ws[0].Task() != "t" || !slices.Equal(ws[0].Pids(), []int{p.pid}) && !p.exited() {
		t.Fatalf("Leftovers = %v, %v", ws, err)
	}
	mustBeGone(t, ws[0], p)
}

// A record kills what it names and nothing else.
func TestReusedPidIsSpared(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(r *record)
		env     string
		survive bool
	}{
		{"the very process", func(*record) {}, "A=b", false},
		{"another start time", func(r *record) { r.Start-- }, "A=b", true},
		{"a later start time", func(r *record) { r.Start++ }, "A=b", true},
		{"another boot", func(r *record) { r.Boot = "another" }, "A=b", true},
		{"another boot, same mark", func(r *record) { r.Boot = "another" }, markVariable + "=mark", true},
		{"another mark", func(r *record) { r.Pid, r.Start = 0, 0 }, markVariable + "=mark2", true},
		{"only the group of another one", func(r *record) { r.Start-- }, "A=b", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newManager(t, t.TempDir(), "off", newName())
			p := stranger(t, c.env)
			st, err := readStat(pidDir(p.pid))
			if err != nil || st.pgid != p.pid {
				t.Fatal(st, err)
			}
			r := record{Task: "t", Boot: m.boot, Mark: "mark", Pid: p.pid, Start: st.start}
			c.change(&r)
			writeRecord(t, m.dir, "w1-t", r)
			ws, err := m.Leftovers()
			if err != nil || len(ws) > 0 == c.survive {
				t.Errorf("Leftovers = %v, %v", ws, err)
			}
			if c.survive {
				if p.exited() {
					t.Error("a process that is not the worker's was killed")
				}
				return
			}
			mustBeGone(t, ws[0], p)
		})
	}
}

// A process in the middle of exec shows no environment, and then one without bytes; the mark must be seen all the same.
func TestMarkIsSeenDuringExec(t *testing.T) {
	again := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(again, []byte(`exec sh "$0"`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := stranger(t, markVariable+"=mark", "sh", again)
	for range 20000 {
		g := &group{rec: record{Mark: "mark"}}
		if ours, err := g.owns(p.pid, false); err != nil || !ours {
			t.Fatalf("owns = %v, %v", ours, err)
		}
	}
}

// A dying process gives up its memory, and its mark with it, before it closes its files. It must not pass for gone then:
// a process that is said not to be ours, and was, has ended.
func TestDyingDoesNotPassForGone(t *testing.T) {
	var many []*os.File // so that closing takes its time
	for range 500 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		many = append(many, f)
	}
	for range 100 {
		cmd := exec.Command("sleep", "1000")
		cmd.Env, cmd.ExtraFiles = []string{markVariable + "=mark"}, many
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p := hold(t, fmt.Sprint(cmd.Process.Pid))
		if err := p.signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for {
			g := &group{rec: record{Mark: "mark"}} // a new one, that has not met the process
			if ours, err := g.owns(p.pid, false); err != nil {
				t.Fatal(err)
			} else if !ours {
				break
			}
		}
		if !p.exited() {
			t.Errorf("not ours any more: %s", describe(p.pid))
		}
		_ = cmd.Wait()
	}
}

// stranger starts a process that no Manager knows, in a group of its own: "sleep 1000" if no argv is given.
func stranger(t *testing.T, env string, argv ...string) *process {
	t.Helper()
	if argv == nil {
		argv = []string{"sleep", "1000"}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{env}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return hold(t, fmt.Sprint(cmd.Process.Pid))
}

func writeRecord(t *testing.T, dir, name string, r record) {
	t.Helper()
	b, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+recordSuffix), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// One bad record does not hide the others, and is kept for a person to look at.
func TestDamagedRecordIsSetAside(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"w3-x.json": "{", "w4-x.json": `{"task":"x","boot":"b","pid":1}`, "w5-x.json.tmp": "{", "w6.json": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Options{Dir: dir, Cgroup: "off", Name: newName()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if name, err := m.nextName("z"); err != nil || name != "w5-z" {
		t.Errorf("the next worker is %q, %v: a name of a former run may be given again", name, err)
	}
	p := stranger(t, markVariable+"=mark")
	writeRecord(t, dir, "w7-y", record{Task: "y", Boot: m.boot, Mark: "mark"})
	ws, err := m.Leftovers()
	if err != nil || len(ws) != 1 || ws[0].Task() != "y" {
		t.Fatalf("Leftovers = %v, %v", ws, err)
	}
	mustBeGone(t, ws[0], p)
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"w3-x.json.bad", "w4-x.json.bad", "w6.json"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

// The agent may come back in another cgroup than it crashed in.
func TestLeftoversOfAnotherCgroup(t *testing.T) {
	own, err := ownCgroup()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(own, newName())
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rmdir(elsewhere); err != nil {
			t.Errorf("the cgroup of the former run was not removed: %v", err)
		}
	})
	dir, id := t.TempDir(), newName()
	a := startAgent(t, dir, elsewhere, id, `(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000`)
	child := a.pid(t)
	a.crash()
	m := newManager(t, dir, "", id)
	ws, err := m.Leftovers()
	if err != nil || len(ws) != 1 {
		t.Fatalf("Leftovers = %v, %v", ws, err)
	}
	mustBeGone(t, ws[0], child)
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{
		{Name: ""},
		{Name: "a/b"},
		{Name: "a", Cgroup: t.TempDir()},
		{Name: "a", Cgroup: "/no/such/directory"},
	} {
		o.Dir = t.TempDir()
		if m, err := New(o); err == nil {
			t.Errorf("New(%+v) gives a Manager in mode %s", o, m.Mode())
		} else {
			t.Log(err)
		}
	}
}

func TestHolderNames(t *testing.T) {
	for _, task := range []string{"", "0b1d8c3e-8e3b-4f6e-9a54-0d9f0c6e7a11", "a/b", "..", "-", "ä\n %41"} {
		name, err := holderName(12, task)
		if err != nil || name != filepath.Base(name) {
			t.Errorf("holderName(%q) = %q, %v", task, name, err)
		}
		if serial, back, ok := parseHolderName(name); !ok || serial != 12 || back != task {
			t.Errorf("%q comes back as %d, %q, %v", name, serial, back, ok)
		}
	}
	for _, name := range []string{"", "w", "w1", "1-x", "w-x", "w1x-y", "w1-%zz", "cgroup.procs"} {
		if _, _, ok := parseHolderName(name); ok {
			t.Errorf("%q is taken for ours", name)
		}
	}
}

func TestFindCgroup(t *testing.T) {
	for _, c := range []struct{ name, mounts, self, want string }{
		{"unified", "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "0::/system.slice/a.service\n", "/sys/fs/cgroup/system.slice/a.service"},
		{"hybrid", "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
			"4:memory:/m\n0::/\n", "/sys/fs/cgroup/unified"},
		{"part of the tree", "29 23 0:26 /pod /sys/fs/c\\040g rw - cgroup2 none rw\n", "0::/pod/x\n", "/sys/fs/c g/x"},
		{"outside of the part", "29 23 0:26 /pod /sys/fs/cgroup rw - cgroup2 none rw\n", "0::/other\n", ""},
		{"outside of the namespace", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n", "0::/../other\n", ""},
		{"only v1", "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "4:memory:/m\n", ""},
		{"not mounted", "", "0::/\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := findCgroup(c.mounts, c.self)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}
