package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// A script of commits is run again and again, and the storage fails at the first operation, then at the second, and
// so on until a run is clean. What the store answered must be true in the store itself after it recovered, after the
// process was killed, and after a power cut.

// changes in the script; with a checkpoint every few of them.
const (
	scriptChanges    = 4
	scriptCheckpoint = 8
)

// scripted is one run of the script.
type scripted struct {
	t       *testing.T
	d       *faultDisk
	answers []error // of change i; errNotMade if there was none
	next    uint64  // version of the counter
}

var errNotMade = errors.New("not made")

func options(d *faultDisk) Options {
	return Options{Log: zerolog.Nop(), disk: d, checkpoint: scriptCheckpoint}
}

// change i has four parts, so that a change that is there in part is seen.
func change(i int, version uint64) Change {
	id := fmt.Sprintf("task-%02d", i)
	at := time.UnixMicro(int64(i)).UTC()
	return Change{
		Put: []Record{
			{ID: id, Version: 1, State: "running", Created: at, Updated: at, Body: slices.Repeat([]byte{byte(i)}, 5000)},
			{ID: "counter", Version: version, State: "counter", Created: at, Updated: at},
		},
		Log:   []Entry{{Task: id, At: at, Who: "agent", What: "made"}},
		Fence: []Fence{{Flow: id, At: at, Until: at}},
	}
}

// run makes the script. The first failure of a kind ends nothing: a client goes on.
func (r *scripted) run(s *SQLite) {
	for i := range r.answers {
		if i == 2 { // conflicts leave nothing, whatever fails around them
			if err := s.Commit(change(99, r.next+10)); err == nil {
				r.t.Fatal("a conflict was not seen")
			}
		}
		c, err := s.Get("counter")
		if err != nil && !errors.Is(err, ErrNotFound) {
			continue // reads may fail too; the version would be a guess
		}
		r.next = c.Version + 1
		r.answers[i] = s.Commit(change(i, r.next))
		r.class(r.answers[i])
		if errors.Is(r.answers[i], ErrUnavailable) {
			time.Sleep(time.Minute) // of the bubble: past the retries
		}
	}
}

func (r *scripted) class(err error) {
	for _, ok := range []error{nil, ErrUnavailable, ErrUnknown} {
		if err == ok || ok != nil && errors.Is(err, ok) {
			return
		}
	}
	r.t.Fatalf("a change without a conflict was answered %v (failed: %v)", err, r.d.failed)
}

// look compares a store with the answers. unknown says whether an unknown change may be there.
func (r *scripted) look(s *SQLite, when string, unknown bool) {
	r.t.Helper()
	there := 0
	for i, answer := range r.answers {
		id := fmt.Sprintf("task-%02d", i)
		rec, err := s.Get(id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			r.fail("%s: reading %s: %v", when, id, err)
		}
		found := err == nil
		log, logErr := s.Log(id)
		fences, fenceErr := s.Fences()
		if err := errors.Join(logErr, fenceErr); err != nil {
			r.fail("%s: %v", when, err)
		}
		fenced := slices.ContainsFunc(fences, func(f Fence) bool { return f.Flow == id })
		if found != (len(log) == 1) || found != fenced || len(log) > 1 || found && len(rec.Body) != 5000 {
			r.fail("%s: of change %d (%v) a part is there: record %v, %d log entries, fence %v", when, i, answer, found, len(log), fenced)
		}
		switch {
		case answer == nil && !found:
			r.fail("%s: change %d was answered and is gone", when, i)
		case found && answer != nil && (!unknown || !errors.Is(answer, ErrUnknown)):
			r.fail("%s: change %d was answered %v and is there", when, i, answer)
		}
		if found {
			there++
		}
	}
	if _, err := s.Get("task-99"); !errors.Is(err, ErrNotFound) {
		r.fail("%s: a change that conflicts is there (%v)", when, err)
	}
	c, err := s.Get("counter")
	if err != nil && !errors.Is(err, ErrNotFound) || int(c.Version) != there {
		r.fail("%s: the counter is at %d, %d changes are there (%v)", when, c.Version, there, err)
	}
	report, err := s.Check()
	if err != nil || len(report.Problems) != 0 {
		r.fail("%s: the check finds %v (%v)", when, report.Problems, err)
	}
}

func (r *scripted) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s\nfailed: %v\nanswers: %v", fmt.Sprintf(format, args...), r.d.failed, r.answers)
}

// lookAfter opens what a crash left, in a directory of its own, and looks; then goes on with it once more.
func (r *scripted) lookAfter(dir, when string) {
	r.t.Helper()
	path := filepath.Join(dir, "tasks.db")
	s, err := Open(path, Options{Log: zerolog.Nop(), disk: newFaultDiskIn(r.t, dir)}) // it makes no real syncs
	if err != nil {
		r.fail("%s: opening: %v", when, err)
	}
	r.t.Cleanup(func() { s.Close() })
	r.look(s, when, true)
	if err := s.Commit(Change{Put: []Record{{ID: "after", Version: 1}}}); err != nil {
		r.fail("%s: going on: %v", when, err)
	}
	if err := s.Close(); err != nil {
		r.fail("%s: closing: %v", when, err)
	}
}

func (r *scripted) crashes(when string) {
	r.t.Helper()
	r.lookAfter(r.d.killed(), when+", killed")
	r.lookAfter(r.d.powerCut(), when+", power cut")
}

// fault is how the storage fails.
type fault struct {
	turn, again   int // as in faultDisk
	reads, sticky bool
	cause         error
}

// eachPoint makes runs with a fault that comes one operation later each time, until a run is clean, and answers how
// often each kind of operation failed last.
func eachPoint(t *testing.T, next func(n int) fault) map[string]int {
	kinds := map[string]int{}
	for n := 1; ; n += pointStride {
		clean := true // also if go test decides not to run it
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			d := newFaultDisk(t)
			f := next(n)
			d.turn, d.again, d.reads, d.sticky, d.cause = f.turn, f.again, f.reads, f.sticky, f.cause
			clean = false // unless it says so
			synctest.Test(t, func(t *testing.T) { clean = !failOnce(t, d) })
			if !clean {
				kinds[d.failed[min(f.again, 1)]]++
			}
		})
		if clean || t.Failed() {
			t.Logf("%d points, every %d. of them: %v", n-1, pointStride, kinds)
			return kinds
		}
	}
}

func TestStorageFails(t *testing.T) {
	for _, mode := range []struct {
		name  string
		fault fault
	}{
		{"once", fault{cause: syscall.EIO}},
		{"from then on", fault{sticky: true, cause: syscall.EIO}},
		{"full once", fault{cause: syscall.ENOSPC}},
		{"read once", fault{reads: true, cause: syscall.EIO}},
		{"read from then on", fault{reads: true, sticky: true, cause: syscall.EIO}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			kinds := eachPoint(t, func(n int) fault { f := mode.fault; f.turn = n; return f })
			want := []string{"write tasks.db-wal", "sync tasks.db-wal", "write tasks.db", "sync tasks.db", "create tasks.db"}
			if mode.fault.reads {
				want = []string{"read tasks.db-wal", "read tasks.db"}
			}
			for _, kind := range want {
				if kinds[kind] == 0 && !t.Failed() && pointStride == 1 {
					t.Errorf("no %q failed: the seam is broken", kind)
				}
			}
		})
	}
}

// The sync of a COMMIT in the middle of the script fails, and then an operation of the recovery.
func TestStorageFailsInRecovery(t *testing.T) {
	d := newFaultDisk(t) // learns which operation that is
	synctest.Test(t, func(t *testing.T) { failOnce(t, d) })
	syncs, turn := 0, 0
	for i, op := range d.done {
		if op == "sync tasks.db-wal" {
			if syncs++; syncs == 6 {
				turn = i + 1
			}
		}
	}
	for _, sticky := range []bool{false, true} {
		t.Run(fmt.Sprintf("from then on %v", sticky), func(t *testing.T) {
			t.Parallel()
			kinds := eachPoint(t, func(n int) fault { return fault{turn: turn, again: n, sticky: sticky, cause: syscall.EIO} })
			for _, kind := range []string{"create tasks.db.building", "write tasks.db.building", "sync tasks.db.building",
				"rename tasks.db.building", "remove tasks.db-wal", "rename tasks.db.rebuilt", "sync 001"} {
				if kinds[kind] == 0 && !t.Failed() && pointStride == 1 {
					t.Errorf("no %q failed: the seam is broken", kind)
				}
			}
		})
	}
}

// failOnce is one run, in a bubble. It answers whether the fault has come.
func failOnce(t *testing.T, d *faultDisk) (hit bool) {
	r := &scripted{t: t, d: d, answers: make([]error, scriptChanges)}
	for i := range r.answers {
		r.answers[i] = errNotMade
	}
	path := filepath.Join(d.dir, "tasks.db")
	s, err := Open(path, options(d))
	if err != nil {
		if len(d.failed) == 0 || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
			r.fail("opening an empty store: %v", err)
		}
		r.crashes("after a failed start")
		hit = d.hit()
		d.heal()
		if s, err = Open(path, options(d)); err != nil {
			r.fail("opening again: %v", err)
		}
	}
	t.Cleanup(func() { s.Close() }) // after a failure; twice is fine
	r.run(s)
	r.crashes("before the recovery")
	hit = hit || d.hit()
	d.heal()
	time.Sleep(time.Minute) // the store recovers
	r.look(s, "recovered", false)
	r.crashes("recovered")
	last := s.Commit(Change{Put: []Record{{ID: "last", Version: 1}}})
	if last != nil {
		r.fail("the store does not go on: %v", last)
	}
	if err := s.Close(); err != nil {
		r.fail("closing: %v", err)
	}
	if s, err = Open(path, options(d)); err != nil {
		r.fail("opening: %v", err)
	}
	r.look(s, "reopened", false)
	if err := s.Close(); err != nil {
		r.fail("closing again: %v", err)
	}
	return hit
}

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
