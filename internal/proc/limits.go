package proc

import (
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Limits bound what a worker may use. They hold for each of its processes.
type Limits struct {
	AddressSpace uint64 // bytes; 0 = no limit. More memory than that is refused to the program
	CPUSeconds   uint64 // seconds of CPU time; 0 = no limit. At the limit SIGXCPU, a second later SIGKILL
}

// wrap returns the argument vector that runs path under the limits. A process can be limited by its parent only after
// it began to run, and the limits of the agent itself must not change even for an instant (its own memory would be
// refused), so prlimit(1) of util-linux sets them and then becomes the program: same pid, same parent-death signal. The
// limits are in force before the first instruction of the program.
func (l Limits) wrap(path string, argv []string) ([]string, error) {
	if l == (Limits{}) {
		return argv, nil
	}
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		return nil, fmt.Errorf("limits need the program prlimit; install util-linux: %w", err)
	}
	args := []string{prlimit, "--core=0"} // a core file of a program that hit its limit helps nobody
	for _, limit := range []struct {
		option      string
		resource    int
		value, slop uint64
	}{
		{"as", unix.RLIMIT_AS, l.AddressSpace, 0},
		{"cpu", unix.RLIMIT_CPU, l.CPUSeconds, 1},
	} {
		if limit.value == 0 {
			continue
		}
		// The agent may itself be under a lower limit, which nothing can raise.
		var now unix.Rlimit
		if err := unix.Getrlimit(limit.resource, &now); err != nil {
			return nil, err
		}
		soft, hard := min(limit.value, now.Max), min(limit.value+limit.slop, now.Max)
		args = append(args, fmt.Sprintf("--%s=%d:%d", limit.option, soft, hard))
	}
	return append(append(args, "--", path), argv[1:]...), nil
}
