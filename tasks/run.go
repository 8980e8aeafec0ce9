package tasks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"vdsm-agent/internal/code"
)

// drive does what the task's recorded state says until it is final, or the agent shuts down. It is the task's only
// goroutine that changes it by itself; clients' requests come in between through change.
func (t *task) drive() {
	defer t.afterEnd()
	defer t.leave()
	err := t.silence(t.engine.ctx) // what a former run left must be gone first (G13)
	if s := t.state(); err == nil && s != Aborting && s != Recovering {
		t.endBound()
	}
	for err == nil && !t.state().Final() {
		switch t.state() {
		case Queued:
			err = t.acquire()
		case Running, Committing:
			if t.isPaused() || !t.hasSlot() {
				err = t.stayPaused()
			} else {
				err = t.forward()
			}
		case Aborting:
			err = t.abort()
		case Recovering:
			err = t.undo()
		}
	}
	if err != nil && !errors.Is(err, errShutdown) && !t.state().Final() {
		t.log().Error().Err(err).Msg("the task cannot go on; it keeps its state until the agent is restarted")
		<-t.engine.closing // its locks stay with it
	}
}

// afterEnd does what follows an end by itself, when the task's goroutine has ended: the agent's own tasks are cleared, and one
// whose flow was cancelled too late is reverted.
func (t *task) afterEnd() {
	end := t.end.Load()
	switch {
	case end == nil || end.state != Finished || t.state() != Finished:
	case end.atEnd:
		t.revertAtEnd()
	case t.own:
		if err := t.engine.Clear(t.id, agentItself); err != nil {
			t.log().Warn().Err(err).Msg("the agent's own task could not be cleared")
		}
	}
}

// agentItself is who asks for the tasks that the agent makes by itself. Nobody else would clear them.
const agentItself = "agent"

// acquire waits for the locks and a slot. A stop ends the waiting at once.
func (t *task) acquire() error {
	ctx, end := t.begin()
	defer end()
	c := t.enter(nil)
	var tooLong <-chan time.Time
	limit := t.engine.tuning.Load().LockWait
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		tooLong = timer.C
	}
	for held := false; !held; {
		select {
		case <-c.granted:
			held = true
		case <-ctx.Done():
			return t.ended(ctx)
		case <-tooLong:
			if waits := t.waits(1); waits != nil && len(waits.locks) > 0 {
				return t.waitedTooLong(limit, waits)
			}
		}
	}
	if t.record().Revert != nil {
		return t.beginRevert(ctx)
	}
	t.engine.observer.Granted(t.verb.Class, c.ready.Sub(c.came), time.Since(c.ready))
	return t.unlessStopped(t.persist("has its locks and starts", func(r *record) error {
		if r.State != Queued {
			return errStopped
		}
		r.State = Running
		r.Started = time.Now().UTC()
		return nil
	}))
}

// waitedTooLong ends a task that does not get its locks: it has had no effect yet. A revert that does not get them is given up,
// and the task is finished as before.
func (t *task) waitedTooLong(limit time.Duration, w *waiting) error {
	failure := code.Errorf(code.ResourceTimeout, "after %s the task still waits for %s; stop that one or try again later",
		limit, strings.Join(w.sentences(), " and for "))
	if t.record().Revert != nil {
		return t.revertRefused(failure)
	}
	return t.unlessStopped(t.persist(failure.Error(), func(r *record) error {
		if r.State != Queued {
			return errStopped
		}
		r.State = Aborting
		r.Cause = &cause{causeError, code.Of(failure), failure.Error(), ""}
		return nil
	}))
}

// ended says what a phase returns when its ctx has ended: the shutdown, or nil, so that drive looks at the state.
func (t *task) ended(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errShutdown) {
		return errShutdown
	}
	return nil
}

// unlessStopped drops errStopped: the state says what to do next.
func (t *task) unlessStopped(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// forward runs the steps that are not done, then records the finish. It returns nil when the state tells what comes
// next.
func (t *task) forward() error {
	ctx, end := t.begin()
	defer end()
	for i := range t.plan().Steps {
		if t.record().Steps[i].State == StepDone && !t.plan().Steps[i].Verify {
			continue
		}
		if t.isPaused() {
			return t.restBefore(i)
		}
		err := t.runStep(ctx, i)
		if errors.Is(err, errPaused) && t.record().Steps[i].State == StepWaiting {
			return t.restBefore(i)
		}
		if err != nil {
			return t.stepFailed(ctx, i, err)
		}
		if s := t.state(); s.Final() || s == Recovering || ctx.Err() != nil {
			return t.ended(ctx)
		}
	}
	return t.finish(ctx)
}

// runStep brings one step to its end. The record that it is done is written together with the next one, unless the step
// decides: a crash in between only asks Check once more.
func (t *task) runStep(ctx context.Context, i int) error {
	step, scope := &t.plan().Steps[i], &Scope{t: t, step: i}
	resumed := t.record().Steps[i].State != StepWaiting
	if passing := t.engine.options.Passing; passing != nil && step.PointOfNoReturn {
		defer passing(t.id)()
	}
	if !resumed {
		if err := t.recordPlan(ctx, i); err != nil {
			return err
		}
	}
	if step.Verify && !resumed {
		return t.stepDone(i)
	}
	if resumed && step.Check != nil {
		there, err := t.check(ctx, step, scope)
		if err != nil {
			return err
		}
		if there {
			return t.stepDone(i)
		}
	}
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err := t.call(func() error { return step.Do(ctx, scope) })
		if silent := t.silence(t.engine.ctx); silent != nil {
			return silent
		}
		if err == nil {
			return t.stepDone(i)
		}
		if t.state() != Committing || ctx.Err() != nil {
			return err
		}
		if over, err := t.commitFailed(ctx, i, err); over || err != nil {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// recordPlan stores what the step is going to do, and that the step before it is done. If the step is the point of no return
// this is the decision.
func (t *task) recordPlan(ctx context.Context, i int) error {
	step, scope := &t.plan().Steps[i], &Scope{t: t, step: i}
	var plan json.RawMessage
	if step.Plan != nil {
		err := t.call(func() error {
			v, err := step.Plan(ctx, scope)
			if err != nil {
				return err
			}
			plan, err = json.Marshal(v)
			return err
		})
		if err != nil {
			return err
		}
	}
	what := fmt.Sprintf("step %s starts", step.Name)
	if step.PointOfNoReturn {
		what += ": point of no return"
	}
	return t.persist(what, func(r *record) error {
		switch {
		case r.State == Aborting:
			return errStopped
		case r.Paused != nil: // while the plan was made
			return errPaused
		}
		now := time.Now().UTC()
		r.stepsDone(i, now)
		r.Steps[i].State, r.Steps[i].Plan, r.Steps[i].Started = StepStarted, plan, now
		if step.PointOfNoReturn {
			r.State = Committing
		}
		return nil
	})
}

// stepsDone marks the steps before end as done.
func (r *record) stepsDone(end int, now time.Time) {
	for i := range r.Steps[:end] {
		if r.Steps[i].State == StepStarted {
			r.Steps[i].State, r.Steps[i].Ended = StepDone, now
		}
	}
}

// stepDone is called when the step's effect is whole. For a step that another program decides this is the decision: the
// task rolls forward, even if a stop was recorded before (G3).
func (t *task) stepDone(i int) error {
	step := &t.plan().Steps[i]
	t.unstick()
	if step.DecidedBy == "" {
		return nil
	}
	defer t.endBound()
	defer t.calm()
	return t.persist(fmt.Sprintf("%s answered: step %s is done", step.DecidedBy, step.Name), func(r *record) error {
		r.StopLost = r.StopLost || r.State == Aborting
		r.State = Committing
		r.Cause = nil
		r.stepsDone(i+1, time.Now().UTC())
		return nil
	})
}

// check asks whether the step's effect is there. Once the task must roll forward, an error of the question is not an
// answer: it is asked again.
func (t *task) check(ctx context.Context, step *Step, scope *Scope) (there bool, err error) {
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err = t.call(func() error { there, err = step.Check(ctx, scope); return err })
		if silent := t.silence(t.engine.ctx); silent != nil {
			return false, silent
		}
		if err == nil || t.state() != Committing || ctx.Err() != nil {
			return there, err
		}
		t.stick(err.Error())
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// commitFailed decides what becomes of a task whose step failed past the point of no return: over is true when it will
// not be tried again.
func (t *task) commitFailed(ctx context.Context, i int, failure error) (over bool, err error) {
	step, scope := &t.plan().Steps[i], &Scope{t: t, step: i}
	var permanent *permanentError
	if errors.As(failure, &permanent) {
		return true, t.persist("cannot be completed: "+failure.Error(), func(r *record) error {
			r.Cause = &cause{causeError, code.Of(failure), failure.Error(), step.Name}
			r.Residue = append(r.Residue, permanent.residue...)
			r.end(Failed, failure.Error())
			return nil
		})
	}
	if step.Check != nil {
		there, err := t.check(ctx, step, scope)
		if err != nil {
			return true, err
		}
		if there {
			return true, t.stepDone(i)
		}
		if step.Refused != nil && step.Refused(failure) {
			return true, t.persist("refused: "+failure.Error(), func(r *record) error {
				r.State = Recovering
				r.Cause = &cause{causeError, code.Of(failure), failure.Error(), step.Name}
				return nil
			})
		}
	}
	t.log().Warn().Err(failure).Str("step", step.Name).Msg("a step past the point of no return failed; trying again")
	t.engine.observer.Retried(t.verb.Name)
	t.stick(fmt.Sprintf("step %s is tried again: %s", step.Name, failure))
	return false, nil
}

// stepFailed turns the error of a step into the state that follows from it.
func (t *task) stepFailed(ctx context.Context, i int, failure error) error {
	if err := t.ended(ctx); err != nil || errors.Is(failure, errShutdown) {
		return errShutdown
	}
	t.mu.Lock()
	t.answered = t.plan().Steps[i].asked() // until it answered
	t.mu.Unlock()
	if errors.Is(failure, errStopped) || errors.Is(context.Cause(ctx), errPaused) {
		return nil // the state says what to do next
	}
	return t.unlessStopped(t.persist(fmt.Sprintf("step %s failed: %s", t.plan().Steps[i].Name, failure), func(r *record) error {
		if r.State != Running {
			return errStopped // a stop is recorded: it goes before the error (G14)
		}
		r.State = Aborting
		r.Cause = &cause{causeError, code.Of(failure), failure.Error(), t.plan().Steps[i].Name}
		return nil
	}))
}

// finish records the success, with what a later revert needs to see whether the result was used.
func (t *task) finish(ctx context.Context) error {
	var finger json.RawMessage
	if t.plan().Fingerprint != nil {
		err := t.call(func() error {
			v, err := t.plan().Fingerprint(ctx, &Scope{t: t, step: -1})
			if err != nil {
				return err
			}
			finger, err = json.Marshal(v)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return t.ended(ctx)
			}
			t.log().Warn().Err(err).Msg("the result cannot be looked at; the finished task will not be revertible")
		}
	}
	return t.unlessStopped(t.persist("finished", func(r *record) error {
		if r.State == Aborting {
			return errStopped
		}
		r.stepsDone(len(r.Steps), time.Now().UTC())
		r.Finger = finger
		if t.plan().Expires != nil {
			r.Expires = t.plan().Expires(&Scope{t: t, step: -1, rec: r})
		}
		message := cmp.Or(t.plan().Success, "finished")
		if r.StopLost {
			message = "finished: the stop came too late, the work was already complete"
		}
		r.end(Finished, message)
		return nil
	}))
}

// end moves the record to a final state.
func (r *record) end(s State, message string) {
	r.State, r.Message, r.Ended = s, message, time.Now().UTC()
}

// call runs a function of a verb. A panic in it is an error of the task, not the end of the daemon.
func (t *task) call(f func() error) (err error) {
	defer func() {
		t.noteThat("")
		if p := recover(); p != nil {
			t.log().Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("a step panicked")
			err = code.Errorf(code.InternalError, "a defect of the agent: %v", p)
		}
	}()
	return f()
}
