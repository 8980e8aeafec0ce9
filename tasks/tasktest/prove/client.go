package prove

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// The scripts of a client.
const (
	scriptClear  = "a" // submit, wait, clear
	scriptRevert = "b" // submit, wait, revert, wait, clear
	scriptQueued = "q" // submit behind a holder of the locks, stop, wait, clear
)

var scripts = []string{scriptClear, scriptRevert, scriptQueued}

var errOver = errors.New("the run is over: a rule is violated")

// play is the whole run: the client does its script and tells the oracle what it was told.
func (r *run) play() {
	defer func() {
		r.current().reap()
		r.helpers.Wait()
	}()
	r.start()
	if r.seed.script == scriptQueued {
		r.hold()
	}
	if r.script() == nil && r.next < len(r.seed.faults) {
		r.note("seed", "the run has no point for %s", r.seed.faults[r.next].kind)
	}
}

func (r *run) script() error {
	if err := r.submit(); err != nil {
		return err
	}
	if r.seed.script == scriptQueued {
		err := r.ask("stop", func(p *process) error { return r.stopOnce(p, tasks.StopOptions{Who: "client"}) })
		if err != nil && code.Of(err) != code.TaskState {
			return r.violation("G2", "the stop of a queued task answers %v", err)
		}
		close(r.release)
	}
	v, err := r.end("run")
	if err != nil {
		return err
	}
	if err := r.mend(&v); err != nil {
		return err
	}
	if r.seed.script == scriptRevert {
		if err := r.revert(&v); err != nil {
			return err
		}
	}
	if err := r.sayAgain(v); err != nil {
		return err
	}
	return r.clear(v)
}

// hold lets a holder of all locks in first.
func (r *run) hold() {
	p := r.current()
	_, err := p.engine.Submit(p.ctx, tasks.Submission{ID: holderID, Verb: rivalVerb, Who: "rival"})
	if err != nil {
		r.note("seed", "the holder is refused: %v", err)
	}
	synctest.Wait()
}

func (r *run) submission() tasks.Submission {
	return tasks.Submission{ID: mainID, Verb: r.subject.Verb, Params: r.subject.Params, Who: "client"}
}

func (r *run) submit() error {
	err := r.ask("submit", func(p *process) error {
		_, err := p.engine.Submit(p.ctx, r.submission())
		return err
	})
	if err != nil {
		return r.violation("G1", "the submit answers %v", err)
	}
	r.mu.Lock()
	r.submitted = true
	r.mu.Unlock()
	return nil
}

// ask sends a request until it has an answer that is one: when the process died or the answer is unknown it is sent again.
func (r *run) ask(what string, f func(*process) error) error {
	for range 200 {
		if err := r.alive(); err != nil {
			return err
		}
		time.Sleep(time.Nanosecond) // until everybody rests
		p := r.current()
		err := f(p)
		r.tracef("client: %s: %s", what, answer(err))
		switch code.Of(err) {
		case code.TaskPersist, code.ShuttingDown, code.ResourceTimeout:
			if !p.over() {
				time.Sleep(time.Second + lateness)
			}
		default:
			return err
		}
	}
	return r.violation("answer", "%s is never answered", what)
}

// alive makes sure that there is a process, and that the run goes on.
func (r *run) alive() error {
	if r.violated() {
		return errOver
	}
	p := r.current()
	if !p.over() {
		return nil
	}
	died := time.Now()
	p.reap()
	synctest.Wait()
	r.mu.Lock()
	if p.dead && !r.stoppedAt.IsZero() { // what a dead process still waits for is not its successor's time
		r.stoppedAt = r.stoppedAt.Add(time.Since(died))
	}
	if p.dead {
		r.store, r.world = r.left, r.leftWorld
	}
	for step := range p.effects {
		r.earlier[step] = true
	}
	if r.next > 0 && (r.seed.faults[r.next-1].kind == faultCrash || r.seed.faults[r.next-1].kind == faultRestart) {
		r.base = 0
	}
	r.stopAgain = r.stopAgain || r.stopUnknown
	r.stopUnknown = false
	r.mu.Unlock()
	r.tracef("a new process starts")
	r.start()
	p = r.current()
	v, err := p.engine.Get(mainID)
	switch {
	case p.over():
	case r.submitted && !r.clearAsked && err != nil:
		return r.violation("G1", "the task is forgotten: %v", err)
	case r.sawFinal != "" && !r.clearAsked && v.State != r.sawFinal:
		return r.violation("G10", "the client saw %s, now the task is %s", r.sawFinal, v.State)
	}
	time.Sleep(time.Nanosecond)
	r.mu.Lock()
	again := r.stopAgain
	r.stopAgain = false
	r.mu.Unlock()
	if again && !p.over() {
		r.stop(p, tasks.StopOptions{Who: "client"})
	}
	return r.alive()
}

// patience is longer than anything takes that is ever done.
const patience = time.Hour

// waitFor returns the task's final state, whatever dies meanwhile.
func (r *run) waitFor(id string) (tasks.View, error) {
	for {
		if err := r.alive(); err != nil {
			return tasks.View{}, err
		}
		p := r.current()
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		_, err := p.engine.Wait(ctx, id, tasks.Ended)
		cancel()
		var v tasks.View
		if err == nil {
			v, err = p.engine.Get(id)
		}
		switch {
		case err == nil:
			return v, nil
		case p.over():
		case code.Of(err) == code.UnknownTask && id != mainID:
			return v, nil
		default:
			return v, r.violation("end", "task %s does not end: %v", id[30:], err)
		}
	}
}

// end waits for the end of the task and judges it; then its rival must end too.
func (r *run) end(phase string) (tasks.View, error) {
	v, err := r.waitFor(mainID)
	if err != nil {
		return v, err
	}
	r.tracef("client: sees %s/%d: %s", v.State, v.Code, v.Message)
	r.mu.Lock()
	r.sawFinal = v.State
	if r.subject.ends == "" { // the undisturbed run, which all others are compared with
		r.subject.ends, r.subject.finished = v.State, r.world.Seen()
		r.subject.publish(r.world)
	}
	ends := r.subject.ends
	r.mu.Unlock()
	if r.subject.should != "" && ends != r.subject.should {
		return v, r.violation("case", "undisturbed it ends %s, and should end %s: %s", ends, r.subject.should, v.Message)
	}
	if err := r.judge(v, phase); err != nil {
		return v, err
	}
	if err := r.rivalEnds(); err != nil {
		return v, err
	}
	return v, r.waitReclaim()
}

// rivalEnds waits for the rival of this phase. If none was submitted, one is now: there must be no lock left.
func (r *run) rivalEnds() error {
	r.mu.Lock()
	id := rivalID(r.rivals)
	r.mu.Unlock()
	err := r.ask("rival", func(p *process) error {
		_, err := p.engine.Submit(p.ctx, tasks.Submission{ID: id, Verb: rivalVerb, Who: "rival"})
		return err
	})
	if err != nil {
		return r.violation("G12", "the rival is refused: %v", err)
	}
	v, err := r.waitFor(id)
	if err == nil && v.State != tasks.Finished {
		err = r.violation("G12", "the rival ended %s", v.State)
	}
	return err
}

func (r *run) nextPhase() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rivals++
	r.rivalAsked = false
	r.sawFinal = ""
	clear(r.earlier)
	clear(r.proc.effects)
}

// mend brings a failed task to its undo, as far as there is one: the fault is healed first.
func (r *run) mend(v *tasks.View) error {
	for tries := 0; v.State == tasks.Failed; tries++ {
		r.heal()
		if tries == 5 {
			return r.violation("G7", "the undo of the failed task does not work when all is healed: %v", v.Residue)
		}
		again, err := r.undo(v)
		if err != nil || !again {
			return err
		}
	}
	return nil
}

func (r *run) revert(v *tasks.View) error {
	if v.State == tasks.Failed {
		return nil
	}
	finished := v.State == tasks.Finished || r.revertAsked // one that was mended answers again
	asked, err := r.undo(v)
	if err != nil {
		return err
	}
	if asked && !finished {
		return r.violation("G9", "the revert of a task that was undone is accepted")
	}
	return r.mend(v)
}

// undo asks for a revert and waits for its end; asked is false if the verb, or the state, allows none.
func (r *run) undo(v *tasks.View) (asked bool, err error) {
	r.nextPhase()
	r.mu.Lock()
	r.revertAsked = true
	r.mu.Unlock()
	before := *v
	err = r.ask("revert", func(p *process) error { return p.engine.Revert(p.ctx, mainID, "client") })
	switch {
	case errors.Is(err, errOver):
		return false, err
	case r.subject.Final && before.State == tasks.Finished && code.Of(err) == code.TaskState, code.Of(err) == code.NotRevertible:
		r.mu.Lock()
		r.sawFinal, r.revertAsked = before.State, false
		r.mu.Unlock()
		if before.Revertible && (!r.subject.Final || before.State != tasks.Finished) {
			return false, r.violation("G8", "the view says revertible, the revert answers %v", err)
		}
		return false, nil
	case err != nil:
		return false, r.violation("G8", "the revert answers %v", err)
	}
	if *v, err = r.end("revert"); err != nil || v.State != tasks.Recovered {
		return true, err
	}
	if err := r.ask("revert again", func(p *process) error { return p.engine.Revert(p.ctx, mainID, "client") }); err != nil {
		return true, r.violation("G9", "the repeated revert answers %v", err)
	}
	return true, nil
}

// sayAgain repeats what was asked before.
func (r *run) sayAgain(v tasks.View) error {
	if err := r.ask("submit again", func(p *process) error {
		_, err := p.engine.Submit(p.ctx, r.submission())
		return err
	}); err != nil {
		return r.violation("G9", "the repeated submit answers %v", err)
	}
	err := r.ask("stop again", func(p *process) error { return p.engine.Stop(mainID, tasks.StopOptions{Who: "client"}) })
	want := code.Code(0)
	if v.State == tasks.Finished || v.State == tasks.Failed && v.StopAsked == nil {
		want = code.TaskState
	}
	if code.Of(err) != want {
		return r.violation("G9", "the stop of a task that is %s answers %v", v.State, answer(err))
	}
	return nil
}

func (r *run) clear(v tasks.View) error {
	r.mu.Lock()
	r.clearAsked = true
	r.mu.Unlock()
	err := r.ask("clear", func(p *process) error { return p.engine.Clear(mainID, "client") })
	if err != nil && code.Of(err) != code.UnknownTask {
		return r.violation("G9", "the clear of a task that is %s answers %v", v.State, err)
	}
	if s := r.durableState(mainID); s != tasks.Cleared {
		return r.violation("G9", "the clear is acknowledged, the record says %s", s)
	}
	if err := r.alive(); err != nil {
		return err
	}
	for _, again := range []struct {
		what string
		want code.Code
		ask  func(p *process) error
	}{
		{"clear again", code.UnknownTask, func(p *process) error { return p.engine.Clear(mainID, "client") }},
		{"stop of the cleared", code.UnknownTask, func(p *process) error { return p.engine.Stop(mainID, tasks.StopOptions{Who: "client"}) }},
		{"get of the cleared", code.UnknownTask, func(p *process) error { _, err := p.engine.Get(mainID); return err }},
		{"submit of the cleared", code.AddTask, func(p *process) error { _, err := p.engine.Submit(p.ctx, r.submission()); return err }},
	} {
		if err := r.ask(again.what, again.ask); code.Of(err) != again.want {
			return r.violation("G9", "%s answers %v", again.what, answer(err))
		}
	}
	if err := r.waitReclaim(); err != nil {
		return err
	}
	r.nextPhase()
	if err := r.rivalEnds(); err != nil {
		return err
	}
	return r.judgeEnd(v)
}

// waitReclaim waits until what the task put off is carried out.
func (r *run) waitReclaim() error {
	if err := r.alive(); err != nil {
		return err
	}
	rec := r.durable(mainID)
	if rec == nil || rec.Deferred == "" {
		return nil
	}
	for waited := time.Duration(0); waited < patience; waited += time.Second {
		if err := r.alive(); err != nil {
			return err
		}
		if s := r.durableState(rec.Deferred); s == tasks.Cleared || s == tasks.Finished {
			return nil
		}
		time.Sleep(time.Nanosecond)
		if s := r.durableState(rec.Deferred); s != tasks.Cleared && s != tasks.Finished {
			time.Sleep(time.Second)
		}
	}
	return r.violation("clear", "what the task put off is not carried out: it is %s", r.durableState(rec.Deferred))
}

func answer(err error) string {
	if err == nil {
		return "true"
	}
	return fmt.Sprintf("%d %s", code.Of(err), strings.ReplaceAll(err.Error(), "\n", " "))
}
