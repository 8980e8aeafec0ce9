package tasks

import "time"

// Observer is told what the engine does, for figures about it. Its methods are called from any goroutine, in the middle of the work and
// under locks of the engine, so they return at once and ask nothing of it.
type Observer interface {
	// Moved: the store has a task's new state. Of the states that are found at a start nothing is told.
	Moved(Move)
	// Granted: a task waited so long for its locks, and then for a slot, and begins now. One that is stopped before is not told of.
	Granted(class Class, locks, slot time.Duration)
	// Copied: a task has done so many more bytes, of which some may have been done before a restart, too.
	Copied(verb string, bytes int64)
	// Stuck: a task is stuck now, and was not before.
	Stuck(verb string)
	// UndoFailed: the undo of a step failed, and the task will end with residue.
	UndoFailed(verb string)
	// Retried: a step past the point of no return failed and is tried again.
	Retried(verb string)
}

// Move is a change of a task's state.
type Move struct {
	Verb     string
	Class    Class
	From, To State
	In       time.Duration // how long it was in From; after a restart since that, at least
	Stopped  bool          // it is being stopped, or was
	Reverted bool          // its undo is that of a revert of a finished task
	// Took is how long it was from the stop's record to this end. 0 = it is no end, or not that of a stop.
	Took  time.Duration
	Bound time.Duration // that the verb promises for it
}

// nobody observes.
type nobody struct{}

func (nobody) Moved(Move)                                  {}
func (nobody) Granted(Class, time.Duration, time.Duration) {}
func (nobody) Copied(string, int64)                        {}
func (nobody) Stuck(string)                                {}
func (nobody) UndoFailed(string)                           {}
func (nobody) Retried(string)                              {}

// observe tells of a move. The caller holds the task's lock.
func (t *task) observe(from State, r *record) {
	now := time.Now().UnixMicro()
	m := Move{
		Verb: t.verb.Name, Class: t.verb.Class, From: from, To: r.State, In: time.Duration(now-t.since) * time.Microsecond,
		Stopped: r.stopped(), Reverted: r.endOfUndo() == EndReverted, Bound: t.verb.Contract.Bound,
	}
	if r.Stop != nil && r.State.Final() && (from == Recovering || from == Committing) && r.Revert == nil {
		m.Took = max(r.Updated.Sub(r.Stop.At), time.Microsecond)
	}
	t.since = now
	t.engine.observer.Moved(m)
}

// Census is how many of the tasks that are not cleared are in which state, and how many are stuck.
type Census struct {
	States map[CensusKey]int
	Stuck  map[string]int // by verb
	// StuckFor is for how long the one has been stuck that has been longest; 0 = none is.
	StuckFor time.Duration
}

// CensusKey is what tasks are counted by.
type CensusKey struct {
	Verb  string
	State State
}

// Census counts the tasks. It waits for nobody.
func (e *Engine) Census() Census {
	c := Census{States: map[CensusKey]int{}, Stuck: map[string]int{}}
	for _, t := range e.all() {
		state := t.state()
		if state == Cleared {
			continue
		}
		c.States[CensusKey{t.verb.Name, state}]++
		if state.Final() {
			continue
		}
		t.mu.Lock()
		since := t.stuckSince
		t.mu.Unlock()
		if !since.IsZero() {
			c.Stuck[t.verb.Name]++
			c.StuckFor = max(c.StuckFor, time.Since(since))
		}
	}
	return c
}
