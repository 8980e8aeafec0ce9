package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// interrupt tells the running step to end: its ctx first, then, after the step's own grace, its workers. It returns at
// once. The stuck timer starts with it.
func (t *task) interrupt(why error) {
	t.mu.Lock()
	if t.interrupted == nil || errors.Is(t.interrupted, errPaused) {
		t.interrupted = why
	}
	if t.cancel != nil {
		t.cancel(why)
	}
	workers := slices.Clone(t.workers)
	t.mu.Unlock()
	ask := t.askGrace()
	for _, w := range workers {
		t.engine.spawn(func() { t.escalate(w, ask) })
	}
	if errors.Is(why, errStopped) {
		t.watchBound()
	}
}

func (t *task) askGrace() time.Duration {
	r := t.record()
	if r == nil || len(r.Steps) == 0 {
		return 0
	}
	return r.plan.Steps[r.current()].AskGrace
}

// escalate ends one worker: wait for the step to do it, SIGTERM, SIGKILL. A forced stop goes to SIGKILL at once.
func (t *task) escalate(w Worker, ask time.Duration) {
	wait := func(d time.Duration) bool {
		if t.isForced() {
			return false
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-w.Gone():
			return true
		case <-timer.C:
			return false
		}
	}
	if ask > 0 && wait(ask) {
		return
	}
	if !t.isForced() {
		w.Terminate()
		if wait(t.engine.tuning.Load().TermGrace) {
			return
		}
	}
	w.Kill()
}

func (t *task) isForced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forced
}

// force goes to SIGKILL for all workers now.
func (t *task) force() {
	t.mu.Lock()
	t.forced = true
	workers := slices.Clone(t.workers)
	t.mu.Unlock()
	for _, w := range workers {
		w.Kill()
	}
}

// attach keeps a worker until it is gone; see Scope.Attach.
func (t *task) attach(w Worker) {
	t.mu.Lock()
	t.workers = append(t.workers, w)
	interrupted := t.interrupted != nil || t.engine.ctx.Err() != nil
	t.mu.Unlock()
	if interrupted {
		t.engine.spawn(func() { t.escalate(w, 0) })
	}
}

// silence waits until every worker is gone. It returns errShutdown if the agent goes first.
func (t *task) silence(ctx context.Context) error {
	t.mu.Lock()
	workers := slices.Clone(t.workers)
	t.mu.Unlock()
	for _, w := range workers {
		select {
		case <-w.Gone():
			continue
		default:
		}
		select {
		case <-w.Gone():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.workers = slices.DeleteFunc(t.workers, func(w Worker) bool { return slices.Contains(workers, w) })
	return nil
}

// watchBound marks the task as stuck if it is not final when the verb's bound has passed (G5). The mark goes away with the
// next change of state that the kernel lets through.
func (t *task) watchBound() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bound != nil {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(t.verb.Contract.Bound, func() {
		t.mu.Lock()
		over := t.bound != timer
		t.mu.Unlock()
		if over || t.state().Final() {
			return
		}
		t.log().Error().Strs("holders", t.holders()).Msg("the task is stuck: it is past its bound")
		t.stick("")
	})
	t.bound = timer
}

// endBound ends what watchBound began: the task is not being stopped any more, and what it waited for is gone.
func (t *task) endBound() {
	t.mu.Lock()
	if t.bound != nil {
		t.bound.Stop()
		t.bound = nil
	}
	t.mu.Unlock()
	t.unstick()
}

// stick marks the task as stuck. why is "" when what holds it is to be looked up each time somebody asks.
func (t *task) stick(why string) {
	t.mu.Lock()
	first := t.stuckSince.IsZero()
	if first {
		t.stuckSince = time.Now().UTC()
	}
	t.stuckWhy = why
	t.mu.Unlock()
	if first {
		t.engine.observer.Stuck(t.verb.Name)
		t.engine.events.publish(Moved, t)
	}
	t.wake()
}

func (t *task) unstick() {
	t.mu.Lock()
	was := !t.stuckSince.IsZero()
	t.stuckSince, t.stuckWhy = time.Time{}, ""
	t.mu.Unlock()
	if was {
		t.engine.events.publish(Moved, t)
	}
}

// calm forgets a stop or a pause that no longer has anything to end: the stop was lost, or the undo begins.
func (t *task) calm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered = false
	if !errors.Is(t.interrupted, errShutdown) {
		t.interrupted = nil
	}
}

// holders says what keeps the task from going on.
func (t *task) holders() []string {
	t.mu.Lock()
	workers, why := slices.Clone(t.workers), t.stuckWhy
	t.mu.Unlock()
	var out []string
	for _, w := range workers {
		out = append(out, w.Describe()...)
	}
	if why != "" {
		out = append(out, why)
	}
	if r := t.record(); len(out) == 0 && r != nil && len(r.Steps) > 0 {
		out = append(out, fmt.Sprintf("step %s has not returned", r.currentName()))
	}
	return out
}

// plan is what the verb does; only of a task that has not ended.
func (t *task) plan() *Plan { return t.record().plan }

// enter takes the task's place in the lock table, once. kept is the seat that was kept for it, or nil.
func (t *task) enter(kept *seat) *claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claim == nil {
		r := t.record()
		t.claim = t.engine.locks.enter(t.id, t.verb.Class, r.plan.Locks, kept, r.Revert != nil)
	}
	return t.claim
}

// hasSlot says whether the task has all that it needs to work. One that was paused before a restart has no slot.
func (t *task) hasSlot() bool {
	t.mu.Lock()
	c := t.claim
	t.mu.Unlock()
	return c != nil && t.engine.locks.hasSlot(c)
}

// resume has in the lock table again what the task had before a restart.
func (t *task) resume(paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claim = t.engine.locks.resume(t.id, t.verb.Class, t.plan().Locks, paused)
}

// unlock gives the locks back, or the place in the queue for them.
func (t *task) unlock() {
	t.mu.Lock()
	c := t.claim
	t.claim = nil
	t.mu.Unlock()
	if c != nil {
		t.engine.locks.leave(c)
	}
}

// leave forgets what is true only while the task works.
func (t *task) leave() {
	t.unlock()
	t.mu.Lock()
	t.interrupted, t.forced, t.answered = nil, false, false
	t.stuckSince, t.stuckWhy = time.Time{}, ""
	if t.bound != nil {
		t.bound.Stop()
		t.bound = nil
	}
	close(t.idle)
	t.idle = nil
	t.mu.Unlock()
	t.wake()
}
