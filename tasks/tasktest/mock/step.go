package mock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

type step struct {
	world *World
	gate  gate
	k     Knobs
}

// newStep makes a step of its knobs.
func newStep(w *World, g gate, k Knobs) tasks.Step {
	k.Slices = max(k.Slices, 1)
	m := &step{w, g, k}
	s := tasks.Step{
		Name: k.Name, Undone: k.Name + " taken back", Plan: m.plan, Do: m.do, Check: m.check, Undo: m.undo,
		Slices: k.Slices > 1 && k.DecidedBy == "", Verify: k.Verify, PointOfNoReturn: k.PointOfNoReturn, DecidedBy: k.DecidedBy,
	}
	if k.Verify {
		s.Undo, s.Undone = nil, ""
	}
	if k.Refused {
		s.Refused = func(error) bool { return true }
	}
	if k.Remainder != "" {
		s.Remainder = func(*tasks.Scope) string { return k.Remainder }
	}
	return s
}

// stepPlan is what is recorded before the effect.
type stepPlan struct {
	Effect string `json:"effect"`
}

func (m *step) plan(_ context.Context, s *tasks.Scope) (any, error) {
	return stepPlan{s.TaskID() + "/" + m.k.Name}, nil
}

// effect reads the recorded plan.
func (m *step) effect(s *tasks.Scope) (string, error) {
	var p stepPlan
	err := s.Plan(&p)
	return p.Effect, err
}

func (m *step) do(ctx context.Context, s *tasks.Scope) error {
	effect, err := m.effect(s)
	if err != nil {
		return err
	}
	w := m.world
	w.happened("do " + effect)
	w.reached("start", s.TaskID(), m.k.Name)
	switch {
	case m.k.Panics:
		panic("a knob says so")
	case m.k.DecidedBy != "":
		return m.decided(ctx, s, effect)
	case ctx.Err() != nil && !m.k.IgnoresStop:
		return context.Cause(ctx)
	case m.k.Refused:
		if err := m.failure(effect, 1); err != nil {
			return err // a refusal leaves nothing
		}
	}
	if !m.k.Verify { // before the work: a step that ends half-way has left something
		if err := m.make(s, effect); err != nil {
			return err
		}
	}
	if m.k.Blocks {
		w.reached("block", s.TaskID(), m.k.Name)
		<-w.released
	}
	if m.k.Worker != "" {
		if err := m.work(ctx, s); err != nil {
			return err
		}
	}
	first := 1
	var last int
	if found, err := s.LastCheckpoint(&last); err != nil {
		return err
	} else if found {
		first = last + 1
	}
	for n := first; n <= m.k.Slices; n++ {
		if err := m.slice(ctx, s, effect, n); err != nil {
			return err
		}
	}
	return nil
}

// make has the effect and syncs it.
func (m *step) make(s *tasks.Scope, effect string) error {
	w, there, what := m.world, effect, "make"
	c := change{{effect, true}}
	if m.k.Deletes {
		there, what = trash+effect, "rename to the trash"
		c = change{{Thing(m.k.Name), false}, {there, true}}
	}
	if !w.has(there) {
		if err := m.gate(s, what); err != nil {
			return err
		}
		w.write(c)
	}
	if w.synced(there) {
		return nil
	}
	if err := m.gate(s, "sync"); err != nil {
		return err
	}
	w.sync(there)
	return nil
}

// work lets a worker run until it has ended. When ctx ends, ending it is left to the engine.
func (m *step) work(ctx context.Context, s *tasks.Scope) error {
	if err := m.gate(s, "start a worker"); err != nil {
		return err
	}
	worker := m.world.newWorker(s.TaskID(), m.k.Worker, m.k.Pace)
	s.Attach(worker)
	m.world.reached("worker", s.TaskID(), m.k.Name)
	if m.k.Leaves {
		return nil
	}
	select {
	case <-worker.Gone():
	case <-m.cancelled(ctx):
		return context.Cause(ctx)
	}
	if worker.killed() {
		return errors.New("the worker was ended by a signal")
	}
	return nil
}

func (m *step) slice(ctx context.Context, s *tasks.Scope, effect string, n int) error {
	w := m.world
	w.reached("slice", s.TaskID(), m.k.Name)
	if m.k.Pace > 0 && m.k.Worker == "" {
		select {
		case <-time.After(m.k.Pace):
		case <-m.cancelled(ctx):
			return context.Cause(ctx)
		}
	}
	if err := m.failure(effect, n); err != nil {
		return err
	}
	if m.k.Slices > 1 && !m.k.Verify {
		if err := m.gate(s, fmt.Sprintf("write slice %d", n)); err != nil {
			return err
		}
		part := m.part(effect, n)
		w.write(change{{part, true}})
		if err := m.gate(s, fmt.Sprintf("sync slice %d", n)); err != nil {
			return err
		}
		w.sync(part)
	}
	s.Progress(int64(n), int64(m.k.Slices))
	if m.k.Slices > 1 && !m.k.IgnoresStop {
		return s.Checkpoint(n)
	}
	return nil
}

func (m *step) part(effect string, n int) string { return fmt.Sprintf("%s/slice-%d", effect, n) }

// failure is the error of slice n, if the knobs want one now.
func (m *step) failure(effect string, n int) error {
	if m.k.FailAt != n {
		return nil
	}
	if tries := m.world.try(effect); m.k.FailTimes > 0 && tries > m.k.FailTimes {
		return nil
	}
	failure := code.Errorf(code.VolumeCopy, "slice %d fails, as a knob says", n)
	if m.k.Permanent {
		return tasks.Permanent(failure, effect)
	}
	return failure
}

// cancelled is closed when the step should end; never if it ignores that.
func (m *step) cancelled(ctx context.Context) <-chan struct{} {
	if m.k.IgnoresStop {
		return nil
	}
	return ctx.Done()
}

// check says that the effect is whole: there, synced, and all slices checkpointed. One that takes time leaves no other sign
// and is done again.
func (m *step) check(_ context.Context, s *tasks.Scope) (bool, error) {
	effect, err := m.effect(s)
	if err != nil {
		return false, err
	}
	if m.k.DecidedBy != "" {
		state, _ := m.world.job(effect)
		return state == jobFinished, nil
	}
	there := effect
	if m.k.Deletes {
		there = trash + effect
	}
	if m.k.Slices == 1 {
		return m.k.Pace == 0 && m.k.Worker == "" && m.k.FailAt == 0 && m.world.synced(there), nil
	}
	var last int
	if _, err := s.LastCheckpoint(&last); err != nil {
		return false, err
	}
	return m.world.synced(there) && last == m.k.Slices, nil
}

func (m *step) undo(_ context.Context, s *tasks.Scope) error {
	effect, err := m.effect(s)
	if err != nil {
		return err
	}
	w := m.world
	w.happened("undo " + effect)
	w.reached("undo", s.TaskID(), m.k.Name)
	if tries := w.try("undo " + effect); tries <= m.k.UndoFails {
		return code.Errorf(code.Storage, "%s cannot be removed, as a knob says", effect)
	}
	there, what, back := effect, "remove", change{{effect, false}}
	switch {
	case m.k.Deletes:
		there, what = trash+effect, "rename back"
		back = change{{there, false}, {Thing(m.k.Name), true}}
	case m.k.Trash:
		what = "move to the trash"
		back = append(back, thing{trash + effect, true})
	}
	names := []string{there}
	if m.k.Remainder == "" {
		for n := 1; n <= m.k.Slices && m.k.Slices > 1; n++ {
			names = append(names, m.part(effect, n))
			back = append(back, thing{m.part(effect, n), false})
		}
	}
	if w.has(there) {
		if err := m.gate(s, what); err != nil {
			return err
		}
		w.write(back)
	}
	if err := m.gate(s, "sync"); err != nil {
		return err
	}
	w.sync(names...)
	w.forgetJob(effect)
	return nil
}
