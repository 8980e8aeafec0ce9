package tasktest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"vdsm-agent/tasks/store"
)

// model compares random sequences of calls with maps.
func (s *suite) model() {
	rapid.Check(s.T, func(t *rapid.T) {
		m := &storeModel{suite: &suite{T: s.T, Store: s.open(s.T), reopen: s.reopen},
			tasks: map[string]store.Record{}, logs: map[string][]store.Entry{}, fence: map[string]store.Fence{},
			aside: map[string]bool{}}
		defer func() { _ = m.suite.Store.Close() }() // the check of one that fails is a test of its own
		t.Repeat(map[string]func(*rapid.T){
			"commit":   m.commit,
			"setAside": m.doSetAside,
			"prune":    m.prune,
			"reopen":   m.doReopen,
			"":         m.compare,
		})
	})
}

type storeModel struct {
	suite *suite
	tasks map[string]store.Record
	logs  map[string][]store.Entry
	fence map[string]store.Fence
	aside map[string]bool
}

var (
	anID   = rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	aWord  = rapid.StringN(0, 8, 40)
	aTime  = rapid.Custom(func(t *rapid.T) time.Time { return time.UnixMicro(rapid.Int64Range(-9, 9).Draw(t, "µs")).UTC() })
	aDelta = rapid.SampledFrom([]uint64{1, 1, 1, 1, 1, 0, 2}) // mostly the right next version
)

func (m *storeModel) commit(t *rapid.T) {
	var c store.Change
	tasks := maps.Clone(m.tasks)
	conflict := false
	for range rapid.IntRange(0, 3).Draw(t, "records") {
		id := anID.Draw(t, "id")
		r := store.Record{ID: id, Version: max(1, tasks[id].Version+aDelta.Draw(t, "step")), Verb: aWord.Draw(t, "verb"),
			Tag: aWord.Draw(t, "tag"), Flow: aWord.Draw(t, "flow"), State: aWord.Draw(t, "state"),
			Cleared: rapid.Bool().Draw(t, "cleared"), Created: aTime.Draw(t, "created"), Updated: aTime.Draw(t, "updated"),
			Body: rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "body")}
		conflict = conflict || r.Version != tasks[id].Version+1
		c.Put = append(c.Put, r)
		tasks[id] = r
	}
	for range rapid.IntRange(0, 2).Draw(t, "entries") {
		c.Log = append(c.Log, store.Entry{Task: anID.Draw(t, "id"), At: aTime.Draw(t, "at"), Who: aWord.Draw(t, "who"),
			What: aWord.Draw(t, "what")})
	}
	for range rapid.IntRange(0, 1).Draw(t, "fences") {
		c.Fence = append(c.Fence, store.Fence{Flow: anID.Draw(t, "flow"), At: aTime.Draw(t, "at"), Until: aTime.Draw(t, "until"),
			Who: aWord.Draw(t, "who")})
	}
	for range rapid.IntRange(0, 1).Draw(t, "unfences") {
		c.Unfence = append(c.Unfence, anID.Draw(t, "flow"))
	}
	err := m.suite.Commit(c)
	if conflict != errors.Is(err, store.ErrConflict) || !conflict && err != nil {
		t.Fatalf("the change answers %v, want conflict: %v", err, conflict)
	}
	if conflict {
		return
	}
	m.tasks = tasks
	for _, e := range c.Log {
		m.logs[e.Task] = append(m.logs[e.Task], e)
	}
	for _, f := range c.Fence {
		m.fence[f.Flow] = f
	}
	for _, flow := range c.Unfence {
		delete(m.fence, flow)
	}
}

func (m *storeModel) doSetAside(t *rapid.T) {
	id := anID.Draw(t, "id")
	if err := m.suite.SetAside(id, "because"); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.tasks[id]; ok {
		m.aside[id] = true
	}
}

func (m *storeModel) prune(t *rapid.T) {
	before, keep := aTime.Draw(t, "before"), rapid.IntRange(-1, 4).Draw(t, "keep")
	want := 0
	for i, r := range m.history() {
		if i >= keep || r.Updated.Before(before) {
			delete(m.tasks, r.ID)
			delete(m.logs, r.ID)
			want++
		}
	}
	if removed, err := m.suite.Prune(before, keep); err != nil || removed != want {
		t.Fatalf("%d records are removed, want %d: %v", removed, want, err)
	}
}

// history returns the cleared records, newest first.
func (m *storeModel) history() (cleared []store.Record) {
	for id, r := range m.tasks {
		if r.Cleared && !m.aside[id] {
			cleared = append(cleared, r)
		}
	}
	slices.SortFunc(cleared, func(a, b store.Record) int {
		return cmp.Or(b.Updated.Compare(a.Updated), cmp.Compare(b.ID, a.ID))
	})
	return cleared
}

// compareHistory reads it in pages of each size.
func (m *storeModel) compareHistory(t *rapid.T) {
	want := m.history()
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []store.Record
		for at := (store.Place{}); ; {
			page, err := m.suite.History(at, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("a page of at most %d has %d records: %v", limit, len(page), err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			at = store.Place{Updated: page[len(page)-1].Updated, ID: page[len(page)-1].ID}
		}
		if !slices.EqualFunc(got, want, same) {
			t.Fatalf("the history in pages of %d is %+v, want %+v", limit, got, want)
		}
	}
}

// doReopen is made in one of four cases only: it takes longer than all the rest.
func (m *storeModel) doReopen(t *rapid.T) {
	if rapid.IntRange(1, 4).Draw(t, "reopen at 4") == 4 {
		m.suite.Store = m.suite.reopen(m.suite.T, m.suite.Store)
	}
}

// compare is made after every call.
func (m *storeModel) compare(t *rapid.T) {
	var want []store.Record
	for id, r := range m.tasks {
		if got, err := m.suite.Get(id); err != nil || !same(got, r) {
			t.Fatalf("%s is %+v (%v), want %+v", id, got, err, r)
		}
		if !r.Cleared && !m.aside[id] {
			want = append(want, r)
		}
	}
	slices.SortFunc(want, func(a, b store.Record) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	n := 0
	err := m.suite.Live(func(r store.Record) error {
		if n >= len(want) || !same(r, want[n]) {
			return fmt.Errorf("live record %d is %+v, want those of %+v", n, r, want)
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Fatalf("%d live records, want %d: %v", n, len(want), err)
	}
	if n, err := m.suite.Count(); err != nil || n != len(want) {
		t.Fatalf("%d live records are counted, want %d: %v", n, len(want), err)
	}
	m.compareHistory(t)
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		if got, err := m.suite.Log(id); err != nil || !slices.Equal(got, m.logs[id]) {
			t.Fatalf("the log of %s is %v (%v), want %v", id, got, err, m.logs[id])
		}
		if _, ok := m.tasks[id]; !ok {
			if _, err := m.suite.Get(id); !errors.Is(err, store.ErrNotFound) {
				t.Fatalf("%s answers %v, want not found", id, err)
			}
		}
	}
	fences, err := m.suite.Fences()
	wantFences := slices.SortedFunc(maps.Values(m.fence), func(a, b store.Fence) int { return cmp.Compare(a.Flow, b.Flow) })
	if err != nil || !slices.Equal(fences, wantFences) {
		t.Fatalf("the fences are %v (%v), want %v", fences, err, wantFences)
	}
}
