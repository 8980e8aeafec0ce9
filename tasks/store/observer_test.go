package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// noted is what an observer is told.
type noted struct{ lines []string }

func (n *noted) Synced(_ time.Duration, changes int) {
	n.lines = append(n.lines, fmt.Sprintf("synced %d", changes))
}
func (n *noted) Failed()          { n.lines = append(n.lines, "failed") }
func (n *noted) Trusted(yes bool) { n.lines = append(n.lines, fmt.Sprintf("trusted %t", yes)) }

// TestObserver: of a change that is recorded, of one that conflicts, of a full disk, and of a file that is trusted no more, until there is a new one.
func TestObserver(t *testing.T) {
	d := newFaultDisk(t)
	synctest.Test(t, func(t *testing.T) {
		n := &noted{}
		o := options(d)
		o.Observer = n
		s := mustOpen(t, filepath.Join(d.dir, "tasks.db"), o)
		first := Change{Put: []Record{{ID: "first", Version: 1}}}
		mustCommit(t, s, first)
		if err := s.Commit(first); !errors.Is(err, ErrConflict) {
			t.Errorf("a conflict is answered %v", err)
		}
		for _, op := range []string{"write tasks.db-wal", "sync tasks.db-wal"} {
			d.failNext(op, false, syscall.ENOSPC)
			if err := s.Commit(Change{Put: []Record{{ID: op, Version: 1}}}); err == nil {
				t.Errorf("%s has failed, and the change is answered as recorded", op)
			}
			d.heal()
		}
		mustCommit(t, s, Change{Put: []Record{{ID: "last", Version: 1}}})
		mustClose(t, s)
		want := []string{"synced 1", "failed", "failed", "trusted false", "trusted true", "synced 1"}
		if !slices.Equal(n.lines, want) {
			t.Errorf("it was told %q, want %q", n.lines, want)
		}
	})
}
