package storageops

import (
	"context"

	"vdsm-agent/internal/proc"
	"vdsm-agent/tasks"
)

// stepEnv is what copies and qemu-img need of the step they run in: it is how their workers come under the task engine.
type stepEnv struct {
	*tasks.Scope
	workers *proc.Manager
}

func (st *Storage) env(s *tasks.Scope) stepEnv { return stepEnv{s, st.workers} }

// Start starts a worker for the step's task. From here on the engine ends it, and waits until it is gone.
func (e stepEnv) Start(ctx context.Context, spec proc.Spec) (*proc.Worker, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	spec.Task = e.TaskID()
	w, err := e.workers.Start(spec)
	if err == nil {
		e.Attach(w)
	}
	return w, err
}

// silentEnv is a stepEnv for a part of a step that is repeated as a whole: what it reports is not the step's.
type silentEnv struct{ stepEnv }

func (silentEnv) Checkpoint(any) error  { return nil }
func (silentEnv) Progress(int64, int64) {}
