// Package mock is a verb with a knob for every way a step can behave, and a world in memory that it changes. It serves the
// tests of the engine and of everything above it; the agent registers it only when its configuration says so.
package mock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
)

// Knobs says how one step behaves. The zero value is a step that has its effect at once and can be undone.
type Knobs struct {
	Name   string        `json:"name"`
	Slices int           `json:"slices,omitempty"` // parts of the work, each with a checkpoint
	Pace   time.Duration `json:"pace,omitempty"`   // how long each slice takes

	FailAt    int  `json:"failAt,omitempty"`    // the nth slice fails, counted from 1
	FailTimes int  `json:"failTimes,omitempty"` // so many times, then it works; 0 = always
	UndoFails int  `json:"undoFails,omitempty"` // so many times, then it works
	Panics    bool `json:"panics,omitempty"`

	IgnoresStop bool   `json:"ignoresStop,omitempty"` // goes on to its end whatever ctx says
	Blocks      bool   `json:"blocks,omitempty"`      // waits for World.Release, whatever ctx says
	Worker      string `json:"worker,omitempty"`      // Polite, Stubborn, Immortal: works in something outside the agent

	PointOfNoReturn bool   `json:"pointOfNoReturn,omitempty"`
	Refused         bool   `json:"refused,omitempty"`   // its failure past the point of no return is a refusal
	Permanent       bool   `json:"permanent,omitempty"` // its failure past the point of no return is for ever
	DecidedBy       string `json:"decidedBy,omitempty"`
	Finished        bool   `json:"finished,omitempty"` // what the deciding program answers to a cancel: it had finished
	Remainder       string `json:"remainder,omitempty"`
	Verify          bool   `json:"verify,omitempty"`
}

// The kinds of workers.
const (
	Polite   = "polite"   // ends at SIGTERM
	Stubborn = "stubborn" // ends at SIGKILL
	Immortal = "immortal" // ends at World.Release, as a process in an uninterruptible sleep does
)

// Params are the parameters of the verb.
type Params struct {
	Steps []Knobs  `json:"steps"`
	Locks []string `json:"locks" default:"[]" doc:"keys that it holds exclusively"`
	Tag   string   `json:"tag" default:"local"`
	// Reclaims: the end of the task leaves something to another task.
	Reclaims param.Bool `json:"reclaims" default:"false"`
}

// World is what the mock verb changes: a set of effects, each named task/step, and what happened in order.
type World struct {
	mu       sync.Mutex
	effects  map[string]bool
	used     map[string]bool // results that somebody uses
	events   []string
	tries    map[string]int
	workers  int
	released chan struct{}

	// Reached is called, if set, when a step reaches a place worth waiting for: "start", "slice", "block", "undo".
	Reached func(place, task, step string)
}

// NewWorld returns an empty world.
func NewWorld() *World {
	return &World{effects: map[string]bool{}, used: map[string]bool{}, tries: map[string]int{}, released: make(chan struct{})}
}

// Release lets everything that blocks, and every immortal worker, end.
func (w *World) Release() { close(w.released) }

// Use marks the result of a task as used, so that it cannot be reverted.
func (w *World) Use(task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used[task] = true
}

// Forget removes the effects of a task, as an administrator would.
func (w *World) Forget(task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.effects {
		if strings.HasPrefix(e, task+"/") {
			delete(w.effects, e)
		}
	}
}

// Effects lists what is there, sorted.
func (w *World) Effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []string{}
	for e, there := range w.effects {
		if there {
			out = append(out, e)
		}
	}
	slices.Sort(out)
	return out
}

// Events lists what happened: "do task/step", "undo task/step".
func (w *World) Events() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// Workers is how many workers are alive.
func (w *World) Workers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.workers
}

func (w *World) set(effect string, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects[effect] = there
}

func (w *World) has(effect string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.effects[effect]
}

func (w *World) happened(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, what)
}

// try counts how often something was tried.
func (w *World) try(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries[what]++
	return w.tries[what]
}

func (w *World) reached(place, task, step string) {
	if w.Reached != nil {
		w.Reached(place, task, step)
	}
}

// Verbs returns the mock verb over a world, and the one that its Reclaims knob submits.
func Verbs(w *World) []*tasks.Verb {
	contract := tasks.Contract{
		CancellableUntil: "finished", Undo: "its effects are gone", Revert: "its effects are gone", Bound: 10 * time.Second,
	}
	return []*tasks.Verb{
		{
			Name: "Mock.run", Word: "copyImage", Params: Params{}, Ours: true, Forward: true, Class: tasks.ClassCopy, Contract: contract,
			Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) { return plan(w, raw) },
		},
		{
			Name: "Mock.reclaim", Params: param.None{}, Ours: true, Class: tasks.ClassLight,
			Contract: tasks.Contract{CancellableUntil: "started", PointOfNoReturn: "reclaim", Bound: 10 * time.Second},
			Plan: func(string, json.RawMessage) (*tasks.Plan, error) {
				return &tasks.Plan{Tag: tasks.TagLocal, Steps: []tasks.Step{step(w, Knobs{Name: "reclaim", PointOfNoReturn: true})}}, nil
			},
		},
	}
}

func plan(w *World, raw json.RawMessage) (*tasks.Plan, error) {
	var p Params
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	out := &tasks.Plan{
		Tag:         p.Tag,
		Fingerprint: func(context.Context, *tasks.Scope) (any, error) { return "as finished", nil },
		Unused: func(_ context.Context, s *tasks.Scope, _ json.RawMessage) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.used[s.TaskID()] {
				return code.Errorf(code.TaskState, "the result is in use")
			}
			return nil
		},
	}
	if p.Reclaims {
		out.Deferred = func(_ *tasks.Scope, end tasks.End) *tasks.Submission {
			if end == tasks.EndReverted {
				return nil
			}
			return &tasks.Submission{Verb: "Mock.reclaim"}
		}
	}
	for _, key := range p.Locks {
		out.Locks = append(out.Locks, tasks.Lock{Key: key, Exclusive: true})
	}
	for i, k := range p.Steps {
		if k.Name == "" {
			k.Name = fmt.Sprintf("step-%d", i+1)
		}
		out.Steps = append(out.Steps, step(w, k))
	}
	return out, nil
}

// step makes a step of its knobs.
func step(w *World, k Knobs) tasks.Step {
	k.Slices = max(k.Slices, 1)
	m := &mockStep{w, k}
	s := tasks.Step{
		Name: k.Name, Undone: k.Name + " taken back", Plan: m.plan, Do: m.do, Check: m.check, Undo: m.undo,
		Slices: k.Slices > 1, Verify: k.Verify, PointOfNoReturn: k.PointOfNoReturn, DecidedBy: k.DecidedBy,
	}
	if k.Refused {
		s.Refused = func(error) bool { return true }
	}
	if k.Remainder != "" {
		s.Remainder = func(*tasks.Scope) string { return k.Remainder }
	}
	return s
}

type mockStep struct {
	world *World
	k     Knobs
}

// stepPlan is what is recorded before the effect.
type stepPlan struct {
	Effect string `json:"effect"`
}

func (m *mockStep) plan(_ context.Context, s *tasks.Scope) (any, error) {
	return stepPlan{m.effect(s)}, nil
}

func (m *mockStep) effect(s *tasks.Scope) string { return s.TaskID() + "/" + m.k.Name }

func (m *mockStep) do(ctx context.Context, s *tasks.Scope) error {
	var p stepPlan
	if err := s.Plan(&p); err != nil {
		return err
	}
	w := m.world
	w.happened("do " + p.Effect)
	w.reached("start", s.TaskID(), m.k.Name)
	if m.k.Panics {
		panic("a knob says so")
	}
	if !m.k.Verify {
		w.set(p.Effect, true) // before the work: a step that ends half-way has left something
	}
	if m.k.Blocks {
		w.reached("block", s.TaskID(), m.k.Name)
		<-w.released
	}
	if m.k.Worker != "" {
		worker := w.newWorker(m.k.Worker)
		s.Attach(worker)
		w.reached("worker", s.TaskID(), m.k.Name)
		<-worker.Gone()
		if worker.killed() {
			return errors.New("the worker was ended by a signal")
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
		if err := m.slice(ctx, s, n); err != nil {
			return err
		}
	}
	return nil
}

func (m *mockStep) slice(ctx context.Context, s *tasks.Scope, n int) error {
	m.world.reached("slice", s.TaskID(), m.k.Name)
	if m.k.Pace > 0 {
		select {
		case <-time.After(m.k.Pace):
		case <-m.cancelled(ctx):
			if m.k.DecidedBy == "" {
				return context.Cause(ctx)
			}
			if m.k.Finished {
				return nil
			}
			m.world.set(m.effect(s), false)
			return fmt.Errorf("%s has cancelled it", m.k.DecidedBy)
		}
	}
	if m.k.FailAt == n {
		if tries := m.world.try(m.effect(s)); m.k.FailTimes == 0 || tries <= m.k.FailTimes {
			if m.k.Refused {
				m.world.set(m.effect(s), false)
			}
			failure := code.Errorf(code.VolumeCopy, "slice %d fails, as a knob says", n)
			if m.k.Permanent {
				return tasks.Permanent(failure, m.effect(s))
			}
			return failure
		}
	}
	s.Progress(int64(n), int64(m.k.Slices))
	if m.k.Slices > 1 && !m.k.IgnoresStop {
		return s.Checkpoint(n)
	}
	return nil
}

// cancelled is closed when the step should end; never if it ignores that.
func (m *mockStep) cancelled(ctx context.Context) <-chan struct{} {
	if m.k.IgnoresStop {
		return nil
	}
	return ctx.Done()
}

// check says that the effect is whole: there, and all slices are checkpointed (one slice needs none and is done again).
func (m *mockStep) check(_ context.Context, s *tasks.Scope) (bool, error) {
	var last int
	if _, err := s.LastCheckpoint(&last); err != nil {
		return false, err
	}
	return m.world.has(m.effect(s)) && m.k.Slices > 1 && last == m.k.Slices, nil
}

func (m *mockStep) undo(_ context.Context, s *tasks.Scope) error {
	var p stepPlan
	if err := s.Plan(&p); err != nil {
		return err
	}
	m.world.happened("undo " + p.Effect)
	m.world.reached("undo", s.TaskID(), m.k.Name)
	if tries := m.world.try("undo " + p.Effect); tries <= m.k.UndoFails {
		return code.Errorf(code.Storage, "%s cannot be removed, as a knob says", p.Effect)
	}
	m.world.set(p.Effect, false)
	return nil
}
