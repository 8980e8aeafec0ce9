package tasks

import (
	"errors"
	"fmt"
	"time"

	"vdsm-agent/internal/code"
)

// Pause lets a task rest that goes in slices, until Resume; it returns after that is on stable storage. By case:
//
//   - running or committing, with a step in slices at work or still to come: the step's work is ended as at a shutdown; at
//     most one slice is done again later. The task keeps its locks and gives up its slot. A restart does not end the pause.
//   - paused: true again.
//   - any other: 410. A task that waits has nothing to pause: it is stopped, or its class is limited.
//
// Stop works from a pause. Errors besides: 401 unknown, 413 the store.
func (e *Engine) Pause(id, who string) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	err = t.ask(who, "pause asked for", func(r *record) error {
		switch {
		case r.State != Running && r.State != Committing:
			return code.Errorf(code.TaskState, "the task is %s; only one that works can be paused", r.State)
		case r.Paused != nil:
			return errPaused
		case !r.sliced():
			return code.Errorf(code.TaskState, "the task does not go in slices (any more), so it cannot be paused; it ends soon, or can be stopped")
		}
		r.Paused = &request{At: time.Now().UTC(), Who: who}
		return nil
	})
	if errors.Is(err, errPaused) {
		return nil
	}
	return err
}

// Resume lets a paused task go on when it has a slot again; it returns after that is on stable storage. True again when the task
// is not paused. Errors: 401 unknown, 410 ended, 413 the store.
func (e *Engine) Resume(id, who string) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	again := errors.New("it is not paused")
	err = t.ask(who, "resume asked for", func(r *record) error {
		switch {
		case r.State.Final():
			return code.Errorf(code.TaskState, "the task has ended (%s)", r.State)
		case r.Paused == nil:
			return again
		}
		r.Paused = nil
		return nil
	})
	if errors.Is(err, again) {
		return nil
	}
	return err
}

// SetLimit limits how many bytes per second the task may move, 0 = any number, from its next slice on; it returns after that is
// on stable storage. Errors: 401 unknown, 410 ended or not in slices, 413 the store, 1000 a negative number.
func (e *Engine) SetLimit(id, who string, bytesPerSecond int64) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	if bytesPerSecond < 0 {
		return code.Errorf(code.InvalidParameter, "%d bytes per second is no limit; 0 is none", bytesPerSecond)
	}
	what := "the limit was taken away"
	if bytesPerSecond > 0 {
		what = fmt.Sprintf("limited to %d bytes per second", bytesPerSecond)
	}
	return t.ask(who, what, func(r *record) error {
		switch {
		case r.State.Final():
			return code.Errorf(code.TaskState, "the task has ended (%s)", r.State)
		case !r.sliced():
			return code.Errorf(code.TaskState, "the task does not go in slices (any more), so it cannot be limited")
		}
		r.Limit = bytesPerSecond
		return nil
	})
}

// sliced says whether a step in slices is at work or still to come.
func (r *record) sliced() bool {
	for i, s := range r.plan.Steps {
		if s.Slices && (r.Steps[i].State == StepWaiting || r.Steps[i].State == StepStarted) {
			return true
		}
	}
	return false
}

// inSlices says whether a step in slices is at work, which a pause ends. Any other step comes to its end first.
func (r *record) inSlices() bool {
	i := r.current()
	return i < len(r.Steps) && r.plan.Steps[i].Slices && r.Steps[i].State == StepStarted
}

// restBefore records that the steps before one are done, which else is recorded when that one starts: a task that is paused between
// two steps repeats nothing.
func (t *task) restBefore(i int) error {
	return t.unlessStopped(t.persist("rests before step "+t.plan().Steps[i].Name, func(r *record) error {
		if r.State != Running && r.State != Committing {
			return errStopped
		}
		r.stepsDone(i, time.Now().UTC())
		return nil
	}))
}

// stayPaused returns when the task may go on, or must do something else.
func (t *task) stayPaused() error {
	if err := t.silence(t.engine.ctx); err != nil {
		return err
	}
	c := t.enter(nil)
	for {
		turn := t.turn()
		var granted <-chan struct{}
		switch r := t.record(); {
		case r.State != Running && r.State != Committing:
			return nil
		case r.Paused != nil: // also again, while it waited for a slot
			t.engine.locks.yield(c)
		default:
			granted = t.engine.locks.retake(c)
		}
		select {
		case <-granted:
			return nil
		case <-turn:
		case <-t.engine.closing:
			return errShutdown
		}
	}
}
