package tasks

import (
	"context"

	"vdsm-agent/internal/code"
)

// Wait returns the task as soon as until says so, or with 851 when ctx ends first. A task that is cleared meanwhile
// answers 401.
func (e *Engine) Wait(ctx context.Context, id string, until func(Summary) bool) (Summary, error) {
	t, err := e.find(id)
	if err != nil {
		return Summary{}, err
	}
	for {
		turn := t.turn()
		v := t.summary()
		if v.State == Cleared {
			return v, code.Errorf(code.UnknownTask, "task %s was cleared", id)
		}
		if until(v) {
			return v, nil
		}
		select {
		case <-turn:
		case <-e.closing:
			return v, code.Errorf(code.ShuttingDown, "the agent is shutting down; the task goes on when it is back")
		case <-ctx.Done():
			return v, code.Errorf(code.ResourceTimeout, "the task is still %s: %s", v.State, v.Message)
		}
	}
}

// Ended is the usual condition to Wait for.
func Ended(v Summary) bool { return v.State.Final() }
