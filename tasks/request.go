package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks/store"
)

// StopOptions are how a task is stopped.
type StopOptions struct {
	Who   string
	Force bool // SIGKILL without SIGTERM; the undo is never skipped
	// Revert asks that the task be reverted if it finishes nevertheless, since it has passed its point of no return, or the
	// program that decides had finished.
	Revert bool
}

// Stop asks that a task be cancelled, and returns after that is on stable storage (G2). By case:
//
//   - queued, running: it is recorded; the work is stopped and undone. From here on the task cannot commit, unless
//     a program that decides had finished (StopLost).
//   - aborting, recovering, and ended rolled back: true again; nothing changes, but Force takes effect, and Revert is recorded while
//     the stop may still be lost.
//   - committing: 410, naming the step; the task completes. With Revert, of a verb that can be reverted: nil, and it is
//     reverted when it has finished.
//   - finished: 410, pointing at Task.revert. Failed without a stop: 410, the same.
//
// Errors besides: 401 unknown, 413 the store.
func (e *Engine) Stop(id string, o StopOptions) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	if o.Force {
		t.mu.Lock()
		t.forced = !t.state().Final()
		t.mu.Unlock()
	}
	again := false
	atEnd := o.Revert && t.verb.Contract.Revert != ""
	err = t.ask(o.Who, "stop asked for", func(r *record) error {
		now := time.Now().UTC()
		if atEnd && (r.State == Committing || r.State == Aborting && r.Stop != nil && r.AtEnd == nil) { // the stop may be lost, too
			r.AtEnd = &request{At: now, Who: o.Who}
			return nil
		}
		switch {
		case r.State == Queued && r.Revert == nil, r.State == Running:
		case r.State == Queued, r.State == Aborting, r.State == Recovering, r.State == Recovered, r.State == Failed && r.Stop != nil:
			again = true
			return errStopped
		case r.State == Committing:
			return code.Errorf(code.TaskState, "too late: the task has passed its point of no return (step %s) and will complete", r.currentName())
		case r.State == Failed:
			return code.Errorf(code.TaskState, "the task has failed and its undo is not complete; Task.revert tries it again")
		default:
			return code.Errorf(code.TaskState, "the task has finished; Task.revert undoes it")
		}
		r.State = Aborting
		r.Stop = &request{At: now, Who: o.Who, Force: o.Force}
		if atEnd {
			r.AtEnd = &request{At: now, Who: o.Who}
		}
		r.Cause = &cause{causeStop, code.TaskAborted, t.stoppedMessage(r, o.Who), r.currentName()}
		return nil
	})
	if again {
		err = nil
	}
	if o.Force && err != nil {
		t.mu.Lock()
		t.forced = false // whatever is ended later, for another reason, is asked first
		t.mu.Unlock()
	}
	if err == nil && o.Force && !t.state().Final() {
		t.force()
	}
	return err
}

func (t *task) stoppedMessage(r *record, who string) string {
	if !r.effects() {
		return fmt.Sprintf("stopped by %s before it began", who)
	}
	message := fmt.Sprintf("stopped by %s at step %s", who, r.currentName())
	if p := t.progress.view(false); p.Done > 0 && p.Total > 0 {
		message += fmt.Sprintf(", %.0f %% copied", p.Percent())
	}
	return message
}

// Preview is what a stop would do now.
type Preview struct {
	Cancelable      bool
	Reason          string // why not
	PointOfNoReturn string
	Undo            []string
	Remainder       []string
}

// Preview says what Stop would do, and does nothing.
func (e *Engine) Preview(id string) (Preview, error) {
	t, err := e.find(id)
	if err != nil {
		return Preview{}, err
	}
	r, err := t.current()
	if err != nil {
		return Preview{}, err
	}
	p := Preview{PointOfNoReturn: t.verb.Contract.PointOfNoReturn}
	p.Cancelable, p.Reason = cancelable(r)
	for i := len(r.Steps) - 1; p.Cancelable && i >= 0; i-- {
		started := r.Steps[i].State == StepStarted || r.Steps[i].State == StepDone
		if started && r.plan.Steps[i].Undone != "" {
			p.Undo = append(p.Undo, r.plan.Steps[i].Undone)
		}
	}
	if p.Cancelable && t.verb.Contract.Remainder != "" {
		p.Remainder = []string{t.verb.Contract.Remainder}
	}
	return p, nil
}

func cancelable(r *record) (bool, string) {
	switch r.State {
	case Init, Queued, Running:
		if r.Revert != nil {
			return false, "it is being reverted"
		}
		return true, ""
	case Committing:
		return false, "it has passed its point of no return (step " + r.currentName() + ")"
	case Aborting, Recovering:
		return false, "it is being undone already"
	case Finished:
		return false, "it has finished; revert undoes it"
	default:
		return false, "it has ended"
	}
}

// Revert undoes a finished task, or tries the undo of a failed one again; it returns after that is on stable storage. By case:
//
//   - finished, of a verb that can: its locks are taken at once (410 naming the task that has them), then it is checked that
//     nothing may have used the result (410 naming what); then it is recorded, and the undo runs.
//   - failed: the entries whose undo failed are tried again.
//   - being reverted, or reverted: true again.
//   - not revertible, or failed past the point of no return: 441. Recovered after a stop or an error: 441; there is nothing to revert.
//   - not ended: 403.
func (e *Engine) Revert(ctx context.Context, id, who string) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	done, err := e.reserve(ctx, id) // two reverts at once would be in each other's way
	if err != nil {
		return err
	}
	defer done()
	if again, err := t.revertible(); again || err != nil {
		return err
	}
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return code.Errorf(code.ResourceTimeout, "the task has not come to rest: %w", ctx.Err())
		}
	}
	r, err := t.current()
	if err != nil {
		return err
	}
	claim, blockers := e.locks.try(id, t.verb.Class, r.plan.Locks)
	if claim == nil {
		return code.Errorf(code.TaskState, "task %s uses the same volumes; revert when it has ended", blockers[0])
	}
	keep := false
	defer func() {
		if !keep {
			e.locks.leave(claim)
		}
	}()
	if err := t.unused(ctx, r); err != nil {
		return err
	}
	err = t.change(who, "revert asked for", func(r *record) error {
		if r.State != Finished && r.State != Failed || r.Expired {
			return code.Errorf(code.TaskState, "somebody else has reverted or cleared the task meanwhile, or it has expired")
		}
		if r.State == Finished {
			r.Cause = &cause{causeRevert, 0, "reverted by " + who, ""}
		}
		r.Revert = &request{At: time.Now().UTC(), Who: who, Retry: r.State == Failed}
		r.State = Queued
		r.AtEnd, r.Residue = nil, nil
		for i := range r.Steps {
			if r.Steps[i].State == StepUndoFailed {
				r.Steps[i].State = StepDone
			}
		}
		return nil
	})
	if err != nil && !unknown(err) {
		return err
	}
	keep = true
	t.mu.Lock()
	t.claim = claim
	t.mu.Unlock()
	if err != nil { // it has its locks until that is known
		e.spawn(t.resolve)
		return err
	}
	e.start(t)
	return nil
}

// revertible says whether the task may be reverted as far as its state tells; again when it is being or was reverted.
func (t *task) revertible() (again bool, err error) {
	r, err := t.current()
	if err != nil {
		return false, err
	}
	switch {
	case r.State == Cleared:
		return false, unknownTask(r.ID)
	case r.Revert != nil && (!r.State.Final() || r.State == Recovered):
		return true, nil
	case !r.State.Final():
		return false, code.Errorf(code.TaskNotFinished, "the task has not ended; Task.stop cancels it")
	case r.State == Recovered:
		return false, code.Errorf(code.NotRevertible, "the task was undone already; there is nothing to revert")
	case r.State == Failed && !r.undoFailed():
		return false, code.Errorf(code.NotRevertible, "the task failed past its point of no return; there is no undo to try again")
	case r.State == Finished && t.verb.Contract.Revert == "":
		return false, code.Errorf(code.NotRevertible, "%s cannot be reverted once it has finished", r.Verb)
	case r.State == Finished && r.Expired:
		return false, code.Errorf(code.NotRevertible, "the task was not cleared until %s, when what a revert needs was given up", r.Expires.Format(time.RFC3339))
	}
	return false, nil
}

// unused asks the verb whether the result may have been used since the finish (G8). The caller holds the task's locks.
func (t *task) unused(ctx context.Context, r *record) error {
	if r.State == Cleared {
		return unknownTask(r.ID) // since revertible looked
	}
	if r.State == Failed || r.Revert != nil && r.Revert.Retry || r.plan.Unused == nil {
		return nil
	}
	if len(r.Finger) == 0 {
		return code.Errorf(code.TaskState, "the result was not recorded when the task finished, so it cannot be shown to be unused; delete it instead")
	}
	return t.call(func() error { return r.plan.Unused(ctx, &Scope{t: t, step: -1, rec: r}, r.Finger) })
}

// beginRevert lets a recorded revert go on after a restart: the checks are made again under the locks.
func (t *task) beginRevert(ctx context.Context) error {
	if refused := t.unused(ctx, t.record()); refused != nil {
		if ctx.Err() != nil {
			return t.ended(ctx)
		}
		return t.revertRefused(refused)
	}
	return t.persist("the undo begins", func(r *record) error {
		r.State = Recovering
		return nil
	})
}

// revertRefused ends a recorded revert that cannot begin: the task is as it was before it.
func (t *task) revertRefused(why error) error {
	return t.persist("revert refused: "+why.Error(), func(r *record) error {
		if r.Revert.Retry {
			r.end(Failed, "the undo was not tried again: "+why.Error())
			for i, s := range r.Steps {
				if s.Error != "" {
					r.Steps[i].State = StepUndoFailed
					r.Residue = append(r.Residue, s.Name+": "+s.Error)
				}
			}
			return nil
		}
		r.Revert, r.Cause = nil, nil
		r.end(Finished, "finished; not reverted: "+why.Error())
		return nil
	})
}

// revertAtEnd reverts a finished task whose flow was cancelled when it could not be stopped any more. If that is refused the
// task stays finished and says why.
func (t *task) revertAtEnd() {
	err := t.insist(func() error {
		if _, err := t.engine.find(t.id); err != nil {
			return err
		}
		r, err := t.current()
		if err != nil || r.AtEnd == nil {
			return err
		}
		return t.engine.Revert(t.engine.ctx, t.id, r.AtEnd.Who)
	})
	if err == nil || t.engine.ctx.Err() != nil || code.Of(err) == code.UnknownTask {
		return
	}
	refused := t.persist("not reverted at its end: "+err.Error(), func(r *record) error {
		if r.State != Finished || r.AtEnd == nil {
			return errStopped
		}
		r.AtEnd = nil
		r.Message += "; not reverted: " + err.Error()
		return nil
	})
	if refused != nil && !errors.Is(refused, errStopped) {
		t.log().Error().Err(refused).Msg("that a task was not reverted at its end cannot be recorded; it is tried again at the next start")
	}
}

// Clear accepts a final task for good: it leaves all lists, its undo is dropped, and what it had put off is recorded, in the
// same transaction, as a task of its own. Secrets among its parameters are not kept in the history. Errors: 401 unknown or cleared
// before, 410 not final, 413 the store.
func (e *Engine) Clear(id, who string) error {
	t, err := e.find(id)
	if err != nil {
		return err
	}
	return t.ask(who, "cleared", func(r *record) error {
		if !r.State.Final() {
			return code.Errorf(code.TaskState, "the task has not ended (%s); stop it or wait for it, then clear it", r.State)
		}
		r.State = Cleared
		return nil
	}, func(r *record, c *store.Change) error {
		err := t.deferred(r, c, EndCleared)
		r.Params = param.Shown(r.Params)
		return err
	})
}
