package tasks

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// Start loads what the store has and lets every task go on from where it is recorded to be. left are the workers of
// the former run that are not proven gone yet, by task: such a task waits for them, and no other does. A record that cannot be
// understood is set aside and logged; it never prevents the start.
func (e *Engine) Start(left map[string][]Worker) error {
	if err := e.flows.load(e.store); err != nil {
		return err
	}
	found, err := e.read()
	if err != nil {
		return fmt.Errorf("the tasks cannot be read from the store: %w", err)
	}
	e.mu.Lock()
	for _, t := range found {
		e.add(t)
	}
	e.mu.Unlock()
	var live []*task
	for _, t := range found {
		if t.state().Final() {
			continue
		}
		live = append(live, t)
		if r := t.record(); r.State != Queued { // those that held their locks have them again before any that only waited
			t.resume(r.Paused != nil)
		}
	}
	for _, t := range live {
		t.enter(nil) // in the order of their submits
	}
	for _, t := range live {
		for _, w := range left[t.id] {
			t.attach(w)
			t.watchBound()
		}
		e.start(t)
	}
	for _, t := range found {
		if end := t.end.Load(); end != nil && end.atEnd {
			e.spawn(t.afterEnd)
		}
	}
	e.spawn(e.retain)
	if p := e.options.Pulse; p.Every > 0 {
		e.spawn(func() { e.pulse(p) })
	}
	return nil
}

// loadBatch is how many records are understood at a time: it is large enough that the goroutines that do it do not wait for
// each other, and small enough for the memory.
const loadBatch = 256

// read reads all live tasks, oldest first, and sets aside what cannot be understood. Understanding takes longer than reading,
// so it is done by as many goroutines as there are processors.
func (e *Engine) read() ([]*task, error) {
	total := 0
	if e.options.Loading != nil {
		n, err := e.store.Count()
		if err != nil {
			return nil, err
		}
		total = n
	}
	type batch struct {
		rows    []store.Record
		tasks   []*task
		reasons []error
	}
	var batches []*batch
	work := make(chan *batch)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			spare := &record{}
			for b := range work {
				b.tasks, b.reasons = make([]*task, len(b.rows)), make([]error, len(b.rows))
				for i, row := range b.rows {
					b.tasks[i], b.reasons[i] = e.restore(row, spare)
					b.rows[i].Body = nil
				}
			}
		})
	}
	current := &batch{}
	read := 0
	send := func() {
		batches = append(batches, current)
		work <- current
		current = &batch{}
		if e.options.Loading != nil {
			e.options.Loading(read, max(read, total))
		}
	}
	err := e.store.Live(func(row store.Record) error {
		read++
		if current.rows = append(current.rows, row); len(current.rows) == loadBatch {
			send()
		}
		return nil
	})
	send()
	close(work)
	workers.Wait()
	if err != nil {
		return nil, err
	}
	found := make([]*task, 0, read)
	for _, b := range batches {
		for i, t := range b.tasks {
			if b.reasons[i] == nil {
				found = append(found, t)
			} else if err := e.setAside(b.rows[i].ID, b.reasons[i]); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

func (e *Engine) setAside(id string, reason error) error {
	e.log.Error().Str("task", id).Err(reason).Msg("a stored task cannot be understood and is set aside; see vdsm-agentctl store check")
	if err := e.store.SetAside(id, reason.Error()); err != nil {
		return fmt.Errorf("the damaged record %s cannot be set aside: %w", id, err)
	}
	return nil
}

// restore makes a task of a stored row. The record of one that has ended is not kept: it is read into spare.
func (e *Engine) restore(row store.Record, spare *record) (*task, error) {
	r := spare
	if !State(row.State).Final() {
		r = &record{}
	}
	if err := r.read(row); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(Transitions, func(t Transition) bool { return t.From == r.State && t.From != Init }) {
		return nil, fmt.Errorf("no stored task can be in the state %q", r.State)
	}
	v, ok := e.verbs[r.Verb]
	if !ok {
		return nil, fmt.Errorf("there is no verb %q", r.Verb)
	}
	if !r.State.Final() { // the plan of one that has ended is made when it is needed
		if err := r.makePlan(v); err != nil {
			return nil, err
		}
	}
	r.Tag, r.Who = e.interned(r.Tag), e.interned(r.Who)
	return newTask(e, v, r), nil
}

// understand makes a record, with its plan, of the stored row of a task that is known.
func (e *Engine) understand(v *Verb, row store.Record) (*record, error) {
	r, err := readRecord(row)
	if err != nil {
		return nil, err
	}
	if err := r.makePlan(v); err != nil {
		return nil, code.Errorf(code.TaskPersist, "the stored task cannot be understood: %w", err)
	}
	return r, nil
}

// makePlan has the verb make the plan again, which must be that of the record.
func (r *record) makePlan(v *Verb) error {
	plan, err := v.Plan(r.ID, r.Params)
	if err != nil {
		return fmt.Errorf("the parameters are not understood any more: %w", err)
	}
	if len(plan.Steps) != len(r.Steps) {
		return fmt.Errorf("the verb has %d steps, the record %d", len(plan.Steps), len(r.Steps))
	}
	for i, s := range plan.Steps {
		if s.Name != r.Steps[i].Name {
			return fmt.Errorf("step %d is %q, in the record %q", i+1, s.Name, r.Steps[i].Name)
		}
		if !slices.Contains([]StepState{StepWaiting, StepStarted, StepDone, StepUndone, StepUndoFailed}, r.Steps[i].State) {
			return fmt.Errorf("no step can be in the state %q", r.Steps[i].State)
		}
	}
	r.plan = plan
	return nil
}

// interned returns one copy of the words that many tasks share.
func (e *Engine) interned(s string) string {
	for _, known := range []string{TagSPM, TagLocal, TagSDM, TagVirt, TagHost, agentItself} {
		if s == known {
			return known
		}
	}
	return s
}
