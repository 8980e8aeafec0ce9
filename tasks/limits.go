package tasks

import (
	"slices"

	"vdsm-agent/internal/code"
)

// Queue is how busy the scheduler is.
type Queue struct {
	Classes map[Class]ClassLoad
	Waiting int    // tasks that wait for locks or for a slot
	Limit   int    // of them; 0 = none
	Drained *Drain // nil = new tasks are taken
}

// Queue says how busy the scheduler is now.
func (e *Engine) Queue() Queue {
	byClass, waiting := e.locks.load()
	return Queue{Classes: byClass, Waiting: waiting, Limit: int(e.queue.Load()), Drained: e.gate.drain()}
}

// SetLimits changes, until the agent ends, how many tasks of a class may run at a time, and if queue is not nil, how many may
// wait; 0 = any number. Tasks that run or wait already are left alone. Errors: 1000 for a class that does not exist or a
// negative number, and then nothing is changed.
func (e *Engine) SetLimits(running map[Class]int, queue *int) error {
	for class, limit := range running {
		if !slices.Contains(Classes, class) || limit < 0 {
			return code.Errorf(code.InvalidParameter, "%d is no limit for class %q; classes are %v, a limit is 0 (none) or more", limit, class, Classes)
		}
	}
	if queue != nil {
		if *queue < 0 {
			return code.Errorf(code.InvalidParameter, "%d is no limit for the queue; it is 0 (none) or more", *queue)
		}
		e.queue.Store(int64(*queue))
	}
	for class, limit := range running {
		e.locks.setLimit(class, limit)
	}
	return nil
}
