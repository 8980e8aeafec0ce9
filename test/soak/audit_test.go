package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vdsm-agent/rpc/wire"
)

// audit starts the daemon once more and checks everything: every task of the ledger, every volume, and that nothing else is
// there, neither while tasks are uncleared nor after all are cleared.
func (s *soak) audit() {
	s.again()
	c := s.caller(1 << 63)
	about := &task{id: "none"} // has the history of the audit
	ledger := s.tasks
	for _, t := range ledger {
		c.look(t)
		if t.clear == acknowledged {
			c.checkLog(t)
		}
	}
	for _, v := range s.volumes {
		c.check(about, v)
	}
	for _, t := range ledger {
		if t.submit == acknowledged && t.clear != acknowledged {
			c.clearing(t)
		}
	}
	s.again() // afterwards every reclaim that a clear has recorded is in the list
	c.quiet(about)
	s.checkFiles()
	s.checkDead()
	for _, d := range s.domains { // needs every lock of the domain
		t := &task{submit: acknowledged}
		if _, err := c.ask(t, "Trash.empty", map[string]any{"storagedomainID": d}, &t.id); err != nil {
			s.fail(t, "the trash of a domain cannot be emptied: %v", err)
		}
		if end := c.watch(t, -1); end.State != "finished" {
			s.fail(t, "a domain cannot be locked: %s", end.Message)
		}
		c.clearing(t)
	}
	if err := s.agent.terminate(); err != nil {
		s.fail(nil, "the daemon ends with %v", err)
	}
	s.tool(about, filepath.Join(binaries, "vdsm-agentctl"), "store", "check", "--state-dir", s.agent.state)
	s.checkGone()
}

// again kills the daemon and starts it.
func (s *soak) again() {
	s.agent.kill()
	select {
	case <-s.agent.start(0).ready:
	case <-s.agent.life.ended:
		s.fail(nil, "the daemon does not start for the audit")
	}
}

// checkLog: a cleared task is in the history, with its clear.
func (c *caller) checkLog(t *task) {
	var log []wire.LogEntry
	if _, err := c.ask(t, "Task.getLog", map[string]any{"taskID": t.id}, &log); err != nil {
		c.soak.fail(t, "the log of a cleared task cannot be read: %v", err)
	}
	if len(log) < 2 || !slices.ContainsFunc(log, func(e wire.LogEntry) bool { return strings.HasPrefix(e.What, "cleared") }) {
		c.soak.fail(t, "the log of a cleared task does not say so: %v", log)
	}
}

// patience is how often a task that only has to clear itself is looked at: far more often than it needs.
const patience = 10_000

// quiet waits until the daemon has done what the clears left to it. Its own tasks clear themselves.
func (c *caller) quiet(t *task) {
	ended := map[string]int{}
	for {
		tasks := map[string]wire.Task{}
		if _, err := c.ask(t, "Host.getAllTasks", nil, &tasks); err != nil {
			c.soak.fail(t, "the tasks cannot be listed: %v", err)
		}
		if len(tasks) == 0 {
			return
		}
		for id, left := range tasks {
			if !left.Ended.IsZero() {
				ended[id]++
			}
			if left.State == "failed" || left.State == "recovered" || ended[id] > patience {
				c.soak.fail(t, "the agent does not clear its own task %s, which is %s: %+v", id, left.State, left)
			}
			_, _ = c.ask(t, "Task.wait", map[string]any{"taskID": id, "timeout": 1}, nil) // it may be gone
		}
	}
}

// checkFiles: in a domain are its own files and those of the volumes that must be there, and nothing else.
func (s *soak) checkFiles() {
	want := map[string]bool{}
	for _, v := range s.volumes {
		if v.disk != nil {
			want[v.imagePath()], want[v.path()], want[v.path()+".meta"] = true, true, true
		}
	}
	for i, id := range s.domains {
		top := filepath.Join(s.roots[i], id)
		for _, dir := range []string{"images", ".vdsm-agent/tmp", ".vdsm-agent/trash"} {
			dir = filepath.Join(top, dir)
			s.must(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && path != dir && !want[path] {
					s.fail(s.named(path), "%s was left behind", path)
				}
				delete(want, path)
				return err
			}))
		}
	}
	for path := range want {
		s.fail(nil, "%s is missing", path)
	}
}

// named is the task whose id is in the path; nil = none.
func (s *soak) named(path string) *task {
	for _, t := range s.tasks {
		if strings.Contains(path, t.id) {
			return t
		}
	}
	return nil
}

// checkDead: the daemon has no process below it, and none works in its directories.
func (s *soak) checkDead() {
	own := s.agent.life.cmd.Process.Pid
	for _, p := range processes(s.dir) {
		if p.pid != own && (p.parent == own || p.ours) {
			s.fail(nil, "process %d is alive: %s", p.pid, p.what)
		}
	}
}

// checkGone: no process and no cgroup is left of any life.
func (s *soak) checkGone() {
	for _, p := range processes(s.dir) {
		if p.ours {
			s.fail(nil, "process %d is alive: %s", p.pid, p.what)
		}
	}
	list, err := os.ReadFile(filepath.Join(s.agent.state, "workers", "cgroups"))
	if err != nil {
		return // it keeps no list when there are none
	}
	for line := range strings.Lines(string(list)) {
		if entries, err := os.ReadDir(strings.TrimSpace(line)); err == nil {
			s.fail(nil, "the cgroup %s is left, with %v in it", strings.TrimSpace(line), entries)
		}
	}
}

type process struct {
	pid, parent int
	what        string
	ours        bool // it is named after the run's directory
}

func processes(dir string) (list []process) {
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range found {
		line, _ := os.ReadFile(filepath.Join(path, "cmdline")) // it may have ended
		status, err := os.ReadFile(filepath.Join(path, "status"))
		if err != nil {
			continue
		}
		p := process{what: string(bytes.ReplaceAll(line, []byte{0}, []byte(" ")))}
		p.pid, _ = strconv.Atoi(filepath.Base(path))
		p.ours = strings.Contains(p.what, dir) && p.pid != os.Getpid()
		in := bufio.NewScanner(bytes.NewReader(status))
		for in.Scan() {
			fmt.Sscanf(in.Text(), "PPid:\t%d", &p.parent)
		}
		list = append(list, p)
	}
	return list
}
