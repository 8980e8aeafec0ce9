package lease

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holders are the processes that have the lock on f's file. The kernel names none for such a lock, but it shows with each descriptor
// the locks of its open file. Those of other hosts, and of other users unless we are root, are not seen.
func holders(f *os.File) []int {
	fi, err := f.Stat()
	if err != nil {
		return nil
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	var pids []int
	for _, fd := range descriptors {
		// By its name first: to look at a file may hang, to read a link does not.
		if to, err := os.Readlink(fd); err != nil || filepath.Base(strings.TrimSuffix(to, " (deleted)")) != filepath.Base(f.Name()) {
			continue
		}
		if same, err := os.Stat(fd); err != nil || !os.SameFile(fi, same) {
			continue
		}
		process, number := filepath.Dir(filepath.Dir(fd)), filepath.Base(fd)
		info, err := os.ReadFile(filepath.Join(process, "fdinfo", number))
		if err != nil || !bytes.Contains(info, []byte("OFDLCK")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(process)); err == nil && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func program(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone meanwhile"
	}
	return strings.TrimSpace(string(name))
}
