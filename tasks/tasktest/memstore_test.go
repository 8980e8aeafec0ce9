package tasktest_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
)

func TestMemStoreConforms(t *testing.T) {
	keep := anySubset(1)
	tasktest.StoreSuite(t,
		func(*testing.T) store.Store { return tasktest.NewMemStore() },
		func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return s.(*tasktest.MemStore).Crash(keep)
		})
}

// anySubset answers as a generator of random numbers with that seed does.
func anySubset(seed uint64) func() bool {
	rng := rand.New(rand.NewPCG(seed, seed))
	return func() bool { return rng.IntN(2) == 0 }
}

func record(id string, version uint64) store.Record {
	return store.Record{ID: id, Version: version, State: "running"}
}

func insert(ids ...string) store.Change {
	var c store.Change
	for _, id := range ids {
		c.Put = append(c.Put, record(id, 1))
	}
	return c
}

func has(t *testing.T, s store.Store, id string) bool {
	t.Helper()
	_, err := s.Get(id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// A crash keeps what was answered, and each open change whole or not at all; over many crashes both are seen, and
// every subset of two.
func TestCrashKeepsSubsetsOfOpenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tasktest.NewMemStore()
		if err := m.Commit(insert("answered")); err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		m.OnCommit = func(store.Change) error { <-release; return nil }
		for _, c := range []store.Change{insert("a1", "a2"), insert("b1", "b2")} {
			go m.Commit(c)
		}
		synctest.Wait()
		seen := map[[2]bool]bool{}
		for i := range uint64(64) {
			after := m.Crash(anySubset(i))
			if !has(t, after, "answered") {
				t.Fatal("a change that was answered is gone")
			}
			kept := [2]bool{has(t, after, "a1"), has(t, after, "b1")}
			if kept != [2]bool{has(t, after, "a2"), has(t, after, "b2")} {
				t.Fatal("a change was kept in part")
			}
			seen[kept] = true
		}
		if len(seen) != 4 {
			t.Fatalf("of two open changes only the subsets %v were seen", seen)
		}
		close(release)
		synctest.Wait()
		if !has(t, m.Crash(anySubset(0)), "b2") {
			t.Fatal("a crash of a clone touched the original")
		}
	})
}

// An unknown change is open until the next one that is answered.
func TestUnknownEndsWithTheNextAnswer(t *testing.T) {
	m := tasktest.NewMemStore()
	answer := store.ErrUnknown
	m.OnCommit = func(store.Change) error { return answer }
	if err := m.Commit(insert("a")); !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	if has(t, m, "a") {
		t.Fatal("an unknown change is there")
	}
	kept := 0
	for i := range uint64(32) {
		if has(t, m.Crash(anySubset(i)), "a") {
			kept++
		}
	}
	if kept == 0 || kept == 32 {
		t.Fatalf("an unknown change is there after %d of 32 crashes", kept)
	}
	answer = nil
	if err := m.Commit(insert("b")); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(32) {
		if has(t, m.Crash(anySubset(i)), "a") {
			t.Fatal("an unknown change came back after the store had recovered")
		}
	}
	answer = tasktest.ErrApplied
	if err := m.Commit(insert("c")); !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	if !has(t, m, "c") || !has(t, m.Crash(anySubset(1)), "c") {
		t.Fatal("a change that was answered with ErrApplied is not there")
	}
	if got, want := m.Counter(), (tasktest.MemCounter{Done: 1, Unknown: 2}); got != want {
		t.Fatalf("counted %+v, want %+v", got, want)
	}
}

func TestRefusedAndLateChangesAreAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tasktest.NewMemStore()
		m.OnCommit = func(store.Change) error { return store.ErrUnavailable }
		if err := m.Commit(insert("a")); !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		m.OnCommit = func(store.Change) error { time.Sleep(time.Hour); return nil }
		late := make(chan error)
		go func() { late <- m.Commit(insert("b")) }()
		synctest.Wait()
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-late; !errors.Is(err, store.ErrClosed) {
			t.Fatal(err)
		}
		for i := range uint64(16) {
			if after := m.Crash(anySubset(i)); has(t, after, "a") || has(t, after, "b") {
				t.Fatal("a change that was refused is there")
			}
		}
	})
}
