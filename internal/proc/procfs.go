package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stat is the part of /proc/<pid>/stat that we use.
type stat struct {
	comm  string
	state byte
	pgid  int
	start uint64 // ticks since boot; with the pid and the boot id it names one process for ever

	noUser   bool // a zombie or a kernel thread: it has no memory and so no environment
	emptyEnv bool // its environment has no bytes, as opposed to one that is not there yet
}

const pfKthread = 0x00200000 // of the flags in stat

// readStat reads the stat file in dir, which is /proc/<pid> or /proc/<pid>/task/<tid>.
func readStat(dir string) (stat, error) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return stat{}, err
	}
	// The name is in parentheses and may hold any byte, a parenthesis too: fields are counted from the last one.
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return stat{}, fmt.Errorf("%s/stat has no name in parentheses", dir)
	}
	f := strings.Fields(string(b[to+1:]))
	const first = 3 // the number, in proc(5), of the first field after the name
	if last := 51; len(f) <= last-first {
		return stat{}, fmt.Errorf("%s/stat ends before field %d", dir, last)
	}
	var numbers [52]uint64
	for _, n := range []int{5, 9, 22, 26, 50, 51} {
		if numbers[n], err = strconv.ParseUint(f[n-first], 10, 64); err != nil {
			return stat{}, fmt.Errorf("%s/stat: field %d: %w", dir, n, err)
		}
	}
	st := stat{comm: string(b[from+1 : to]), state: f[0][0], pgid: int(numbers[5]), start: numbers[22]}
	st.noUser = st.state == 'Z' || st.state == 'X' || numbers[9]&pfKthread != 0
	// exec first clears the bounds of the environment (50, 51), then sets both to its start, then the end; only after that
	// it sets the start of the code (26; 1 means that we may not know).
	st.emptyEnv = numbers[26] > 1 && numbers[50] == numbers[51]
	return st, nil
}

// A process shows no environment for a moment in the middle of exec, and from the moment when it gave up its memory at its
// end until it is a zombie. In between it closes its files, which is when it may hang: it must not pass for gone.
const (
	bareTries = 50
	barePause = time.Millisecond
)

var errBare = errors.New("it hangs in exec or in its end, so that it cannot be told whose it is")

// environment reads the environment that the process was started with, as variables that end with a zero byte. It is
// empty for a process that has none, has ended, or may not be looked at.
func environment(pid int) ([]byte, error) {
	for range bareTries {
		st, err := readStat(pidDir(pid))
		if err != nil || st.noUser {
			return nil, nil
		}
		env, err := os.ReadFile(pidDir(pid) + "/environ")
		if len(env) > 0 || errors.Is(err, fs.ErrPermission) {
			return env, nil
		}
		// Truly empty before the reading and after it: else what was read may be the memory that exec has just given up.
		if again, err := readStat(pidDir(pid)); st.emptyEnv && err == nil && again.emptyEnv {
			return nil, nil
		}
		time.Sleep(barePause)
	}
	return nil, errBare
}

func pidDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// allPids lists all processes that this /proc shows.
func allPids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

var stateNames = map[byte]string{
	'R': "running", 'S': "sleeping", 'D': "uninterruptible", 'T': "stopped", 't': "stopped by a tracer",
	'Z': "zombie", 'X': "dead", 'I': "idle", 'P': "parked",
}

// describe tells in one sentence what the process does, or "" if there is none. Of several threads it shows the one that
// keeps the process from dying: one in state D first, else the first that lives. (A program with a pool of I/O threads has
// its first thread asleep while another hangs in the kernel.)
func describe(pid int) string {
	dir := pidDir(pid)
	st, err := readStat(dir)
	if err != nil {
		return ""
	}
	comm, at := st.comm, dir
	if st.state != 'D' {
		tasks, _ := filepath.Glob(dir + "/task/*") // the pattern is well-formed
		for _, t := range tasks {
			ts, err := readStat(t)
			if err != nil {
				continue
			}
			if ts.state == 'D' || st.state == 'Z' && ts.state != 'Z' {
				st, at = ts, t
			}
			if ts.state == 'D' {
				break
			}
		}
	}
	name := stateNames[st.state]
	if name == "" {
		name = "unknown"
	}
	s := fmt.Sprintf("pid %d (%s) in state %c (%s)", pid, comm, st.state, name)
	// "0" means not waiting, or not for our eyes.
	if w, err := os.ReadFile(at + "/wchan"); err == nil && len(w) > 0 && string(w) != "0" {
		s += ", waiting in " + string(w)
	}
	return s
}
