package tasktest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vdsm-agent/tasks/store"
)

// StoreSuite holds a store to every sentence of store.Store's comments. open makes an empty one; reopen ends the use
// of s, by Close or by a crash, and opens what is there then. Both fail t if they cannot.
//
// What an implementation does with a record that it cannot read, and with storage that fails, is for its own tests:
// the suite has no way to bring that about.
func StoreSuite(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	for _, test := range []struct {
		name string
		run  func(s *suite)
	}{
		{"a change is applied as a whole", (*suite).whole},
		{"a change that conflicts leaves nothing", (*suite).conflictLeavesNothing},
		{"versions follow one another", (*suite).versions},
		{"a change that can never be stored is refused", (*suite).invalid},
		{"an empty change is fine", (*suite).empty},
		{"what was answered is there after a reopen", (*suite).durable},
		{"what was given is not kept", (*suite).notKept},
		{"values come back as they were", (*suite).values},
		{"live is not cleared, oldest first", (*suite).live},
		{"live ends with the error of each", (*suite).liveError},
		{"live lets each use the store", (*suite).liveReentrant},
		{"live walks many records", (*suite).liveMany},
		{"the log is in order, and empty if there is none", (*suite).log},
		{"fences are inserted, replaced and removed", (*suite).fences},
		{"a record set aside is kept but not live", (*suite).setAside},
		{"check counts", (*suite).check},
		{"count counts the live", (*suite).count},
		{"the history is newest first, in pages", (*suite).history},
		{"the history ends, whatever the page", (*suite).historyMany},
		{"prune removes by age and by number", (*suite).prune},
		{"prune removes many, and their trails with them", (*suite).pruneMany},
		{"prune lets changes be written", (*suite).pruneConcurrent},
		{"changes at the same time succeed or fail by themselves", (*suite).concurrent},
		{"a change that was answered is seen by the next call", (*suite).readYourWrites},
		{"later calls answer closed", (*suite).closed},
		{"close waits for the changes that are being written", (*suite).closeWaits},
		{"any sequence does what a map does", (*suite).model},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, Store: open(t), open: open, reopen: reopen}
			defer func() { _ = s.Store.Close() }() // closing twice is fine
			test.run(s)
		})
	}
}

// suite is one subtest with its store.
type suite struct {
	*testing.T
	store.Store
	open   func(t *testing.T) store.Store
	reopen func(t *testing.T, s store.Store) store.Store
}

// epoch is when the records of the suite are created.
var epoch = time.Date(2026, 2, 3, 4, 5, 6, 789_123_000, time.UTC)

// rec makes a record. The id's number gives its age.
func rec(id int, version uint64, state string) store.Record {
	return store.Record{
		ID: fmt.Sprintf("id-%06d", id), Version: version, Verb: "Volume.copy", Tag: "spm", Flow: "flow", State: state,
		Created: epoch.Add(time.Duration(id) * time.Microsecond), Updated: epoch.Add(time.Hour),
		Body: fmt.Appendf(nil, `{"id":%d,"version":%d}`, id, version),
	}
}

func put(records ...store.Record) store.Change { return store.Change{Put: records} }

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wants(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("the error is %v, want %v", err, want)
	}
}

// same compares two records; a nil Body is an empty one.
func same(a, b store.Record) bool {
	if !bytes.Equal(a.Body, b.Body) {
		return false
	}
	a.Body, b.Body = nil, nil
	return reflect.DeepEqual(a, b)
}

func (s *suite) has(want store.Record) {
	s.Helper()
	got, err := s.Get(want.ID)
	s.must(err)
	if !same(got, want) {
		s.Fatalf("stored is\n%+v\nwant\n%+v", got, want)
	}
}

func (s *suite) hasNot(id string) {
	s.Helper()
	_, err := s.Get(id)
	s.wants(err, store.ErrNotFound)
}

func (s *suite) ids() []string {
	s.Helper()
	ids := []string{}
	s.must(s.Live(func(r store.Record) error { ids = append(ids, r.ID); return nil }))
	return ids
}

func (s *suite) whole() {
	entry := store.Entry{Task: "id-000001", At: epoch, Who: "engine", What: "submitted"}
	fence := store.Fence{Flow: "f", At: epoch, Until: epoch.Add(time.Hour), Who: "engine"}
	s.must(s.Commit(store.Change{Put: []store.Record{rec(1, 1, "queued"), rec(2, 1, "queued")},
		Log: []store.Entry{entry}, Fence: []store.Fence{fence}}))
	s.has(rec(1, 1, "queued"))
	s.has(rec(2, 1, "queued"))
	if log, err := s.Log("id-000001"); err != nil || !slices.Equal(log, []store.Entry{entry}) {
		s.Fatal(log, err)
	}
	if fences, err := s.Fences(); err != nil || !slices.Equal(fences, []store.Fence{fence}) {
		s.Fatal(fences, err)
	}
}

func (s *suite) conflictLeavesNothing() {
	s.must(s.Commit(store.Change{Put: []store.Record{rec(1, 1, "queued")},
		Fence: []store.Fence{{Flow: "old", At: epoch, Until: epoch}}}))
	for _, last := range []store.Record{rec(1, 1, "again"), rec(1, 3, "too far"), rec(9, 2, "no such")} {
		s.wants(s.Commit(store.Change{
			Put:     []store.Record{rec(2, 1, "queued"), rec(1, 2, "running"), {ID: last.ID, Version: last.Version + 10}, last},
			Log:     []store.Entry{{Task: "id-000001", At: epoch, What: "lost"}},
			Fence:   []store.Fence{{Flow: "f", At: epoch, Until: epoch}},
			Unfence: []string{"old"},
		}), store.ErrConflict)
	}
	s.has(rec(1, 1, "queued"))
	s.hasNot("id-000002")
	s.hasNot("id-000009")
	if log, err := s.Log("id-000001"); err != nil || len(log) != 0 {
		s.Fatal(log, err)
	}
	if fences, err := s.Fences(); err != nil || len(fences) != 1 || fences[0].Flow != "old" {
		s.Fatal(fences, err)
	}
}

func (s *suite) versions() {
	s.wants(s.Commit(put(rec(1, 2, "running"))), store.ErrConflict)
	s.must(s.Commit(put(rec(1, 1, "queued"))))
	s.wants(s.Commit(put(rec(1, 1, "queued"))), store.ErrConflict)
	s.must(s.Commit(put(rec(1, 2, "running"))))
	s.wants(s.Commit(put(rec(1, 2, "running"))), store.ErrConflict)
	s.wants(s.Commit(put(rec(1, 4, "running"))), store.ErrConflict)
	s.must(s.Commit(put(rec(1, 3, "committing"), rec(1, 4, "finished")))) // in order, within one change
	s.has(rec(1, 4, "finished"))
}

func (s *suite) invalid() {
	tooLarge := rec(1, 1, "queued")
	tooLarge.Body = make([]byte, store.MaxBody+1)
	for _, r := range []store.Record{tooLarge, {Version: 1}, {ID: "a"}, {ID: "a", Version: 1 << 63}} {
		err := s.Commit(put(rec(2, 1, "queued"), r))
		if err == nil {
			s.Fatalf("a record of %d bytes, id %q, version %d was taken", len(r.Body), r.ID, r.Version)
		}
		for _, class := range []error{store.ErrConflict, store.ErrUnavailable, store.ErrUnknown, store.ErrClosed} {
			if errors.Is(err, class) {
				s.Fatalf("%v is answered as %v", err, class)
			}
		}
	}
	s.hasNot("id-000002")
	tooLarge.Body = tooLarge.Body[:store.MaxBody]
	s.must(s.Commit(put(tooLarge)))
	s.has(tooLarge)
}

func (s *suite) empty() { s.must(s.Commit(store.Change{})) }

func (s *suite) durable() {
	cleared := rec(2, 1, "finished")
	cleared.Cleared = true
	entry := store.Entry{Task: "id-000001", At: epoch, Who: "agent", What: "stopped"}
	fence := store.Fence{Flow: "f", At: epoch, Until: epoch.Add(time.Hour), Who: "engine"}
	s.must(s.Commit(store.Change{Put: []store.Record{rec(1, 1, "queued"), cleared, rec(3, 1, "odd")},
		Log: []store.Entry{entry}, Fence: []store.Fence{fence, {Flow: "g", At: epoch, Until: epoch}}}))
	s.must(s.Commit(store.Change{Put: []store.Record{rec(1, 2, "aborting")}, Unfence: []string{"g"}}))
	s.must(s.SetAside("id-000003", "odd"))
	for range 2 {
		s.Store = s.reopen(s.T, s.Store)
		s.has(rec(1, 2, "aborting"))
		s.has(cleared)
		if ids := s.ids(); !slices.Equal(ids, []string{"id-000001"}) {
			s.Fatal(ids)
		}
		if log, err := s.Log("id-000001"); err != nil || !slices.Equal(log, []store.Entry{entry}) {
			s.Fatal(log, err)
		}
		if fences, err := s.Fences(); err != nil || !slices.Equal(fences, []store.Fence{fence}) {
			s.Fatal(fences, err)
		}
		if report, err := s.Check(); err != nil || len(report.SetAside) != 1 || report.SetAside[0].Reason != "odd" {
			s.Fatal(report, err)
		}
	}
	s.must(s.Commit(put(rec(1, 3, "recovering"))))
}

func (s *suite) notKept() {
	c := store.Change{Put: []store.Record{rec(1, 1, "queued")}, Log: []store.Entry{{Task: "id-000001", At: epoch, What: "x"}}}
	given := bytes.Clone(c.Put[0].Body)
	s.must(s.Commit(c))
	if !bytes.Equal(c.Put[0].Body, given) {
		s.Fatal("the body was changed")
	}
	clear(c.Put[0].Body)
	c.Put[0].State, c.Log[0].What = "spoilt", "spoilt"
	s.has(rec(1, 1, "queued"))

	got, err := s.Get("id-000001")
	s.must(err)
	clear(got.Body)
	s.must(s.Live(func(r store.Record) error { clear(r.Body); return nil }))
	s.has(rec(1, 1, "queued"))
	log, err := s.Log("id-000001")
	s.must(err)
	log[0].What = "spoilt"
	if log, err = s.Log("id-000001"); err != nil || log[0].What != "x" {
		s.Fatal(log, err)
	}
}

func (s *suite) values() {
	texts := []string{"", "plain", "ünïcødé ⚙", "quote ' and \" and ; --", "two\nlines\x00and a zero", strings.Repeat("long", 5000)}
	times := []time.Time{epoch, {}, time.Unix(0, 0), epoch.Add(-200 * 365 * 24 * time.Hour), epoch.In(time.FixedZone("east", 3600)),
		epoch.Add(999 * time.Nanosecond)}
	for i, text := range texts {
		r := store.Record{ID: "id " + text, Version: 1, Verb: text, Tag: text, Flow: text, State: text,
			Created: times[i], Updated: times[i], Body: []byte(text)}
		e := store.Entry{Task: r.ID, At: times[i], Who: text, What: text}
		f := store.Fence{Flow: r.ID, At: times[i], Until: times[i], Who: text}
		s.must(s.Commit(store.Change{Put: []store.Record{r}, Log: []store.Entry{e}, Fence: []store.Fence{f}}))
		at := times[i].UTC().Truncate(time.Microsecond)
		r.Created, r.Updated, e.At, f.At, f.Until = at, at, at, at, at
		s.has(r)
		if log, err := s.Log(r.ID); err != nil || !slices.Equal(log, []store.Entry{e}) {
			s.Fatalf("%q: log %v, %v", text, log, err)
		}
		if fences, err := s.Fences(); err != nil || !slices.Contains(fences, f) {
			s.Fatalf("%q: fences %v, %v", text, fences, err)
		}
	}
}

func (s *suite) live() {
	cleared := rec(2, 1, "finished")
	cleared.Cleared = true
	s.must(s.Commit(put(rec(5, 1, "queued"), rec(3, 1, "queued"))))
	s.must(s.Commit(put(cleared, rec(4, 1, "queued"), rec(1, 1, "queued"))))
	twin := rec(0, 1, "queued")
	twin.Created = rec(4, 1, "").Created // the same moment: by id
	s.must(s.Commit(put(twin)))
	if ids := s.ids(); !slices.Equal(ids, []string{"id-000001", "id-000003", "id-000000", "id-000004", "id-000005"}) {
		s.Fatal(ids)
	}
	done := rec(3, 2, "finished")
	done.Cleared = true
	s.must(s.Commit(put(done)))
	if ids := s.ids(); !slices.Equal(ids, []string{"id-000001", "id-000000", "id-000004", "id-000005"}) {
		s.Fatal(ids)
	}
	s.has(done)
	s.must(s.Live(func(r store.Record) error {
		if want, _ := s.Get(r.ID); !same(r, want) {
			return fmt.Errorf("live has %+v, get %+v", r, want)
		}
		return nil
	}))
}

func (s *suite) liveError() {
	s.must(s.Commit(put(rec(1, 1, "queued"), rec(2, 1, "queued"))))
	enough, calls := errors.New("enough"), 0
	err := s.Live(func(store.Record) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		s.Fatalf("%v after %d calls, want the error itself after one", err, calls)
	}
}

func (s *suite) liveReentrant() {
	const n = 300
	for i := range n {
		s.must(s.Commit(put(rec(i, 1, "queued"))))
	}
	calls := 0
	s.must(s.Live(func(r store.Record) error {
		calls++
		if _, err := s.Log(r.ID); err != nil {
			return err
		}
		r.Version, r.State = 2, "running"
		return s.Commit(put(r))
	}))
	if calls != n {
		s.Fatalf("%d records, want each of %d once", calls, n)
	}
}

func (s *suite) liveMany() {
	const n, size = 1500, 2 << 10
	var c store.Change
	for i := range n {
		r := rec(i, 1, "queued")
		r.Body = bytes.Repeat([]byte{byte(i)}, size)
		c.Put = append(c.Put, r)
	}
	slices.Reverse(c.Put)
	s.must(s.Commit(c))
	i := 0
	s.must(s.Live(func(r store.Record) error {
		if want := rec(i, 1, "").ID; r.ID != want || len(r.Body) != size || r.Body[size-1] != byte(i) {
			return fmt.Errorf("record %d is %s with %d bytes, want %s", i, r.ID, len(r.Body), want)
		}
		i++
		return nil
	}))
	if i != n {
		s.Fatalf("%d records, want %d", i, n)
	}
}

func (s *suite) log() {
	if log, err := s.Log("nobody"); err != nil || len(log) != 0 {
		s.Fatal(log, err)
	}
	var want []store.Entry
	for i := range 20 {
		// The clock was set back: the order is that of the changes.
		e := store.Entry{Task: "a", At: epoch.Add(-time.Duration(i) * time.Hour), Who: "agent", What: strconv.Itoa(i)}
		want = append(want, e)
		s.must(s.Commit(store.Change{Log: []store.Entry{e, {Task: "b", At: epoch, What: "other"}}}))
	}
	if log, err := s.Log("a"); err != nil || !slices.Equal(log, want) {
		s.Fatal(log, err)
	}
}

func (s *suite) fences() {
	if fences, err := s.Fences(); err != nil || len(fences) != 0 {
		s.Fatal(fences, err)
	}
	f := func(flow, who string) store.Fence {
		return store.Fence{Flow: flow, At: epoch, Until: epoch.Add(time.Hour), Who: who}
	}
	s.must(s.Commit(store.Change{Fence: []store.Fence{f("b", "one"), f("a", "one")}}))
	s.must(s.Commit(store.Change{Fence: []store.Fence{f("b", "two")}, Unfence: []string{"absent"}}))
	if fences, err := s.Fences(); err != nil || !slices.Equal(fences, []store.Fence{f("a", "one"), f("b", "two")}) {
		s.Fatal(fences, err)
	}
	s.must(s.Commit(store.Change{Unfence: []string{"a", "b"}}))
	if fences, err := s.Fences(); err != nil || len(fences) != 0 {
		s.Fatal(fences, err)
	}
}

func (s *suite) setAside() {
	s.must(s.SetAside("nobody", "not there"))
	s.must(s.Commit(put(rec(1, 1, "queued"), rec(2, 1, "queued"))))
	s.must(s.SetAside("id-000001", "bad body"))
	if ids := s.ids(); !slices.Equal(ids, []string{"id-000002"}) {
		s.Fatal(ids)
	}
	s.has(rec(1, 1, "queued"))
	s.wants(s.Commit(put(rec(1, 1, "queued"))), store.ErrConflict) // its id is taken
	report, err := s.Check()
	s.must(err)
	if len(report.SetAside) != 1 || report.SetAside[0].ID != "id-000001" || report.SetAside[0].Reason != "bad body" ||
		report.SetAside[0].At.IsZero() {
		s.Fatal(report.SetAside)
	}
}

func (s *suite) check() {
	cleared := rec(4, 1, "finished")
	cleared.Cleared = true
	s.must(s.Commit(put(rec(1, 1, "queued"), rec(2, 1, "queued"), rec(3, 1, "running"), cleared, rec(5, 1, "odd"))))
	s.must(s.SetAside("id-000005", "odd"))
	report, err := s.Check()
	s.must(err)
	if report.Live != 3 || report.History != 1 || len(report.Problems) != 0 || report.Problems == nil || report.Path == "" ||
		!reflect.DeepEqual(report.States, map[string]int{"queued": 2, "running": 1}) {
		s.Fatalf("%+v", report)
	}
}

// concurrent has writers count in one record by compare-and-set. A lost update or an answer that is not true would
// make the sum wrong.
func (s *suite) concurrent() {
	const writers, each = 16, 20
	s.must(s.Commit(put(rec(0, 1, "0"))))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := 0; n < each; {
				r, err := s.Get("id-000000")
				if err != nil {
					s.Error(err)
					return
				}
				count, _ := strconv.Atoi(r.State)
				r.Version, r.State = r.Version+1, strconv.Itoa(count+1)
				own := rec(1000*(w+1)+n, 1, "own")
				switch err := s.Commit(store.Change{Put: []store.Record{own, r},
					Log: []store.Entry{{Task: r.ID, At: epoch, What: own.ID}}}); {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrConflict):
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Get("id-000000")
	s.must(err)
	if got.State != strconv.Itoa(writers*each) || got.Version != writers*each+1 {
		s.Fatalf("%s counted in version %d, want %d", got.State, got.Version, writers*each)
	}
	log, err := s.Log(got.ID)
	s.must(err)
	seen := map[string]bool{}
	for _, e := range log {
		seen[e.What] = true
	}
	if len(log) != writers*each || len(seen) != writers*each || len(s.ids()) != writers*each+1 {
		s.Fatalf("%d log lines (%d different), %d records, want %d", len(log), len(seen), len(s.ids()), writers*each)
	}
}

func (s *suite) readYourWrites() {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for v := uint64(1); v <= 40; v++ {
				if err := s.Commit(put(rec(w, v, "x"))); err != nil {
					s.Error(err)
					return
				}
				if got, err := s.Get(rec(w, v, "").ID); err != nil || got.Version != v {
					s.Errorf("version %d after the answer to %d: %v", got.Version, v, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) closed() {
	s.must(s.Commit(put(rec(1, 1, "queued"))))
	s.must(s.Close())
	s.must(s.Close())
	_, getErr := s.Get("id-000001")
	_, logErr := s.Log("id-000001")
	_, fencesErr := s.Fences()
	_, checkErr := s.Check()
	_, countErr := s.Count()
	_, historyErr := s.History(store.Place{}, 1)
	_, pruneErr := s.Prune(epoch, 0)
	for call, err := range map[string]error{
		"Commit": s.Commit(put(rec(2, 1, "queued"))), "SetAside": s.SetAside("id-000001", "late"),
		"Live": s.Live(func(store.Record) error { return nil }),
		"Get":  getErr, "Log": logErr, "Fences": fencesErr, "Check": checkErr, "Count": countErr,
		"History": historyErr, "Prune": pruneErr,
	} {
		if !errors.Is(err, store.ErrClosed) {
			s.Errorf("%s answers %v, want closed", call, err)
		}
	}
}

// closeWaits closes while changes come in. Each is answered with nil and is there, or with closed and is not.
func (s *suite) closeWaits() {
	const writers = 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, told := map[string]error{}, make(chan struct{}, writers)
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				r := rec(10_000_000*w+i, 1, "queued")
				err := s.Commit(put(r))
				mu.Lock()
				answered[r.ID] = err
				mu.Unlock()
				if i == 0 {
					told <- struct{}{}
				}
				if err != nil {
					return
				}
			}
		})
	}
	for range writers {
		<-told
	}
	s.must(s.Close())
	wg.Wait()
	s.Store = s.reopen(s.T, s.Store)
	for id, err := range answered {
		_, got := s.Get(id)
		if err == nil && got != nil {
			s.Errorf("%s was recorded and is gone: %v", id, got)
		}
		if err != nil && (!errors.Is(err, store.ErrClosed) || !errors.Is(got, store.ErrNotFound)) {
			s.Errorf("%s was answered %v, and reading it answers %v", id, err, got)
		}
	}
}
