package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// abort waits until everything that was started for the task is gone, then lets the undo begin. If another program decides
// and has not answered yet, the cancel is asserted until it does.
func (t *task) abort() error {
	t.watchBound()
	if err := t.silence(t.engine.ctx); err != nil {
		return err
	}
	if i := t.record().current(); i < len(t.plan().Steps) && t.mustAsk(i) {
		t.interrupt(errStopped) // after a restart nobody has told the step yet
		ctx, end := t.begin()
		defer end()
		err := t.runStep(ctx, i)
		if t.engine.ctx.Err() != nil {
			return errShutdown
		}
		if err == nil && t.state() != Aborting {
			return nil // committing now
		}
	}
	return t.persist("everything that was started for it is gone; the undo begins", func(r *record) error {
		r.State = Recovering
		return nil
	})
}

func (t *task) mustAsk(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.plan().Steps[i].asked() && t.record().Steps[i].State == StepStarted && !t.answered
}

// undo takes the steps back, last first. Each one's end is recorded before the next begins, so a crash resumes the undo. One
// that fails is residue, and the others still run.
func (t *task) undo() error {
	t.calm()
	t.watchBound()
	ctx, end := t.begin()
	defer end()
	for i := len(t.plan().Steps) - 1; i >= 0; i-- {
		if t.record().pending(i) && !t.plan().Steps[i].bare() {
			if err := t.undoStep(ctx, i); err != nil {
				return err
			}
		}
	}
	return t.persist("the undo has ended", func(r *record) error {
		for i := range r.Steps {
			if r.pending(i) {
				r.Steps[i].State = StepUndone // a bare one
			}
		}
		r.State = Recovered
		if len(r.Residue) > 0 {
			r.State = Failed
		}
		r.end(r.State, t.undoneMessage(r))
		return nil
	}, func(r *record, c *store.Change) error {
		if r.State == Failed {
			return nil // what could not be put back must not be destroyed
		}
		return t.deferred(r, c, r.endOfUndo())
	})
}

// pending says whether a step may have had an effect that is neither undone nor found impossible to undo.
func (r *record) pending(i int) bool {
	return r.Steps[i].State == StepStarted || r.Steps[i].State == StepDone
}

// bare says that the step has nothing to undo, so that no record of it is needed in the undo.
func (s *Step) bare() bool { return s.Undo == nil && s.Remainder == nil }

func (r *record) endOfUndo() End {
	if r.Cause != nil && r.Cause.Kind == causeRevert {
		return EndReverted
	}
	return EndUndone
}

// deferred adds to a change of the task the one that carries out what it put off, if there is any.
func (t *task) deferred(r *record, c *store.Change, end End) error {
	if r.plan.Deferred == nil || r.Deferred != "" {
		return nil
	}
	was := *r
	was.State = t.state() // the verb decides by the state that the task has, not by the one that it gets
	return t.engine.alsoSubmit(r.plan.Deferred(&Scope{t: t, step: -1, rec: &was}, end), r, c)
}

func (t *task) undoStep(ctx context.Context, i int) error {
	step, scope := &t.plan().Steps[i], &Scope{t: t, step: i}
	var failure error
	if step.Undo != nil {
		failure = t.call(func() error { return step.Undo(ctx, scope) })
		if err := t.silence(t.engine.ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errShutdown // the step may have been cut short: it is undone again
	}
	var remainder string
	if step.Remainder != nil && failure == nil {
		remainder = step.Remainder(scope)
	}
	what := fmt.Sprintf("step %s undone", step.Name)
	if failure != nil {
		what = fmt.Sprintf("the undo of step %s failed: %s", step.Name, failure)
		t.log().Error().Err(failure).Str("step", step.Name).Msg("an undo failed")
		t.engine.observer.UndoFailed(t.verb.Name)
	}
	return t.persist(what, func(r *record) error {
		r.Steps[i].State, r.Steps[i].Error = StepUndone, ""
		if remainder != "" {
			r.Remains = append(r.Remains, remainder)
		}
		if failure != nil {
			r.Steps[i].State, r.Steps[i].Error = StepUndoFailed, failure.Error()
			r.Residue = append(r.Residue, fmt.Sprintf("%s: %s", step.Name, failure))
		}
		return nil
	})
}

// undoneMessage is the sentence of a task whose undo has ended.
func (t *task) undoneMessage(r *record) string {
	var undone []string
	for i := len(r.plan.Steps) - 1; i >= 0; i-- {
		if r.Steps[i].State == StepUndone && r.plan.Steps[i].Undone != "" {
			undone = append(undone, r.plan.Steps[i].Undone)
		}
	}
	effect := strings.Join(undone, ", ")
	if effect == "" {
		effect = "nothing had been changed"
	}
	if len(r.Residue) > 0 {
		effect = fmt.Sprintf("the undo is not complete, Task.revert tries it again; left behind: %s", strings.Join(r.Residue, "; "))
	}
	if len(r.Remains) > 0 {
		effect += "; " + strings.Join(r.Remains, "; ")
	}
	if r.Cause == nil {
		return effect
	}
	switch r.Cause.Kind {
	case causeRevert:
		return fmt.Sprintf("reverted by %s; %s", r.Revert.Who, effect)
	case causeError:
		if r.Cause.Step != "" {
			return fmt.Sprintf("%s (step %s); %s", r.Cause.Message, r.Cause.Step, effect)
		}
	}
	return fmt.Sprintf("%s; %s", r.Cause.Message, effect)
}

// begin makes the context of a phase: it ends with the agent, or when the task is interrupted.
func (t *task) begin() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(t.engine.ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = cancel
	if errors.Is(t.interrupted, errPaused) && !t.isPaused() {
		t.interrupted = nil // resumed before the step had ended; of a pause that comes now the record is published first
	}
	if t.interrupted != nil {
		cancel(t.interrupted)
	}
	return ctx, func() {
		t.mu.Lock()
		t.cancel = nil
		t.mu.Unlock()
		cancel(errors.New("the phase is over"))
	}
}

// wireCode is the number that clients see for the state.
func (r *record) wireCode() code.Code {
	switch {
	case r.State == Aborting && r.Stop != nil:
		return code.TaskAborted
	case r.Cause == nil || r.State == Finished || r.State == Queued || r.State == Running || r.State == Committing:
		return 0
	}
	return r.Cause.Code
}
