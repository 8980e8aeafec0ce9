package prove

import (
	"context"
	"encoding/json"
	"errors"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"

	"github.com/rs/zerolog"
)

// process is one life of the agent.
type process struct {
	run    *run
	engine *tasks.Engine
	ctx    context.Context // ends when the process dies or shuts down
	cancel context.CancelFunc
	token  chan struct{} // one point at a time looks
	// aborting: the stop of the task was on stable storage before this process began.
	aborting bool

	// guarded by run.mu
	dead     bool // it crashed
	closing  bool // it shuts down
	points   int
	calls    map[string]*call
	plans    map[string]*tasks.Plan
	effects  map[string]bool // steps that had an effect in this process
	repeated map[string]int  // by task and phase: those that had one in an earlier process too
}

// call is a function of a step that is at work.
type call struct {
	phase phase
	step  int
}

type phase string

const (
	phasePlan  phase = "plan"
	phaseDo    phase = "do"
	phaseCheck phase = "check"
	phaseUndo  phase = "undo"
)

var errDead = errors.New("the process is dead")

// start begins a process on what is in the run's store and world.
func (r *run) start() {
	p := &process{run: r, token: make(chan struct{}, 1), calls: map[string]*call{}, plans: map[string]*tasks.Plan{},
		effects: map[string]bool{}, repeated: map[string]int{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.aborting = r.proc != nil && r.durableState(mainID) == tasks.Aborting
	r.store.OnCommit = p.onCommit
	var verbs []*tasks.Verb
	for _, v := range r.world.Verbs(p.gate) {
		verbs = append(verbs, p.wrap(v))
	}
	p.engine = tasks.New(tasks.Options{Store: r.store, Verbs: append(verbs, p.rival()), Log: zerolog.Nop()})
	r.mu.Lock()
	r.proc = p
	r.mu.Unlock()
	if err := p.engine.Start(nil); err != nil && !p.isDead() {
		r.violation("G13", "the agent does not start: %v", err)
	}
}

// reap ends what is left of a process that has died, or lets it shut down.
func (p *process) reap() {
	p.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := p.engine.Close(ctx); err != nil {
		p.run.violation("close", "the process does not come to rest: %v", err)
	}
}

func (p *process) isDead() bool {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	return p.dead
}

// over says that the process answers no more.
func (p *process) over() bool {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	return p.dead || p.closing
}

// wrap lets the harness know which function of which step is at work.
func (p *process) wrap(v *tasks.Verb) *tasks.Verb {
	w := *v
	w.Plan = func(id string, params json.RawMessage) (*tasks.Plan, error) {
		plan, err := v.Plan(id, params)
		if err != nil {
			return nil, err
		}
		p.run.mu.Lock()
		p.plans[id] = plan
		p.run.mu.Unlock()
		wrapped := *plan
		wrapped.Steps = make([]tasks.Step, len(plan.Steps))
		for i, step := range plan.Steps {
			wrapped.Steps[i] = p.wrapStep(i, step)
		}
		return &wrapped, nil
	}
	return &w
}

func (p *process) wrapStep(i int, step tasks.Step) tasks.Step {
	w := step
	if step.Plan != nil {
		w.Plan = func(ctx context.Context, s *tasks.Scope) (any, error) {
			defer p.enter(s, phasePlan, i)()
			return step.Plan(settled{ctx, p.run}, s)
		}
	}
	w.Do = func(ctx context.Context, s *tasks.Scope) error {
		defer p.enter(s, phaseDo, i)()
		return step.Do(settled{ctx, p.run}, s)
	}
	if step.Check != nil {
		w.Check = func(ctx context.Context, s *tasks.Scope) (bool, error) {
			defer p.enter(s, phaseCheck, i)()
			return step.Check(settled{ctx, p.run}, s)
		}
	}
	if step.Undo != nil {
		w.Undo = func(ctx context.Context, s *tasks.Scope) error {
			defer p.enter(s, phaseUndo, i)()
			return step.Undo(settled{ctx, p.run}, s)
		}
	}
	return w
}

func (p *process) enter(s *tasks.Scope, ph phase, step int) (leave func()) {
	p.run.settle()
	id := s.TaskID()
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	p.calls[id] = &call{ph, step}
	return func() {
		p.run.mu.Lock()
		defer p.run.mu.Unlock()
		delete(p.calls, id)
	}
}

// settled is a context that is looked at only when a stop that waits for its turn has had it: so it depends on nothing but the
// seed what a step finds.
type settled struct {
	context.Context
	run *run
}

func (c settled) Err() error {
	c.run.settle()
	return c.Context.Err()
}

func (c settled) Done() <-chan struct{} {
	c.run.settle()
	return c.Context.Done()
}

// gate is the Gate of the process.
func (p *process) gate(s *tasks.Scope, effect string) error {
	if p.isDead() {
		return errDead
	}
	id := s.TaskID()
	p.run.settle()
	p.look()
	if p.isDead() {
		return errDead
	}
	p.run.checkEffect(p, id, effect)
	f, n := p.count(false)
	if p.run.trace != nil {
		p.run.point(n, p.run.effectLabel(p, id, effect))
	}
	return p.meet(f, false)
}

// onCommit is the OnCommit of the process's store.
func (p *process) onCommit(c store.Change) error {
	if p.isDead() {
		return store.ErrClosed
	}
	ours := false
	for _, row := range c.Put {
		ours = ours || !isRival(row.ID)
	}
	if !ours {
		return nil
	}
	p.look()
	if p.isDead() {
		return store.ErrClosed
	}
	p.run.checkCommit(p, c)
	f, n := p.count(true)
	if p.run.trace != nil {
		p.run.point(n, p.run.commitLabel(c))
	}
	if err := p.meet(f, true); err != nil {
		return err
	}
	if p.run.durableState(mainID) != "" && c.Put[len(c.Put)-1].ID == mainID {
		p.submitRival()
	}
	return nil
}

// look waits until everybody else rests, so that what is found at a point depends on nothing but the seed.
func (p *process) look() {
	p.token <- struct{}{}
	synctest.Wait()
	<-p.token
}

// count numbers the point and says which fault it meets.
func (p *process) count(commit bool) (*fault, int) {
	r := p.run
	r.mu.Lock()
	defer r.mu.Unlock()
	p.points++
	var due *fault
	switch {
	case p.closing: // what goes on while it shuts down is no place for a fault
	case r.next < len(r.seed.faults) && p.points-r.base == r.seed.faults[r.next].at:
		due = &r.seed.faults[r.next]
		r.next++
		r.base = p.points
		r.after = r.after[:0]
	case r.probing && r.next == len(r.seed.faults):
		r.after = append(r.after, spot{commit, r.world.Unsynced() + r.store.Open()})
	}
	return due, p.points
}

// spot is what there is to know of a point, to place a fault there.
type spot struct {
	commit bool
	k      int // unsynced changes before it
}

// meet lets the fault happen.
func (p *process) meet(f *fault, commit bool) error {
	r := p.run
	r.mu.Lock()
	again := r.stopAgain
	r.stopAgain = false
	r.mu.Unlock()
	if again { // the client of a stop that died with the former process
		p.stopAt(commit, tasks.StopOptions{Who: "client"})
	}
	if f != nil {
		switch f.kind {
		case faultStop:
			p.placeStop(f.arg, commit)
		case faultCrash:
			p.crash(f.arg)
			return p.refusal(commit)
		case faultRestart:
			p.shutDown()
		case faultFail, faultFailFrom:
			return r.fail(f, commit)
		default:
			r.violation("seed", "there is no fault %q", f.kind)
		}
	}
	if p.isDead() {
		return p.refusal(commit)
	}
	return r.failing(commit)
}

func (p *process) refusal(commit bool) error {
	if commit {
		return store.ErrClosed
	}
	return errDead
}

// crash lets the process die now.
func (p *process) crash(arg string) {
	r := p.run
	k := r.world.Unsynced() + r.store.Open()
	keep, err := r.seed.keep(k, arg)
	if err != nil {
		r.violation("seed", "%v", err)
		keep = func() bool { return false }
	}
	kept := ""
	spied := func() bool {
		yes := keep()
		if yes {
			kept += "+"
		} else {
			kept += "-"
		}
		return yes
	}
	left, world := r.store.Crash(spied), r.world.Crash(spied)
	r.mu.Lock()
	p.dead = true
	r.left, r.leftWorld = left, world
	r.mu.Unlock()
	_ = r.store.Close() // of a MemStore: never fails
	r.tracef("  CRASH, of %d unsynced changes kept: %s", k, kept)
	p.cancel()
}

// shutDown begins the end of the process in good order; what is at work goes on until it is told.
func (p *process) shutDown() {
	r := p.run
	r.mu.Lock()
	p.closing = true
	r.mu.Unlock()
	r.tracef("  SHUTDOWN begins")
	r.helpers.Go(p.reap)
	p.token <- struct{}{}
	synctest.Wait()
	<-p.token
}

// placeStop is a stop by a client at the point.
func (p *process) placeStop(arg string, commit bool) {
	o := tasks.StopOptions{Who: "client", Force: arg == "f"}
	if arg == "late" {
		p.run.helpers.Go(func() {
			<-time.After(lateness)
			p.run.stop(p.run.current(), o)
		})
		return
	}
	p.stopAt(commit, o)
	if arg == "2" && !commit {
		p.run.stop(p, o)
	}
}

// lateness is an odd time, so that nothing else happens at the same moment.
const lateness = 1_000_003 * time.Nanosecond

// stopAt has the stop recorded before an effect, or right after a transaction: there it is queued for the task's lock.
func (p *process) stopAt(commit bool, o tasks.StopOptions) {
	r := p.run
	if !commit {
		r.stop(p, o)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.stop(p, o)
	}()
	p.token <- struct{}{}
	synctest.Wait()
	<-p.token
	select {
	case <-done:
	default:
		r.mu.Lock()
		r.queued = append(r.queued, done)
		r.mu.Unlock()
	}
}

// settle waits until a stop that was queued for the lock has its answer. Transactions need not: the lock orders them.
func (r *run) settle() {
	r.mu.Lock()
	queued := r.queued
	r.mu.Unlock()
	for _, done := range queued {
		<-done
	}
}

// fail is the first failure of an operation.
func (r *run) fail(f *fault, commit bool) error {
	r.mu.Lock()
	r.failed = true
	if f.kind == faultFailFrom {
		r.broken, r.brokenCommit, r.healAt = true, commit, time.Now().Add(healAfter)
	}
	r.mu.Unlock()
	r.tracef("  FAILS (%s)", f.kind)
	return failure(commit, f.arg)
}

// healAfter is when a broken store or world mends by itself.
const healAfter = time.Minute

// failing is the error of what is broken.
func (r *run) failing(commit bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.broken || r.brokenCommit != commit || !time.Now().Before(r.healAt) {
		return nil
	}
	return failure(commit, "u")
}

func (r *run) heal() {
	r.mu.Lock()
	r.broken = false
	r.mu.Unlock()
}

func failure(commit bool, arg string) error {
	if !commit {
		return code.Errorf(code.Storage, "the storage fails, as the harness wants")
	}
	return storeFailure(arg)
}
