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

	"github.com/rs/zerolog"
)

// A script of commits is run again and again, and the storage fails at the first operation, then at the second, and
// so on until a run is clean. What the store answered must be true in the store itself after it recovered, after the
// process was killed, and after a power cut.

// changes in the script; with a checkpoint every few of them.
const (
	scriptChanges    = 4
	scriptCheckpoint = 8
	scriptHistory    = 4 // records of the old file, of which all but one are pruned, in steps of two
	scriptPrune      = 2
)

// newScript makes a run on a new disk.
func newScript(t *testing.T, fromOld bool) *scripted {
	dir := t.TempDir()
	if fromOld {
		old(t, filepath.Join(dir, "tasks.db"), scriptHistory)
	}
	r := &scripted{t: t, d: newFaultDiskIn(t, dir), old: fromOld, prune: errNotMade}
	for range scriptChanges {
		r.answers = append(r.answers, errNotMade)
	}
	r.begun, r.ended = make([]int, scriptChanges+1), make([]int, scriptChanges+1)
	return r
}

// scripted is one run of the script.
type scripted struct {
	t       *testing.T
	d       *faultDisk
	answers []error // of change i; errNotMade if there was none
	next    uint64  // version of the counter

	old    bool // it began with a file of the first schema, with a history, which is pruned
	pruned int
	prune  error

	begun, ended []int // operations up to the call for change i, and at most so many up to its answer; the last is Prune's
}

var errNotMade = errors.New("not made")

func options(d *faultDisk) Options {
	return Options{Log: zerolog.Nop(), disk: d, checkpoint: scriptCheckpoint, prune: scriptPrune}
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
		if r.old && i == 2 {
			r.call(scriptChanges, func() error {
				r.pruned, r.prune = s.Prune(time.UnixMicro(scriptHistory+2), 1)
				return r.prune
			})
		}
		c, err := s.Get("counter")
		if err != nil && !errors.Is(err, ErrNotFound) {
			continue // reads may fail too; the version would be a guess
		}
		r.next = c.Version + 1
		r.call(i, func() error {
			r.answers[i] = s.Commit(change(i, r.next))
			return r.answers[i]
		})
	}
}

// call makes a call and lets the store come to rest after it.
func (r *scripted) call(i int, f func() error) {
	r.begun[i] = r.d.counted()
	err := f()
	r.ended[i] = r.d.counted()
	r.class(err)
	if errors.Is(err, ErrUnavailable) {
		time.Sleep(time.Minute) // of the bubble: past the retries
	}
	synctest.Wait() // the log was moved, if it was long enough
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
	if r.old {
		r.lookAtHistory(s, when, unknown)
	}
	report, err := s.Check()
	if err != nil || len(report.Problems) != 0 {
		r.fail("%s: the check finds %v (%v)", when, report.Problems, err)
	}
}

// lookAtHistory compares the old records with the answer of Prune: the oldest are gone, each with its trail.
func (r *scripted) lookAtHistory(s *SQLite, when string, unknown bool) {
	r.t.Helper()
	gone, left := 0, []string{}
	for i := range 2 * scriptHistory {
		id := numbered(i).ID
		_, err := s.Get(id)
		log, logErr := s.Log(id)
		if err != nil && !errors.Is(err, ErrNotFound) || logErr != nil {
			r.fail("%s: reading %s: %v, %v", when, id, err, logErr)
		}
		switch found := err == nil; {
		case found != (len(log) == 2) || !found && len(log) > 0:
			r.fail("%s: of %s a part is there: record %v, %d log entries", when, id, found, len(log))
		case !found && (i < scriptHistory || i == 2*scriptHistory-1 || len(left) > 0):
			r.fail("%s: %s was removed", when, id)
		case !found:
			gone++
		case i >= scriptHistory:
			left = append([]string{id}, left...)
		}
	}
	switch {
	case gone < r.pruned, r.prune == nil && r.pruned != scriptHistory-1,
		gone > r.pruned && (!unknown || !errors.Is(r.prune, ErrUnknown)):
		r.fail("%s: %d records are gone, and Prune answered %d, %v", when, gone, r.pruned, r.prune)
	}
	page, err := s.History(Place{}, 10)
	if !slices.EqualFunc(page, left, func(r Record, id string) bool { return r.ID == id }) {
		r.fail("%s: the history is %v (%v), want %v", when, page, err, left)
	}
}

func (r *scripted) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s\nfailed: %v\nanswers: %v, %v", fmt.Sprintf(format, args...), r.d.failed, r.answers, r.prune)
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
	old           bool // the script begins with an old file
	cause         error
}

// eachPoint makes runs with a fault that comes one operation later each time, until a run is clean, and answers how
// often each kind of operation failed last.
func eachPoint(t *testing.T, next func(n int) fault) map[string]int {
	kinds := map[string]int{}
	for n := 1; ; n += pointStride {
		clean := true // also if go test decides not to run it
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := next(n)
			r := newScript(t, f.old)
			d := r.d
			d.turn, d.again, d.reads, d.sticky, d.cause = f.turn, f.again, f.reads, f.sticky, f.cause
			clean = false // unless it says so
			synctest.Test(t, func(t *testing.T) { r.t = t; clean = !failOnce(r) })
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
		{"once, old file", fault{cause: syscall.EIO, old: true}},
		{"from then on, old file", fault{sticky: true, cause: syscall.EIO, old: true}},
		{"full once, old file", fault{cause: syscall.ENOSPC, old: true}},
		{"read once, old file", fault{reads: true, cause: syscall.EIO, old: true}},
		{"read once", fault{reads: true, cause: syscall.EIO}},
		{"read from then on", fault{reads: true, sticky: true, cause: syscall.EIO}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			kinds := eachPoint(t, func(n int) fault { f := mode.fault; f.turn = n; return f })
			want := []string{"write tasks.db-wal", "sync tasks.db-wal", "write tasks.db", "sync tasks.db"}
			if !mode.fault.old {
				want = append(want, "create tasks.db")
			}
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
	learn := newScript(t, false) // which operation that is
	d := learn.d
	synctest.Test(t, func(t *testing.T) { learn.t = t; failOnce(learn) })
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
func failOnce(r *scripted) (hit bool) {
	t, d := r.t, r.d
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
