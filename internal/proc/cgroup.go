package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// leaf is the cgroup of one worker.
type leaf struct {
	path   string
	events *os.File // cgroup.events, open from the start: the proof of death must not fail for want of a descriptor
	conn   syscall.RawConn
}

// makeLeaf creates the cgroup path.
func makeLeaf(path string) (*leaf, error) {
	// MkdirAll, as the tree above may have been removed while it was empty (systemd tidies, so do administrators).
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	l, err := openLeaf(path)
	if err != nil {
		return nil, errors.Join(err, removeTree(path))
	}
	return l, nil
}

// openLeaf opens a cgroup that exists.
func openLeaf(path string) (*leaf, error) {
	// Not os.Open, which takes it for a regular file that cannot be waited for. kernfs does wake pollers when "populated"
	// changes, and a non-blocking descriptor is given to Go's poller.
	file := filepath.Join(path, "cgroup.events")
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: file, Err: err}
	}
	f := os.NewFile(uintptr(fd), file)
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &leaf{path: path, events: f, conn: conn}, nil
}

func (l *leaf) members() ([]*process, error) {
	before, err := pidsOf(l.path)
	if err != nil {
		return nil, err
	}
	var open []*process
	var unsure error
	for _, pid := range before {
		p, err := openProcess(pid)
		if err == nil {
			open = append(open, p)
		} else if !errors.Is(err, unix.ESRCH) {
			unsure = errors.Join(unsure, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	// A pid that is listed after its pidfd was opened is the process that we hold.
	after, err := pidsOf(l.path)
	unsure = errors.Join(unsure, err)
	var ms []*process
	for _, p := range open {
		if slices.Contains(after, p.pid) && !p.exited() {
			ms = append(ms, p)
		} else {
			p.close()
		}
	}
	return ms, unsure
}

// kill lets the kernel kill the whole tree, frozen or not, so that no fork escapes.
func (l *leaf) kill() error {
	err := os.WriteFile(filepath.Join(l.path, "cgroup.kill"), []byte("1"), 0)
	if isGone(err) {
		return nil
	}
	return err
}

func (l *leaf) clear() error {
	populated, err := l.populated()
	if err != nil || !populated {
		return err
	}
	if err := l.kill(); err != nil {
		return err
	}
	werr := l.conn.Read(func(uintptr) bool {
		populated, err = l.populated()
		return err != nil || !populated
	})
	return errors.Join(werr, err)
}

// populated says whether a process is in the cgroup or below it. Reading arms the next notification.
func (l *leaf) populated() (yes bool, err error) {
	buf := make([]byte, 256)
	var n int
	cerr := l.conn.Control(func(fd uintptr) { n, err = unix.Pread(int(fd), buf, 0) })
	if isGone(err) {
		return false, cerr // a cgroup can be removed only when it is empty
	}
	if err = errors.Join(err, cerr); err != nil {
		return true, err
	}
	for line := range strings.Lines(string(buf[:n])) {
		if value, ok := strings.CutPrefix(line, "populated "); ok {
			return strings.TrimSpace(value) != "0", nil
		}
	}
	return true, fmt.Errorf("%s/cgroup.events says nothing of \"populated\"", l.path)
}

func (l *leaf) remove() error { return errors.Join(l.events.Close(), removeTree(l.path)) }

// isGone says that the cgroup does not exist any more.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// below lists the cgroups directly under path.
func below(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if isGone(err) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// pidsOf lists the processes in a cgroup and below it (a worker may make cgroups of its own).
func pidsOf(path string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range bytes.FieldsSeq(b) {
		// 0 stands for a process outside of our pid namespace: nothing that can be named here.
		if pid, err := strconv.Atoi(string(f)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	names, err := below(path)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		more, err := pidsOf(filepath.Join(path, n))
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// removeTree removes an empty cgroup and those below it. One that does not exist is no error.
func removeTree(path string) error {
	names, err := below(path)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeTree(filepath.Join(path, n)); err != nil {
			return err
		}
	}
	return rmdir(path)
}

// rmdir removes a cgroup that has no children.
func rmdir(path string) error {
	if err := unix.Rmdir(path); err != nil && !isGone(err) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// ownCgroup is the directory of the cgroup v2 that this process is in.
func ownCgroup() (string, error) { return Cgroup(os.Getpid()) }

// Cgroup is the directory of the cgroup v2 that a process is in, as this process sees it. Errors: there is none, or no such process.
func Cgroup(pid int) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	self, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	return findCgroup(string(mounts), string(self))
}

// unescape undoes what the kernel does to names in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// findCgroup does ownCgroup's work on the text of the two files.
func findCgroup(mounts, self string) (string, error) {
	own, found := "", false
	for line := range strings.Lines(self) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			own, found = strings.TrimSuffix(path, "\n"), true
		}
	}
	if !found {
		return "", errors.New("this process is in no cgroup v2")
	}
	if strings.HasPrefix(own, "/..") {
		return "", fmt.Errorf("the cgroup %s of this process is outside of its cgroup namespace", own)
	}
	for line := range strings.Lines(mounts) {
		left, right, ok := strings.Cut(line, " - ")
		f := strings.Fields(left)
		if !ok || len(f) < 5 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		// In a container the mount may show only a part of the tree, from root on.
		root, point := unescape.Replace(f[3]), unescape.Replace(f[4])
		rel, err := filepath.Rel(root, own)
		if err == nil && filepath.IsLocal(rel) {
			return filepath.Join(point, rel), nil
		}
	}
	return "", fmt.Errorf("no mount of type cgroup2 shows the cgroup %s", own)
}
