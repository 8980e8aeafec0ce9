package tasks

import "time"

// Tuning is what of the engine's ways can be changed while it works.
type Tuning struct {
	LockWait  time.Duration // how long a task waits for its locks before it fails with 851; 0 = for ever
	TermGrace time.Duration // how long a worker has between SIGTERM and SIGKILL; 0 = 2 s
	FenceFor  time.Duration // how long a cancelled flow refuses new forward tasks; 0 = 1 h
	Retention Retention     // how long what has ended is kept
}

// Tune changes the engine's ways from now on: a task that waits for its locks already does so as long as was said when it began, and a fence
// that is up stays as long.
func (e *Engine) Tune(t Tuning) {
	if t.TermGrace == 0 {
		t.TermGrace = 2 * time.Second
	}
	if t.FenceFor == 0 {
		t.FenceFor = time.Hour
	}
	e.tuning.Store(&t)
}
