package storageops

import (
	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// part is the checkpoint of a step that does the same to one thing after the other: S is the checkpoint of what is done to one.
type part[S any] struct {
	Item  int `json:"item"` // index of the one at work; those before it are done
	State *S  `json:"state,omitempty"`
}

// inOrder does n things one after the other, and goes on where the step's last checkpoint is. weigh says how much of the whole
// progress each is; nil = the progress is that of the one at work.
func inOrder[S any](s *tasks.Scope, n int, weigh func(i int) int64, do func(w work, i int, last *S) error) error {
	var last part[S]
	if _, err := s.LastCheckpoint(&last); err != nil {
		return err
	}
	w := partWork[S]{Scope: s}
	if weigh != nil {
		for i := range n {
			w.total += weigh(i)
		}
	}
	for i := range n {
		if w.item = i; weigh != nil {
			w.before, w.weight = w.before+w.weight, weigh(i)
		}
		if i < last.Item {
			continue
		}
		if i > last.Item {
			last.State = nil
		}
		if err := do(w, i, last.State); err != nil {
			return err
		}
	}
	return nil
}

// partWork adds to a checkpoint which thing it is about, and to its progress what comes before and after it.
type partWork[S any] struct {
	*tasks.Scope
	item                  int
	before, weight, total int64 // total 0 = its progress is that of the step
}

func (w partWork[S]) Checkpoint(state any) error {
	of, ok := state.(S)
	if !ok {
		return code.Errorf(code.InternalError, "a checkpoint is a %T", state)
	}
	return w.Scope.Checkpoint(part[S]{w.item, &of})
}

func (w partWork[S]) Progress(done, total int64) {
	switch {
	case w.total == 0:
		w.Scope.Progress(done, total)
	case total > 0:
		w.Scope.Progress(w.before+int64(float64(done)/float64(total)*float64(w.weight)), w.total)
	}
}
