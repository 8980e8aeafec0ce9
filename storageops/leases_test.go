package storageops_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// doomedDir tells TestDoomedAgent where to be an agent.
const doomedDir = "VDSM_AGENT_TEST_DOOMED"

// TestDoomedAgent is no test: started by orphanOf it is an agent that makes a volume until it is killed.
func TestDoomedAgent(t *testing.T) {
	dir := os.Getenv(doomedDir)
	if dir == "" {
		return
	}
	h := newHostIn(t, dir)
	if err := h.submit("Volume.create", doomedParams()); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("it ended: %s", h.ended().Message)
}

func doomedParams() map[string]any {
	return with(map[string]any{"volumeID": volNew, "imageID": imgNew, "size": "10485760", "volFormat": 5, "preallocate": 2})
}

// orphanOf lets an agent at work in dir be killed in the middle of making a volume, and returns its worker, which lives on: it
// is no qemu-img but a program that has switched its parent-death signal off, as one in state D does not hear it.
func orphanOf(t *testing.T, dir string) *os.Process {
	t.Helper()
	bin, started := t.TempDir(), filepath.Join(t.TempDir(), "started")
	if err := unix.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	real, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal(err)
	}
	hanging := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *%s*) exec setpriv --pdeathsig clear sh -c 'echo $$ >%s; exec sleep 10000';; esac\nexec %s \"$@\"\n", volNew, started, real)
	if err := os.WriteFile(filepath.Join(bin, "qemu-img"), []byte(hanging), 0o700); err != nil {
		t.Fatal(err)
	}
	agent := exec.Command("/proc/self/exe", "-test.run=^TestDoomedAgent$")
	agent.Env = append(os.Environ(), doomedDir+"="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	var said strings.Builder
	agent.Stdout, agent.Stderr = &said, &said
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = agent.Wait()
	}()
	// Both ends, so that the open does not wait for an agent that has failed.
	pipe, err := os.OpenFile(started, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-ended
		_, _ = pipe.WriteString("none\n")
	}()
	line, err := bufio.NewReader(pipe).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the agent ended before its worker began: %s", said.String())
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	orphan, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = orphan.Kill() })
	return orphan
}

// TestOrphanKeepsTheLease: what an agent that was killed has left behind keeps its volume to itself. Another agent is refused, and the
// same one waits, until it is gone.
func TestOrphanKeepsTheLease(t *testing.T) {
	dir := t.TempDir()
	orphan := orphanOf(t, dir)
	other := (&host{t: t, dir: dir}).openAs("another")
	if err := other.submit("Volume.create", doomedParams()); err != nil {
		t.Fatal(err)
	}
	v := other.ended()
	if v.State != tasks.Recovered || v.Code != code.AcquireLock {
		t.Fatalf("another agent ended %s/%d: %s", v.State, v.Code, v.Message)
	}
	for _, word := range []string{volNew, "task " + taskID, "agent test", fmt.Sprintf("process %d (sleep)", orphan.Pid)} {
		if !strings.Contains(v.Message, word) {
			t.Errorf("%q does not say %q", v.Message, word)
		}
	}
	other.close()

	same := (&host{t: t, dir: dir}).openAs("test")
	if err := same.submit("Volume.create", doomedParams()); err != nil {
		t.Fatal(err)
	}
	waits := func(s tasks.Summary) bool { return strings.Contains(same.view().Message, "lease") || s.State.Final() }
	if s, err := same.Wait(t.Context(), taskID, waits); err != nil || s.State != tasks.Running {
		t.Fatalf("the same agent is %s (%v): %s", s.State, err, same.view().Message)
	}
	if err := orphan.Kill(); err != nil {
		t.Fatal(err)
	}
	if v := same.ended(); v.State != tasks.Finished {
		t.Errorf("with the orphan gone it ended %s: %s", v.State, v.Message)
	}
	left, err := os.ReadDir(same.path(".vdsm-agent", "locks"))
	if err != nil || len(left) > 0 {
		t.Errorf("of leases that nobody has there is left: %v %v", left, err)
	}
}

// TestStopWhileWaitingForALease: a task that waits for a lease can be stopped.
func TestStopWhileWaitingForALease(t *testing.T) {
	h := newHost(t)
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	before := h.tree()
	l, err := d.Lease(volNew, "cccccccc-0000-4000-8000-000000000002")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := h.submit("Volume.create", doomedParams()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(t.Context(), taskID, func(s tasks.Summary) bool { return strings.Contains(h.view().Message, "lease") || s.State.Final() }); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(taskID, tasks.StopOptions{Who: "tester"}); err != nil {
		t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Recovered {
		t.Errorf("ended %s: %s", v.State, v.Message)
	}
	same(t, before, h.tree())
}
