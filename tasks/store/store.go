// Package store keeps tasks on stable storage. It knows nothing of what a task does: a task is a Record whose Body only
// the engine reads, and a change of state is one Change that is applied whole or not at all.
//
// It may be imported by tasks, by the commands that look at a store, and by tests. It imports nothing of the project but
// internal/code.
package store

import (
	"errors"
	"time"
)

// Errors that every implementation answers. Test with errors.Is.
var (
	// ErrConflict: the change was refused and nothing of it was written, because a Record's Version does not follow
	// the one that is stored (or, for Version 1, because its ID exists).
	ErrConflict = errors.New("the record was changed by somebody else")
	// ErrUnknown: writing the change failed in a way that leaves open whether it is on stable storage. The caller
	// must answer "unknown", not "no". The store recovers by itself; until then it answers ErrUnavailable.
	ErrUnknown = errors.New("it is not known whether the change was recorded")
	// ErrUnavailable: nothing was written (the disk is full, or the store is recovering from a failed sync). The same
	// change may be tried again.
	ErrUnavailable = errors.New("the store cannot record anything now")
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrNewer: the file was written by a newer version of this program.
	ErrNewer = errors.New("the store was written by a newer version")
	// ErrCorrupt: the file is not a store, or is damaged.
	ErrCorrupt = errors.New("the store is damaged")
)

// Record is one task as it is stored. The columns serve look-ups; Body is the task itself.
type Record struct {
	ID      string    // the task's UUID
	Version uint64    // 1 at the insert, then one more at each change (compare-and-set)
	Verb    string    // "Volume.copy"
	Tag     string    // "spm", "local", …
	Flow    string    // correlation id, "" = none
	State   string    // the engine's word for the state
	Cleared bool      // in the history only
	Created time.Time // UTC, microseconds kept
	Updated time.Time
	Body    []byte // at most 1 MiB
}

// Entry is one line of a task's audit trail: who asked for what, or what changed, and when.
type Entry struct {
	Task string
	At   time.Time
	Who  string // peer that asked, or "agent"
	What string // one sentence
}

// Fence refuses new forward tasks of a cancelled flow until Until.
type Fence struct {
	Flow  string
	At    time.Time
	Until time.Time
	Who   string
}

// Change is what one transition writes. It is applied as a whole.
type Change struct {
	Put     []Record // inserted (Version 1) or replaced (Version n+1 over n)
	Log     []Entry
	Fence   []Fence  // inserted or replaced, by Flow
	Unfence []string // flows whose fence is removed; absent ones are ignored
}

// Place is where a page of the history ended: at the record with these two. The zero Place is in front of the newest.
type Place struct {
	Updated time.Time
	ID      string
}

// Store keeps tasks. All methods may be called from any goroutine; none keeps or changes what it was given after it
// returned.
type Store interface {
	// Commit applies the change and returns after it is on stable storage. Changes that wait at the same time may
	// share one sync; each still succeeds or fails by itself (a conflict of one does not touch another).
	// Changes are applied in some order that agrees with the order of calls that do not overlap.
	// Errors: ErrConflict, ErrUnknown, ErrUnavailable, ErrClosed.
	Commit(c Change) error
	// Live calls each for every record that is not cleared, oldest first. A record that cannot be read is set aside
	// (see Check) and does not end the walk. An error of each ends it and is returned.
	Live(each func(Record) error) error
	// Get returns one record, cleared or not. Errors: ErrNotFound, ErrClosed.
	Get(id string) (Record, error)
	// Log returns the audit trail of a task, oldest first; empty if there is none.
	Log(id string) ([]Entry, error)
	// Fences returns all fences.
	Fences() ([]Fence, error)
	// Count returns how many records Live would walk, counting those that it would find unreadable.
	Count() (live int, err error)
	// History returns cleared records that were not set aside, newest first (by Updated, then ID): at most limit of
	// those behind a place, so older than it. Fewer than limit may be answered although there are more; none means
	// that there are no more. A record that cannot be read is set aside and left out. Two pages are two moments: what
	// is cleared or pruned between them is seen or not, all others exactly once.
	History(behind Place, limit int) ([]Record, error)
	// Prune removes, for good, cleared records and the audit trail of each: those whose Updated is before the given
	// time, and of the rest all but the keep newest (by Updated, then ID; a negative keep is 0). Records that are live or
	// set aside are not touched and not counted, and fences are kept. It works in small steps between which changes
	// are written; which records go is decided at the start. A crash or an error leaves it partly done, each record with
	// its trail there or gone; another call does the rest. removed counts what is certainly gone, also with an error.
	// Errors: ErrUnknown, ErrUnavailable, ErrCorrupt, ErrClosed.
	//
	// Entries of a task that has no record stay. Only somebody else can have left such: the engine writes every entry in
	// one change with the record of its task, and both go together.
	Prune(before time.Time, keep int) (removed int, err error)
	// SetAside moves a record that the engine cannot read out of the live ones and keeps it, with the reason, for
	// Check and an administrator. It is not an error if the record is not there.
	SetAside(id, reason string) error
	// Check reads everything and reports what it finds.
	Check() (Report, error)
	// Close waits for the changes that are being written and releases the file. Later calls answer ErrClosed.
	Close() error
}

// Report is what Check finds.
type Report struct {
	Path     string         `json:"path"`
	Schema   int            `json:"schema"`
	Live     int            `json:"live"`
	History  int            `json:"history"`
	States   map[string]int `json:"states"` // live records by state
	SetAside []SetAside     `json:"setAside"`
	Problems []string       `json:"problems"` // empty = sound
}

// SetAside is a record that could not be read.
type SetAside struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}
