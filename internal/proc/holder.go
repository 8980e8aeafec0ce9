package proc

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holder is what keeps the processes of one worker together: a leaf of the cgroup tree or a process group. All methods but
// remove may be called at any time and by several goroutines at once.
type holder interface {
	// members opens all that are alive, the leader too. The caller closes them. An error says that there may be more.
	members() ([]*process, error)
	// kill sends SIGKILL to all members. It does not wait.
	kill() error
	// clear kills what is there until it is proven that nothing is, for as long as that takes. An error means that the
	// proof could not be made: call it again.
	clear() error
	// remove forgets a cleared holder, on disk too.
	remove() error
}

// maxSignalRounds bounds the chase after processes that fork while they are signalled.
const maxSignalRounds = 16

// signalAll sends sig once to every member, also to those that were born meanwhile. A process with a pending signal that
// it does not ignore cannot fork, so one round more than the depth of the tree is enough.
func signalAll(h holder, sig unix.Signal) error {
	sent := map[int]bool{}
	for range maxSignalRounds {
		ms, err := h.members()
		fresh := false
		for _, p := range ms {
			if !sent[p.pid] {
				sent[p.pid], fresh = true, true
				err = errors.Join(err, p.signal(sig))
			}
		}
		closeAll(ms)
		if err != nil || !fresh {
			return err
		}
	}
	return nil
}

// maxTask bounds the length of a task's id in a file name, in bytes.
const maxTask = 200

// holderName is the name of a worker's cgroup leaf or record: it tells whose the worker is.
func holderName(serial uint64, task string) (string, error) {
	t := url.PathEscape(task)
	if len(t) > maxTask {
		return "", fmt.Errorf("the task id %.40q… is longer than %d bytes", task, maxTask)
	}
	return fmt.Sprintf("w%d-%s", serial, t), nil
}

// parseHolderName is the inverse of holderName; ok is false for a name that holderName does not make.
func parseHolderName(name string) (serial uint64, task string, ok bool) {
	number, escaped, ok := strings.Cut(strings.TrimPrefix(name, "w"), "-")
	if !ok || !strings.HasPrefix(name, "w") {
		return 0, "", false
	}
	serial, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, "", false
	}
	task, err = url.PathUnescape(escaped)
	return serial, task, err == nil
}
