package tasks

import "vdsm-agent/internal/code"

// Hold takes locks, by the same rules as a task, for something that is answered at once: what it does meanwhile no task can see
// half done. It waits for nobody. Errors: 851 naming a task that holds one of the locks, or waits for it.
func (e *Engine) Hold(what string, locks []Lock) (release func(), err error) {
	c, before := e.locks.try(what, ClassLight, locks)
	if c == nil {
		return nil, code.Errorf(code.ResourceTimeout, "%s cannot be done now: task %s works with the same things, or waits for them; try again when it has ended, or stop it",
			what, before[0])
	}
	return func() { e.locks.leave(c) }, nil
}
