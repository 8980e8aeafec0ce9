package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
)

// A process dies after a failed sync, before it could write a new file. The next one finds the change that was
// answered "unknown" in the page cache, and what it answers must survive a power cut although it comes after that in
// the log.
func TestStartAfterFailedSyncThenPowerCut(t *testing.T) {
	d := newFaultDisk(t)
	path := filepath.Join(d.dir, "tasks.db")
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, path, options(d))
		mustCommit(t, s, Change{Put: []Record{{ID: "first", Version: 1}}})
		mustCommit(t, s, Change{}) // writes nothing, syncs nothing
		d.failNext("sync tasks.db-wal", true, syscall.EIO)
		if err := s.Commit(Change{Put: []Record{{ID: "unknown", Version: 1}}}); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
		if err := s.Commit(Change{Put: []Record{{ID: "refused", Version: 1}}}); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		s.Close()
		d.heal()
		s = mustOpen(t, path, options(d))
		mustCommit(t, s, Change{Put: []Record{{ID: "second", Version: 1}}})
		for range 20 {
			after := mustOpen(t, filepath.Join(d.powerCut(), "tasks.db"), Options{})
			for _, id := range []string{"first", "second"} {
				if _, err := after.Get(id); err != nil {
					t.Errorf("%s was answered, but after a power cut: %v", id, err)
				}
			}
			if err := after.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A full disk is met before the COMMIT: the answer is "no", the file stays, and the next change goes on in it.
func TestFullDiskIsANo(t *testing.T) {
	d := newFaultDisk(t)
	path := filepath.Join(d.dir, "tasks.db")
	s := mustOpen(t, path, options(d))
	mustCommit(t, s, Change{Put: []Record{{ID: "first", Version: 1}}})
	for i := range 3 {
		d.failNext("write tasks.db-wal", false, syscall.ENOSPC)
		err := s.Commit(change(i, 1))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no space") {
			t.Fatalf("a full disk is answered %v", err)
		}
		d.heal()
	}
	mustCommit(t, s, change(1, 1))
	mustClose(t, s)
	if i := slices.IndexFunc(d.done, func(op string) bool { return strings.Contains(op, building) && !strings.HasPrefix(op, "remove") }); i >= 0 {
		t.Errorf("the store was written anew: %s", d.done[i])
	}
}

// One change fails in a group of several, by a conflict: it alone is refused. Then the COMMIT of a group fails: those
// that would have been recorded are unknown, and what conflicted with one of them is not told that it conflicts.
func TestGroup(t *testing.T) {
	d := newFaultDisk(t)
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, filepath.Join(d.dir, "tasks.db"), options(d))
		// write has the changes written as one group: they wait, in their order, while the writer is held.
		write := func(group ...[]string) []error {
			answers, held, wait := make([]error, len(group)), make(chan struct{}), sync.WaitGroup{}
			wait.Go(func() { _ = s.send(0, func(*writer) error { <-held; return ErrConflict }) })
			synctest.Wait()
			for i, ids := range group {
				var c Change
				for _, id := range ids {
					c.Put = append(c.Put, Record{ID: id, Version: 1})
				}
				wait.Go(func() { answers[i] = s.Commit(c) })
				synctest.Wait()
			}
			close(held)
			wait.Wait()
			return answers
		}
		before := d.syncs()
		file, err := os.Stat(s.path)
		if err != nil {
			t.Fatal(err)
		}
		got := write([]string{"a"}, []string{"b", "a"}, []string{"c"})
		if got[0] != nil || !errors.Is(got[1], ErrConflict) || got[2] != nil {
			t.Fatalf("the group was answered %v", got)
		}
		if n := d.syncs() - before; n != 1+1 { // the first in a log syncs its header too
			t.Errorf("the group took %d syncs", n)
		}
		d.failNext("sync tasks.db-wal", false, syscall.EIO)
		got = write([]string{"d"}, []string{"d"}, []string{"a"}, []string{"e"})
		for i, want := range []error{ErrUnknown, ErrUnavailable, ErrUnavailable, ErrUnknown} {
			if !errors.Is(got[i], want) {
				t.Fatalf("the group was answered %v", got)
			}
		}
		synctest.Wait() // the store has recovered
		if now, err := os.Stat(s.path); err != nil || os.SameFile(file, now) {
			t.Errorf("after a failed COMMIT the store goes on in the same file (%v)", err)
		}
		for id, want := range map[string]error{"a": nil, "b": ErrNotFound, "c": nil, "d": ErrNotFound, "e": ErrNotFound} {
			if _, err := s.Get(id); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", id, err, want)
			}
		}
		mustClose(t, s)
	})
}
