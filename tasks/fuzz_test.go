package tasks

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks/store"

	"github.com/rs/zerolog"
)

// oneRow is a store with the rows that a former run has left, and nothing else.
type oneRow struct {
	store.Store
	mu    sync.Mutex
	rows  map[string]store.Record
	aside map[string]bool
}

func (s *oneRow) Fences() ([]store.Fence, error) { return nil, nil }

func (s *oneRow) Live(each func(store.Record) error) error {
	for _, r := range maps.Clone(s.rows) {
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *oneRow) Commit(c store.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range c.Put {
		s.rows[r.ID] = r
	}
	return nil
}

func (s *oneRow) Get(id string) (store.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.rows[id]; ok {
		return r, nil
	}
	return store.Record{}, store.ErrNotFound
}

func (s *oneRow) SetAside(id, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside[id] = true
	return nil
}

// fuzzed has two steps that do nothing.
func fuzzed() *Verb {
	do := func(context.Context, *Scope) error { return nil }
	return &Verb{
		Class: ClassLight,
		Name:  "Fuzz.run", Contract: Contract{Bound: time.Second, Revert: "it is gone"},
		Plan: func(string, json.RawMessage) (*Plan, error) {
			return &Plan{Locks: []Lock{{Key: "k", Exclusive: true}}, Steps: []Step{{Name: "one", Do: do, Undo: do}, {Name: "two", Do: do}}}, nil
		},
	}
}

// FuzzStoredRecord starts an engine on any record: what it can read it writes again as the same and shows, what it cannot it
// sets aside, and another task goes on.
func FuzzStoredRecord(f *testing.F) {
	for _, state := range []State{Init, Queued, Running, Committing, Aborting, Recovering, Finished, Recovered, Failed, Cleared, "unheard-of"} {
		body, err := json.Marshal(record{ID: "id", Verb: "Fuzz.run", State: state, Params: json.RawMessage("{}"), Steps: []stepRecord{{Name: "one", State: StepStarted}, {Name: "two"}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add("id", "Fuzz.run", string(state), uint64(1), body)
	}
	f.Add("id", "Fuzz.run", "running", uint64(7), []byte(`{"id":"id","verb":"Fuzz.run","state":"running","steps":[{"name":"one","state":"half"},{"name":"two"}],"stop":{},"cause":{"kind":"?"}}`))
	f.Add("", "", "", uint64(0), []byte(`null`))
	f.Add("id", "No.such", "queued", uint64(1), []byte(`{"id":"id","verb":"No.such","state":"queued","params":[1e999]}`))
	f.Fuzz(func(t *testing.T, id, verb, state string, version uint64, body []byte) {
		row := store.Record{ID: id, Verb: verb, State: state, Version: version, Body: body}
		if r, err := readRecord(row); err == nil {
			again(t, r)
		}
		synctest.Test(t, func(t *testing.T) { startOn(t, row) })
	})
}

// again writes a record and reads it.
func again(t *testing.T, r *record) {
	t.Helper()
	row, err := r.row()
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	second, err := readRecord(row)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v", err)
	}
	third, err := second.row()
	if err != nil || second.version != r.version+1 || !reflect.DeepEqual(row.Body, third.Body) {
		t.Fatalf("%s became %s (%v)", row.Body, third.Body, err)
	}
}

// startOn starts an engine on the row and on a sound task.
func startOn(t *testing.T, row store.Record) {
	t.Helper()
	good := &record{ID: "good", Verb: "Fuzz.run", State: Queued, Params: json.RawMessage("{}"), Steps: []stepRecord{{Name: "one"}, {Name: "two"}}}
	goodRow, err := good.row()
	if err != nil {
		t.Fatal(err)
	}
	s := &oneRow{rows: map[string]store.Record{row.ID: row, good.ID: goodRow}, aside: map[string]bool{}}
	e := New(Options{Store: s, Verbs: []*Verb{fuzzed()}, Log: zerolog.Nop()})
	if err := e.Start(nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if v, err := e.Wait(ctx, "good", Ended); err != nil {
		t.Fatalf("the sound task is %s: %v", v.State, err)
	}
	if row.ID == good.ID {
		return
	}
	v, err := e.Get(row.ID)
	s.mu.Lock()
	aside := s.aside[row.ID]
	s.mu.Unlock()
	if known := err == nil; known == aside {
		t.Fatalf("the record is shown as %q (%v), and set aside: %v", v.State, err, aside)
	}
	if err == nil {
		if v, err := e.Wait(ctx, row.ID, Ended); err != nil {
			t.Fatalf("the task does not end: it is %s (%s): %v", v.State, v.Message, err)
		}
	}
	_, _ = e.Preview(row.ID) // must not panic; its answer is for TestModel
}
