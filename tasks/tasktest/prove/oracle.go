package prove

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

// durable is what the harness reads of a stored task.
type durable struct {
	State tasks.State `json:"state"`
	Steps []struct {
		Name  string          `json:"name"`
		State tasks.StepState `json:"state"`
	} `json:"steps"`
	StopLost bool     `json:"stopLost"`
	Residue  []string `json:"residue"`
	Deferred string   `json:"deferred"`

	version uint64
}

var stopMark, lostMark = []byte(`"stop":{`), []byte(`"stopLost":true`)

// durableState is the state of the task on stable storage, "" if it is not there.
func (r *run) durableState(id string) tasks.State {
	row, err := r.storeNow().Get(id)
	if err != nil {
		return ""
	}
	return tasks.State(row.State)
}

// durable reads the task's record from stable storage; nil if it is not there.
func (r *run) durable(id string) *durable {
	row, err := r.storeNow().Get(id)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.cache[id]; d != nil && d.version == row.Version {
		return d
	}
	r.cache[id] = decode(row)
	return r.cache[id]
}

// decode reads a record; one that cannot be read is empty.
func decode(row store.Record) *durable {
	d := &durable{version: row.Version}
	if err := json.Unmarshal(row.Body, d); err != nil {
		return &durable{version: row.Version}
	}
	return d
}

// violation notes that a rule is broken, and returns the error that ends the client's script.
func (r *run) violation(rule, format string, args ...any) error {
	r.note(rule, format, args...)
	return errOver
}

// note notes that a rule is broken; the first one counts.
func (r *run) note(rule, format string, args ...any) {
	text := rule + ": " + fmt.Sprintf(format, args...)
	r.mu.Lock()
	if r.broke == "" {
		r.broke = text
	}
	r.mu.Unlock()
	r.tracef("  VIOLATION %s", text)
}

func (r *run) violated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broke != ""
}

// checkEffect judges an effect that is about to happen by what is on stable storage.
func (r *run) checkEffect(p *process, id, effect string) {
	d := r.durable(id)
	if d == nil {
		r.note("order", "effect %q of a task that is not recorded", effect)
		return
	}
	r.mu.Lock()
	c, plan := p.calls[id], p.plans[id]
	rivals := r.rivals
	r.mu.Unlock()
	if c == nil {
		if len(r.world.Alive(id)) == 0 {
			r.note("order", "effect %q outside of a step and of a worker", effect)
		}
		return
	}
	if id == mainID {
		for _, rival := range []string{holderID, rivalID(rivals)} {
			if s := r.durableState(rival); s != "" && s != tasks.Queued && !s.Final() {
				r.note("G12", "effect %q while the rival is %s", effect, s)
			}
		}
	}
	step, rec := &plan.Steps[c.step], d.Steps[c.step]
	where := fmt.Sprintf("effect %q in the %s of step %s, recorded %s (task %s)", effect, c.phase, step.Name, rec.State, d.State)
	switch {
	case c.phase == phasePlan || c.phase == phaseCheck || step.Verify:
		r.note("order", "%s: it may have none", where)
	case c.phase == phaseUndo:
		if d.State != tasks.Recovering || rec.State != tasks.StepStarted && rec.State != tasks.StepDone {
			r.note("order", "%s: the undo is not recorded", where)
		}
		for j := c.step + 1; j < len(d.Steps); j++ {
			if later := d.Steps[j].State; plan.Steps[j].Undo != nil && (later == tasks.StepStarted || later == tasks.StepDone) {
				r.note("G6", "%s: step %s comes later and is not undone yet", where, plan.Steps[j].Name)
			}
		}
	case rec.State != tasks.StepStarted:
		r.note("order", "%s: its plan is not recorded", where)
	case d.State == tasks.Aborting:
		if p.aborting && step.DecidedBy == "" && !step.Asserted {
			r.note("G2", "%s: the stop was recorded before this process began", where)
		}
	case d.State == tasks.Committing:
	case d.State != tasks.Running:
		r.note("order", "%s", where)
	case past(plan, c.step):
		r.note("order", "%s: the point of no return is not recorded", where)
	}
	r.countRepeat(p, fmt.Sprintf("%s %s", id, c.phase), step.Name)
}

// past says whether the step is the point of no return or comes after it.
func past(plan *tasks.Plan, step int) bool {
	for i := range plan.Steps {
		if plan.Steps[i].PointOfNoReturn && step >= i || plan.Steps[i].DecidedBy != "" && step > i {
			return true
		}
	}
	return false
}

// countRepeat sees to it that a crash makes at most one step be done, and one be undone, again.
func (r *run) countRepeat(p *process, of, step string) {
	key := of + " " + step
	r.mu.Lock()
	first := !p.effects[key]
	p.effects[key] = true
	repeated := first && r.earlier[key]
	if repeated {
		p.repeated[of]++
	}
	n := p.repeated[of]
	r.mu.Unlock()
	if repeated && n > 1 {
		r.note("repeat", "step %s is the second that is repeated after one crash (%s)", step, of)
	}
}

// checkCommit judges a transaction that is about to happen.
func (r *run) checkCommit(p *process, c store.Change) {
	r.checkPublished()
	for i := range c.Put {
		row := &c.Put[i]
		if isRival(row.ID) {
			continue
		}
		before, err := r.store.Get(row.ID)
		from, to := tasks.State(before.State), tasks.State(row.State)
		if err != nil {
			from = tasks.Init
			if row.ID != mainID && !slices.ContainsFunc(c.Put, func(r store.Record) bool { return r.ID == mainID && decode(r).Deferred == row.ID }) {
				r.note("clear", "what the task put off is recorded without the task")
			}
		}
		if !mayMove(from, to) {
			r.note("G10", "the record of a task moves from %s to %s", from, to)
		}
		r.mu.Lock()
		asked := row.ID != mainID || to == tasks.Queued && r.revertAsked || to == tasks.Cleared && r.clearAsked
		r.mu.Unlock()
		if from.Final() && !asked {
			r.note("G10", "the final state %s becomes %s, and nobody asked", from, to)
		}
		if to.Final() && to != tasks.Cleared || to == tasks.Recovering && from == tasks.Aborting {
			if alive := r.world.Alive(row.ID); len(alive) > 0 {
				r.note("G4", "the task becomes %s while these are alive: %v", to, alive)
			}
		}
		if from == tasks.Aborting && to == tasks.Aborting {
			r.checkNoStart(decode(before), decode(*row))
		}
		if row.ID == mainID {
			// What an undo leaves unsynced may be data of files that it has removed: there a crash tells.
			if n := r.world.Unsynced(); r.subject.durable && n > 0 && to == tasks.Finished && from != tasks.Queued {
				r.note("durable", "the task becomes finished, and a crash could still take back %d effects", n)
			}
			r.checkStop(p, before.Body, row)
		}
	}
}

// checkPublished sees to it that nothing half made, or half lost, passes for whole.
func (r *run) checkPublished() {
	w, ok := r.world.(Publisher)
	if !ok || r.subject.ends == "" { // the undisturbed run is the measure
		return
	}
	for _, thing := range w.Published() {
		if !slices.Contains(r.subject.whole, thing) {
			r.note("published", "%s", thing)
		}
	}
}

// checkNoStart sees to it that no step starts after a stop.
func (r *run) checkNoStart(before, after *durable) {
	for i := range after.Steps {
		if before.Steps[i].State == tasks.StepWaiting && after.Steps[i].State != tasks.StepWaiting {
			r.note("G2", "step %s starts after the stop was recorded", after.Steps[i].Name)
		}
	}
}

// checkStop judges a change of a task that a stop was recorded for.
func (r *run) checkStop(p *process, before []byte, row *store.Record) {
	to := tasks.State(row.State)
	lost := bytes.Contains(row.Body, lostMark)
	if (to == tasks.Committing || to == tasks.Finished) && bytes.Contains(before, stopMark) {
		r.mu.Lock()
		plan := p.plans[mainID]
		r.mu.Unlock()
		if !lost || !decidedElsewhere(plan) {
			r.note("G3", "the task becomes %s after its stop was recorded", to)
		}
	}
	r.mu.Lock()
	at := r.stoppedAt
	if to.Final() {
		r.stoppedAt = time.Time{}
	}
	timed := to.Final() && !at.IsZero() && !r.failed && !lost
	r.mu.Unlock()
	if took := time.Since(at); timed && took > time.Duration(r.subject.bound) {
		r.note("G5", "the task ends %v after the stop, its bound is %v", took, time.Duration(r.subject.bound))
	}
}

func decidedElsewhere(plan *tasks.Plan) bool {
	for i := range plan.Steps {
		if plan.Steps[i].DecidedBy != "" {
			return true
		}
	}
	return false
}

var moves = func() map[[2]tasks.State]bool {
	m := map[[2]tasks.State]bool{}
	for _, t := range tasks.Transitions {
		m[[2]tasks.State{t.From, t.To}] = true
	}
	return m
}()

func mayMove(from, to tasks.State) bool {
	return from == to && !from.Final() && from != tasks.Init || moves[[2]tasks.State{from, to}]
}

// stop asks for a stop and judges the answer.
func (r *run) stop(p *process, o tasks.StopOptions) {
	err := r.stopOnce(p, o)
	r.tracef("  client: stop: %s", answer(err))
	if c := code.Of(err); c != code.TaskPersist && c != code.ShuttingDown {
		return
	}
	r.mu.Lock()
	r.stopUnknown = true
	r.mu.Unlock()
	if p.over() {
		return
	}
	r.helpers.Go(func() { // the client asks again later
		<-time.After(time.Second + 3*lateness)
		r.mu.Lock()
		again := r.stopUnknown && !p.dead && !p.closing
		r.stopUnknown = r.stopUnknown && !again
		r.mu.Unlock()
		if again {
			r.stop(p, o)
		}
	})
}

func (r *run) stopOnce(p *process, o tasks.StopOptions) error {
	err := p.engine.Stop(mainID, o)
	row, absent := r.storeNow().Get(mainID)
	if absent != nil && p.over() {
		return err
	}
	state := tasks.State(row.State)
	lost := bytes.Contains(row.Body, lostMark)
	switch code.Of(err) {
	case 0:
		if state == "" || state == tasks.Cleared || state == tasks.Running || (state == tasks.Committing || state == tasks.Finished) && !lost {
			r.note("G2", "the stop is acknowledged, the record says %q", state)
		}
		r.mu.Lock()
		if !r.revertAsked && !lost {
			r.stopAcked = true
		}
		if !state.Final() && r.stoppedAt.IsZero() && !r.revertAsked {
			r.stoppedAt = time.Now()
		}
		r.mu.Unlock()
	case code.TaskState:
		if state != tasks.Committing && state != tasks.Finished && state != tasks.Failed {
			r.note("G3", "the stop is refused (%v), the record says %q", err, state)
		}
		r.mu.Lock()
		r.stopRefused = r.stopRefused || state == tasks.Committing || state == tasks.Finished
		r.mu.Unlock()
	case code.UnknownTask:
		if state != "" && state != tasks.Cleared && r.submitted {
			r.note("G9", "the stop finds no task, the record says %s", state)
		}
	case code.TaskPersist, code.ShuttingDown:
	default:
		r.note("G2", "the stop answers %v", err)
	}
	return err
}
