package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	recordSuffix = ".json"
	tempSuffix   = ".tmp"
	badSuffix    = ".bad"

	// markVariable is the variable in a worker's environment that its children inherit: its value is record.Mark.
	markVariable = "VDSM_AGENT_WORKER"
)

// record is what a later run must know of a worker in a process group. It is written before the start, without pid, and
// again right after it. A process of it is found by the pid and start time, or by the mark, and only on the same boot.
// It need not be synced: it has to outlive the agent, and what a power loss takes from it, it takes from the worker too.
type record struct {
	Task  string `json:"task"`
	Boot  string `json:"boot"`
	Mark  string `json:"mark"`
	Pid   int    `json:"pid,omitempty"`   // of the leader, which is also the number of the group; 0 = not known
	Start uint64 `json:"start,omitempty"` // of the leader, in ticks since boot
}

// group is the process group of one worker, with the children that left it by setsid.
type group struct {
	file string // of the record
	rec  record

	mu    sync.Mutex
	known map[int]verdict // by pid: what was found out, for a process may not show it any more when it dies
}

// verdict is whose the process with this start time is. It never changes: a mark is inherited or not there.
type verdict struct {
	start uint64
	ours  bool
}

// readGroup reads the record of a former run.
func readGroup(file string) (*group, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	g := &group{file: file}
	if err := json.Unmarshal(b, &g.rec); err != nil {
		return nil, err
	}
	if g.rec.Boot == "" || g.rec.Pid < 0 || g.rec.Pid > 0 && g.rec.Start == 0 {
		return nil, errors.New("the boot id, the pid or the start time is missing")
	}
	return g, nil
}

// adopt records the leader. It is called while nobody else uses the group and the leader has not been reaped.
func (g *group) adopt(pid int) error {
	st, err := readStat(pidDir(pid))
	if err != nil {
		return err
	}
	g.rec.Pid, g.rec.Start = pid, st.start
	return g.save()
}

// save writes the record.
func (g *group) save() error {
	b, err := json.Marshal(g.rec)
	if err != nil {
		return err
	}
	return replaceFile(g.file, b)
}

// replaceFile writes a file so that a crash of the agent leaves the old one or the new one.
func replaceFile(name string, b []byte) error {
	if err := os.WriteFile(name+tempSuffix, b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+tempSuffix, name)
}

func (g *group) members() ([]*process, error) {
	pids, err := allPids()
	if err != nil {
		return nil, err
	}
	// The number of a group is not given to another process while the leader exists, be it as a zombie, so a process with
	// our number as its group is ours as long as the leader is there. We reap our leaders last.
	leader := false
	if g.rec.Pid != 0 {
		st, err := readStat(pidDir(g.rec.Pid))
		leader = err == nil && st.start == g.rec.Start
	}
	var ms []*process
	var unsure error
	for _, pid := range pids {
		ours, err := g.owns(pid, leader)
		if err == nil && !ours {
			continue
		}
		p, err := g.hold(pid, leader)
		if err != nil {
			unsure = errors.Join(unsure, fmt.Errorf("process %d: %w", pid, err))
		} else if p != nil {
			ms = append(ms, p)
		}
	}
	return ms, unsure
}

// hold opens a process that seems to be the worker's; nil if it is not, or is gone.
func (g *group) hold(pid int, leaderExists bool) (*process, error) {
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Looked at again, now that the pidfd holds it: it might have been another one.
	ours, err := g.owns(pid, leaderExists)
	if p.exited() {
		ours, err = false, nil
	}
	if !ours {
		p.close()
		return nil, err
	}
	return p, nil
}

// owns says whether the process with this pid belongs to the worker; an error, if that cannot be told yet.
func (g *group) owns(pid int, leaderExists bool) (bool, error) {
	st, err := readStat(pidDir(pid))
	if err != nil || st.start < g.rec.Start {
		return false, nil
	}
	g.mu.Lock()
	v, ok := g.known[pid]
	g.mu.Unlock()
	if ok && v.start == st.start {
		return v.ours, nil
	}
	ours, err := g.judge(pid, st, leaderExists)
	if err == nil {
		g.mu.Lock()
		if g.known == nil {
			g.known = map[int]verdict{}
		}
		g.known[pid] = verdict{start: st.start, ours: ours}
		g.mu.Unlock()
	}
	return ours, err
}

// judge does the work of owns for a process that is met for the first time.
func (g *group) judge(pid int, st stat, leaderExists bool) (bool, error) {
	if g.rec.Pid != 0 && (pid == g.rec.Pid && st.start == g.rec.Start || st.pgid == g.rec.Pid && leaderExists) {
		return true, nil
	}
	// The environment is read only of processes of our own user: reading that of a VM that hangs in a page fault can
	// hang too. A worker does not change its user.
	var owner unix.Stat_t
	if err := unix.Stat(pidDir(pid), &owner); err != nil || int(owner.Uid) != os.Geteuid() {
		return false, nil
	}
	env, err := environment(pid)
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Split(string(env), "\x00"), markVariable+"="+g.rec.Mark), nil
}

func (g *group) kill() error { return signalAll(g, unix.SIGKILL) }

// clear needs two scans in a row that find nothing: while one runs, a process it did not reach yet may make a child with
// a pid that it has passed, and end.
func (g *group) clear() error {
	for empty := 0; empty < 2; empty++ {
		ms, err := g.members()
		if len(ms) > 0 {
			empty = -1
		}
		for _, p := range ms {
			err = errors.Join(err, p.signal(unix.SIGKILL))
		}
		for _, p := range ms {
			if err == nil {
				err = p.wait()
			}
		}
		closeAll(ms)
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *group) remove() error {
	if err := os.Remove(g.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recordNames lists the records in dir, and removes what a crash left half-written.
func recordNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			err = errors.Join(err, os.Remove(dir+"/"+e.Name()))
		}
		name, isRecord := strings.CutSuffix(e.Name(), recordSuffix)
		if _, _, ok := parseHolderName(name); ok && isRecord {
			names = append(names, name)
		}
	}
	return names, err
}
