package tasks

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"vdsm-agent/internal/code"

	"github.com/rs/zerolog"
)

// Scope is what a step sees of its task. It is valid during the call it was given to.
type Scope struct {
	t    *task
	step int     // index; -1 outside of steps
	rec  *record // of a task that has ended, or is about to; nil = the task's own
}

func (s *Scope) record() *record {
	if s.rec != nil {
		return s.rec
	}
	return s.t.record()
}

// TaskID is the task's id.
func (s *Scope) TaskID() string { return s.t.id }

// Flow is the correlation id that the task was submitted with, "" = none.
func (s *Scope) Flow() string { return s.record().Flow }

// Who asked for the task.
func (s *Scope) Who() string { return s.record().Who }

// Step is the name of the step that is at work; "" outside of steps.
func (s *Scope) Step() string {
	if s.step < 0 {
		return ""
	}
	return s.t.plan().Steps[s.step].Name
}

// Log is the task's logger: every line carries task, verb and flow.
func (s *Scope) Log() *zerolog.Logger { return s.t.log() }

// Plan reads this step's recorded plan into v.
func (s *Scope) Plan(v any) error {
	return s.read(s.record().Steps[s.step].Plan, v)
}

// PlanOf reads the plan of the step with that name; false if it was not started yet.
func (s *Scope) PlanOf(name string, v any) (bool, error) {
	steps := s.record().Steps
	i := slices.IndexFunc(steps, func(r stepRecord) bool { return r.Name == name })
	if i < 0 || steps[i].State == StepWaiting {
		return false, nil
	}
	return true, s.read(steps[i].Plan, v)
}

// Started says whether the step with that name was ever started, whatever became of it.
func (s *Scope) Started(name string) bool {
	return slices.ContainsFunc(s.record().Steps, func(r stepRecord) bool { return r.Name == name && r.State != StepWaiting })
}

// Undone says whether the step with that name was started and is taken back. An undo that failed is tried again when those of the
// steps before it are done, so what it finds need not be the task's own.
func (s *Scope) Undone(name string) bool {
	return slices.ContainsFunc(s.record().Steps, func(r stepRecord) bool { return r.Name == name && r.State == StepUndone })
}

// State is the task's state as it is recorded.
func (s *Scope) State() State { return s.record().State }

func (s *Scope) read(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		return code.Errorf(code.General, "step %q has no plan", s.Step())
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return code.Errorf(code.General, "the recorded plan of step %q cannot be read: %w", s.Step(), err)
	}
	return nil
}

// Checkpoint records how far the step has come; it returns after that is on stable storage. What it covers must have been
// synced before. The error errStopped or errShutdown ends the step.
func (s *Scope) Checkpoint(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return code.Errorf(code.General, "the checkpoint cannot be written as JSON: %w", err)
	}
	return s.t.persist("", func(r *record) error {
		if r.State == Aborting {
			return errStopped
		}
		r.Steps[s.step].Checkpoint = raw
		r.Steps[s.step].CheckpointAt = time.Now().UTC()
		return nil
	})
}

// Decide records a checkpoint, and in the same change that the task can no longer be stopped: what the step does next is its point of no return.
// A stop that is recorded already wins, with errStopped. From then on the task rolls forward, as behind any point of no return.
func (s *Scope) Decide(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return code.Errorf(code.General, "the checkpoint cannot be written as JSON: %w", err)
	}
	return s.t.persist(s.Step()+": point of no return", func(r *record) error {
		if r.State != Running && r.State != Committing {
			return errStopped
		}
		r.State = Committing
		r.Steps[s.step].Checkpoint = raw
		r.Steps[s.step].CheckpointAt = time.Now().UTC()
		return nil
	})
}

// LastCheckpoint reads what Checkpoint recorded last; false if nothing.
func (s *Scope) LastCheckpoint(v any) (bool, error) {
	raw := s.record().Steps[s.step].Checkpoint
	if len(raw) == 0 {
		return false, nil
	}
	return true, s.read(raw, v)
}

// CheckpointOf reads what the step with that name recorded last; false if nothing.
func (s *Scope) CheckpointOf(name string, v any) (bool, error) {
	for _, r := range s.record().Steps {
		if r.Name == name && len(r.Checkpoint) > 0 {
			return true, s.read(r.Checkpoint, v)
		}
	}
	return false, nil
}

// Progress tells how many bytes of how many are done. It is cheap and may be called at any rate.
func (s *Scope) Progress(done, total int64) {
	tell, more := s.t.progress.set(done, total)
	if more > 0 {
		s.t.engine.observer.Copied(s.t.verb.Name, more)
	}
	if tell {
		s.t.engine.events.publish(Progressed, s.t)
	}
}

// Note says in the task's message what the step waits for; "" = nothing any more. It ends with the step.
func (s *Scope) Note(text string) { s.t.noteThat(text) }

// Limit is how many bytes per second the task may move; 0 = any number. It may change from one slice to the next.
func (s *Scope) Limit() int64 { return s.record().Limit }

// Insist is the context of what a step goes on asking of another program after a stop, until that program has answered: it ends only
// when the agent does.
func (s *Scope) Insist() context.Context { return s.t.engine.ctx }

// Attach hands a worker to the engine, which ends it when the task is stopped and lets the task become final only when it
// is gone. If the task was stopped already the worker is ended at once.
func (s *Scope) Attach(w Worker) { s.t.attach(w) }
