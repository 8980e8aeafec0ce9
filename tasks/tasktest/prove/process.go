package prove

import (
	"context"
	"encoding/json"
	"errors"
	"testing/synctest"
	"time"

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
		r.note("G13", "the agent does not start: %v", err)
	}
}

// reap ends what is left of a process that has died, or lets it shut down.
func (p *process) reap() {
	p.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := p.engine.Close(ctx); err != nil {
		p.run.note("close", "the process does not come to rest: %v", err)
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
