package store

import (
	"math"

	"vdsm-agent/internal/code"
)

// MaxBody is the largest Record.Body that can be stored, in bytes.
const MaxBody = 1 << 20

// Validate answers an error if the change can never be stored: a record without an ID, with Version 0, or with a Body
// larger than MaxBody. The error is none of this package's, since no retry helps. Every Store refuses such a change.
func Validate(c Change) error {
	for _, r := range c.Put {
		switch {
		case r.ID == "":
			return code.Errorf(code.TaskPersist, "a record without an id cannot be stored")
		case r.Version == 0 || r.Version > math.MaxInt64:
			return code.Errorf(code.TaskPersist, "version %d of task %s cannot be stored: versions start at 1", r.Version, r.ID)
		case len(r.Body) > MaxBody:
			return code.Errorf(code.TaskPersist, "task %s has %d bytes to be stored, at most %d can be", r.ID, len(r.Body), MaxBody)
		}
	}
	return nil
}

// size is about how many bytes the change takes in the store.
func size(c Change) int {
	n := 0
	for _, r := range c.Put {
		n += len(r.Body) + 256
	}
	for _, e := range c.Log {
		n += len(e.What) + 128
	}
	return n
}
