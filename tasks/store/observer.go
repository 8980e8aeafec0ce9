package store

import "time"

// Observer is told how the writer does, for figures about it. Its methods are called by the writer's goroutine and return at once.
type Observer interface {
	// Synced: so many changes are on stable storage, which took so long from the beginning of their transaction.
	Synced(took time.Duration, changes int)
	// Failed: a transaction was not recorded, or it is not known whether it was.
	Failed()
	// Trusted: whether the file is; while it is not, it is written anew and all changes are refused.
	Trusted(bool)
}

// nobody observes.
type nobody struct{}

func (nobody) Synced(time.Duration, int) {}
func (nobody) Failed()                   {}
func (nobody) Trusted(bool)              {}
