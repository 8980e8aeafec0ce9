// Package qemuimgtest helps tests that run the real qemu-img: a Starter over the real process manager, images with known
// content, and file systems of their own on loop devices. A tool that is missing fails the test by name. It may be imported by
// tests only.
package qemuimgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
)

// Starter is a qemuimg.Starter that does with a worker what the task engine does: when ctx ends it is told to end.
type Starter struct {
	t     testing.TB
	procs *proc.Manager

	mu      sync.Mutex
	workers []*proc.Worker
	specs   []proc.Spec
	// Stop is what is done to a worker when ctx ends; nil = Terminate.
	Stop func(*proc.Worker)
}

// NewStarter makes a Starter; at the end of the test all its workers must be gone.
func NewStarter(t testing.TB) *Starter {
	t.Helper()
	dir := t.TempDir()
	name := "test-" + strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "/", "-") + "-" + fmt.Sprint(os.Getpid())
	m, err := proc.New(proc.Options{Dir: dir, Name: name, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	s := &Starter{t: t, procs: m}
	t.Cleanup(func() {
		s.MustBeGone()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start is qemuimg.Starter.
func (s *Starter) Start(ctx context.Context, p proc.Spec) (*proc.Worker, error) {
	p.Task = "test"
	w, err := s.procs.Start(p)
	if err != nil {
		return nil, err
	}
	stop := s.Stop
	if stop == nil {
		stop = (*proc.Worker).Terminate
	}
	context.AfterFunc(ctx, func() { stop(w) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers, s.specs = append(s.workers, w), append(s.specs, p)
	return w, nil
}

// Specs are all workers that were started so far.
func (s *Starter) Specs() []proc.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]proc.Spec(nil), s.specs...)
}

// Workers are all workers that were started so far.
func (s *Starter) Workers() []*proc.Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*proc.Worker(nil), s.workers...)
}

// MustBeGone fails the test if a worker is not gone.
func (s *Starter) MustBeGone() {
	s.t.Helper()
	for i, w := range s.Workers() {
		select {
		case <-w.Gone():
		default:
			s.t.Errorf("worker %v is not gone: %v", s.Specs()[i].Argv, w.Describe())
		}
	}
}

// Command runs a program and returns what it printed; a failure ends the test.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// IO runs qemu-io commands on an image that is opened with its whole chain.
func IO(t testing.TB, img qemuimg.Image, commands ...string) {
	t.Helper()
	var args []string
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := Command(t, "qemu-io", append(args, img.Node().Argument())...)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("qemu-io %q: %s", commands, out)
	}
}

// Mount makes a file system of the kind (mkfs.KIND) in a file of so many MiB, mounts it until the end of the test, and returns
// where, and a function that unmounts and mounts it again as after a power cut.
func Mount(t testing.TB, kind string, mib int64) (dir string, again func()) {
	t.Helper()
	base := t.TempDir()
	image := filepath.Join(base, "fs.img")
	dir = filepath.Join(base, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, mib<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Command(t, "mkfs."+kind, "-q", image)
	Command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { Command(t, "umount", dir) })
	return dir, func() {
		t.Helper()
		Command(t, "umount", dir)
		Command(t, "mount", "-o", "loop", image, dir)
	}
}

// RAM is a directory like t.TempDir, in memory: for tests that are about content, not about disks.
func RAM(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	Command(t, "mount", "-t", "tmpfs", "none", dir)
	t.Cleanup(func() { Command(t, "umount", dir) })
	return dir
}
