package test

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// inject FAULT FILE…: from now on system calls of the daemon that are about the files of $STATE fail, as FAULT tells strace;
// endinject ends it.
func inject(ts *testscript.TestScript, _ bool, args []string) {
	d := of(ts)
	argv := []string{"-f", "-p", strconv.Itoa(d.cmd.Process.Pid), "-o", "/dev/null", "-e", "inject=" + args[0]}
	for _, file := range args[1:] {
		argv = append(argv, "-P", filepath.Join(d.state, file))
	}
	d.strace = exec.Command("strace", argv...)
	said, err := d.strace.StderrPipe()
	ts.Check(err)
	ts.Check(d.strace.Start())
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") { // with all threads that there are
			go func() {
				for lines.Scan() { // further threads
				}
			}()
			return
		}
	}
	ts.Fatalf("strace ended before it had attached: %v", d.strace.Wait())
}

// endinject: system calls do not fail any more.
func endInject(ts *testscript.TestScript, _ bool, _ []string) { of(ts).endInject() }

// endInject ends the strace of the daemon, if there is one.
func (d *daemon) endInject() {
	if d.strace == nil {
		return
	}
	_ = d.strace.Process.Signal(syscall.SIGINT) // it has ended if the daemon has
	// On a loaded machine strace has been seen to wait for ever for a thread that it wants to let go. Without it the kernel does that.
	kill := time.AfterFunc(20*time.Second, func() { _ = d.strace.Process.Kill() })
	_ = d.strace.Wait() // by a signal
	kill.Stop()
	d.strace = nil
}
