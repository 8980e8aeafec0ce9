package tasks

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// fullRecord has a value in every field that is stored.
func fullRecord() *record {
	at := time.Date(2026, 3, 1, 12, 30, 0, 123456789, time.UTC)
	asked := &request{At: at, Who: "root", Force: true, Retry: true}
	return &record{
		ID: "t", Verb: "v", Params: json.RawMessage(`{"a":1}`), Flow: "f", Tag: TagSPM, Who: "root", State: Failed,
		Created: at, Started: at, Ended: at, Updated: at,
		Steps: []stepRecord{
			{"one", StepDone, json.RawMessage(`{"twice":1,"twice":2}`), json.RawMessage(`7`), at, at, at, ""},
			{"two", StepUndoFailed, json.RawMessage("\"\xff\""), nil, at, at, at, "not empty"},
		},
		Stop: asked, Revert: asked, Cause: &cause{causeError, 100, "failed", "two"}, StopLost: true, Message: "failed",
		Residue: []string{"r"}, Remains: []string{"m"}, Finger: json.RawMessage(`"x"`), Done: 1, Total: 2, Deferred: "d", Paused: asked,
		Limit: 3, AtEnd: asked, Expires: at, Expired: true,
	}
}

// TestReadRecord: what was written is read, also what verbs may have put into their own parts, and the fields are all there.
func TestReadRecord(t *testing.T) {
	want := fullRecord()
	for v, i := reflect.ValueOf(*want), 0; i < v.NumField(); i++ {
		if f := v.Type().Field(i); f.IsExported() && v.Field(i).IsZero() {
			t.Errorf("the record of this test has no %s", f.Name)
		}
	}
	row, err := want.row()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readRecord(row)
	if err != nil {
		t.Fatal(err)
	}
	want.version = 1
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v, want\n%+v", got, want)
	}
}

// TestReadRecordAgain reads a small record into one that was used: nothing of that may be left.
func TestReadRecordAgain(t *testing.T) {
	full, err := fullRecord().row()
	if err != nil {
		t.Fatal(err)
	}
	small := &record{ID: "s", Verb: "v", Params: json.RawMessage(`{}`), State: Finished, Steps: []stepRecord{{Name: "one"}}}
	row, err := small.row()
	if err != nil {
		t.Fatal(err)
	}
	used := &record{}
	if err := used.read(full); err != nil {
		t.Fatal(err)
	}
	kept := used.Steps[0].Plan
	if err := used.read(row); err != nil {
		t.Fatal(err)
	}
	small.version = 1
	if !reflect.DeepEqual(used, small) {
		t.Errorf("read\n%+v, want\n%+v", used, small)
	}
	if string(kept) != `{"twice":1,"twice":2}` {
		t.Errorf("what was read before has become %s", kept)
	}
	if err := used.read(full); err != nil || !reflect.DeepEqual(used.Steps, fullRecord().Steps) {
		t.Errorf("read again: %+v, %v", used.Steps, err)
	}
}
