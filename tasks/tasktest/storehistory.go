package tasktest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vdsm-agent/tasks/store"
)

// past makes a cleared record. The id's number gives its Updated, in seconds after epoch.
func past(id int) store.Record {
	r := rec(id, 1, "cleared")
	r.Cleared, r.Updated = true, epoch.Add(time.Duration(id)*time.Second)
	return r
}

// trail makes n log entries of a record.
func trail(r store.Record, n int) (entries []store.Entry) {
	for i := range n {
		entries = append(entries, store.Entry{Task: r.ID, At: epoch, Who: "agent", What: fmt.Sprint(i)})
	}
	return entries
}

// old returns the ids of the history, read in pages.
func (s *suite) old(limit int) []string {
	s.Helper()
	ids := []string{}
	for at := (store.Place{}); ; {
		page, err := s.History(at, limit)
		s.must(err)
		if len(page) > limit {
			s.Fatalf("a page of at most %d has %d records", limit, len(page))
		}
		if len(page) == 0 {
			return ids
		}
		for _, r := range page {
			ids, at = append(ids, r.ID), store.Place{Updated: r.Updated, ID: r.ID}
		}
	}
}

func (s *suite) count() {
	counts := func(want int) {
		s.Helper()
		if n, err := s.Count(); err != nil || n != want {
			s.Fatalf("%d live records are counted (%v), want %d", n, err, want)
		}
	}
	counts(0)
	s.must(s.Commit(put(rec(1, 1, "queued"), rec(2, 1, "queued"), rec(3, 1, "queued"), past(4), past(5))))
	counts(3)
	s.must(s.SetAside("id-000001", "odd"))
	s.must(s.SetAside("id-000004", "odd")) // was not counted before either
	counts(2)
	done := rec(2, 2, "cleared")
	done.Cleared = true
	s.must(s.Commit(put(done)))
	counts(1)
}

func (s *suite) history() {
	if page, err := s.History(store.Place{}, 10); err != nil || len(page) != 0 {
		s.Fatal(page, err)
	}
	twin := past(0)
	twin.Updated = past(3).Updated // the same moment: by id
	s.must(s.Commit(put(past(3), rec(9, 1, "queued"), past(5), past(1), twin, past(4))))
	s.must(s.SetAside("id-000004", "odd"))
	want := []string{"id-000005", "id-000003", "id-000000", "id-000001"}
	for limit := 1; limit < 6; limit++ {
		if ids := s.old(limit); !slices.Equal(ids, want) {
			s.Fatalf("in pages of %d the history is %v, want %v", limit, ids, want)
		}
	}
	for _, limit := range []int{0, -1} {
		if page, err := s.History(store.Place{}, limit); err != nil || len(page) != 0 {
			s.Fatal(page, err)
		}
	}
	// A place need not be that of a record, and nothing is lost of a record.
	page, err := s.History(store.Place{Updated: past(3).Updated, ID: "id-000002"}, 1)
	s.must(err)
	if len(page) != 1 || !same(page[0], twin) {
		s.Fatalf("%+v, want %+v", page, twin)
	}
	s.Store = s.reopen(s.T, s.Store)
	if ids := s.old(2); !slices.Equal(ids, want) {
		s.Fatalf("after a reopen the history is %v, want %v", ids, want)
	}
}

func (s *suite) historyMany() {
	const n, size = 1500, 2 << 10
	var c store.Change
	var want []string
	for i := range n {
		r := past(n - i)
		r.Body = make([]byte, size)
		c.Put, want = append(c.Put, r), append(want, r.ID)
	}
	s.must(s.Commit(c))
	for _, limit := range []int{7, 100, 10 * n} {
		if ids := s.old(limit); !slices.Equal(ids, want) {
			s.Fatalf("in pages of %d the history has %d records, want %d in their order", limit, len(ids), n)
		}
	}
}

func (s *suite) prune() {
	prunes := func(before time.Time, keep, want int, left ...string) {
		s.Helper()
		if removed, err := s.Prune(before, keep); err != nil || removed != want {
			s.Fatalf("%d records are removed (%v), want %d", removed, err, want)
		}
		if ids := s.old(10); !slices.Equal(ids, left) {
			s.Fatalf("the history has %v, want %v", ids, left)
		}
	}
	prunes(epoch, 0, 0)
	c := put(rec(10, 1, "queued"))
	for i := range 8 {
		c.Put, c.Log = append(c.Put, past(i)), append(c.Log, trail(past(i), 3)...)
	}
	c.Put[0].Updated = epoch.Add(-time.Hour) // it is live, so it stays
	c.Log = append(c.Log, trail(c.Put[0], 2)...)
	c.Fence = []store.Fence{{Flow: "flow", At: epoch, Until: epoch}}
	s.must(s.Commit(c))
	s.must(s.SetAside("id-000000", "odd"))
	seven, six, five, four := "id-000007", "id-000006", "id-000005", "id-000004"
	prunes(past(4).Updated, 10, 3, seven, six, five, four) // those before, not at, the moment
	prunes(past(4).Updated, 4, 0, seven, six, five, four)
	prunes(epoch, 3, 1, seven, six, five)
	prunes(past(7).Updated, 2, 2, seven)
	for i := range 8 {
		log, err := s.Log(past(i).ID)
		s.must(err)
		switch _, err := s.Get(past(i).ID); {
		case i == 0 || i == 7:
			s.must(err)
			if len(log) != 3 {
				s.Fatalf("of the trail of %s %d entries are left", past(i).ID, len(log))
			}
		case !errors.Is(err, store.ErrNotFound) || len(log) != 0:
			s.Fatalf("%s was pruned, but: %v, %v", past(i).ID, err, log)
		}
	}
	s.has(c.Put[0])
	if log, err := s.Log(c.Put[0].ID); err != nil || len(log) != 2 {
		s.Fatal(log, err)
	}
	if fences, err := s.Fences(); err != nil || len(fences) != 1 {
		s.Fatal(fences, err)
	}
	again := rec(3, 1, "queued") // the id is free
	s.must(s.Commit(put(again)))
	s.Store = s.reopen(s.T, s.Store)
	s.has(again)
	prunes(epoch, -1, 1)
	if report, err := s.Check(); err != nil || report.History != 0 || len(report.SetAside) != 1 || len(report.Problems) != 0 {
		s.Fatalf("%+v %v", report, err)
	}
}

// pruneMany prunes by each of the two rules more than any implementation takes in one step, of records and of bytes.
func (s *suite) pruneMany() {
	const n = 1500
	for i := range n {
		r := past(i)
		if i%50 == 0 {
			r.Body = make([]byte, 300<<10)
		}
		s.must(s.Commit(store.Change{Put: []store.Record{r}, Log: trail(r, 1+i%3)}))
	}
	s.must(s.Commit(store.Change{Log: trail(past(3), 5000)}))
	for _, step := range []struct{ before, keep, left int }{{700, n, 800}, {700, 50, 50}} {
		have := len(s.old(100))
		if removed, err := s.Prune(past(step.before).Updated, step.keep); err != nil || removed != have-step.left {
			s.Fatalf("%d records are removed (%v), want %d", removed, err, have-step.left)
		}
		for i := range n {
			log, err := s.Log(past(i).ID)
			s.must(err)
			if there := i >= n-step.left; there != (len(log) > 0) {
				s.Fatalf("%s has %d entries, though its record is there: %v", past(i).ID, len(log), there)
			}
		}
		if ids := s.old(100); len(ids) != step.left || ids[step.left-1] != past(n-step.left).ID {
			s.Fatalf("%d records are left, the last is %s", len(ids), ids[len(ids)-1])
		}
	}
}

func (s *suite) pruneConcurrent() {
	const n = 1000
	var c store.Change
	for i := range n {
		c.Put, c.Log = append(c.Put, past(i)), append(c.Log, trail(past(i), 2)...)
	}
	s.must(s.Commit(c))
	var wg sync.WaitGroup
	removed := make([]int, 2)
	for i := range removed {
		wg.Go(func() {
			var err error
			if removed[i], err = s.Prune(epoch, 0); err != nil {
				s.Error(err)
			}
		})
	}
	for w := range 4 {
		wg.Go(func() {
			for v := uint64(1); v <= 30; v++ {
				if err := s.Commit(put(rec(n+w, v, "running"))); err != nil {
					s.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if removed[0]+removed[1] != n || len(s.old(10)) != 0 || len(s.ids()) != 4 {
		s.Fatalf("%v records are removed of %d; %d are live", removed, n, len(s.ids()))
	}
}
