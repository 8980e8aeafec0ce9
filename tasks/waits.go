package tasks

import (
	"fmt"
	"slices"
)

// waiting is what a task waits for before it can begin.
type waiting struct {
	locks []lockWait // locks that others have, or will have before it
	slot  *slotWait  // it has its locks and waits for a slot of its class
}

// lockWait is one lock that a task waits for.
type lockWait struct {
	Lock
	behind []string // tasks in the way: those that have it, then those that come before
}

// slotWait is a slot that a task waits for.
type slotWait struct {
	class              Class
	limit, used, ahead int
}

// maxBehind bounds what is shown of a long queue.
const maxBehind = 16

// waits says what the claim waits for, and of each lock at most so many tasks that are in the way; nil once it is granted.
func (lt *lockTable) waits(c *claim, most int) *waiting {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	switch c.state {
	case claimReady:
		q := lt.classes[c.class]
		return &waiting{slot: &slotWait{c.class, q.limit, q.used, slices.Index(q.ready, c)}}
	case claimBlocked:
	default:
		return nil
	}
	w := &waiting{}
	for _, l := range c.locks {
		if behind := lt.keys[l.Key].inTheWay(c, l.Exclusive, most); len(behind) > 0 {
			w.locks = append(w.locks, lockWait{l, behind})
		}
	}
	return w
}

// sentences says in words what is waited for.
func (w *waiting) sentences() []string {
	var out []string
	for _, l := range w.locks {
		mode := "shared"
		if l.Exclusive {
			mode = "exclusive"
		}
		out = append(out, fmt.Sprintf("%s (%s), which task %s has", l.Key, mode, l.behind[0]))
	}
	if s := w.slot; s != nil {
		out = append(out, fmt.Sprintf("a slot of class %s (%d of %d are used, %d tasks come before)", s.class, s.used, s.limit, s.ahead))
	}
	return out
}

// behind lists the tasks that have, or will have before, a lock that is waited for.
func (w *waiting) behind() []string {
	var out []string
	for _, l := range w.locks {
		for _, id := range l.behind {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// ClassLoad is how busy a class is.
type ClassLoad struct {
	Limit   int // how many may run at a time, 0 = any number
	Running int // that have a slot
	Ready   int // that have their locks and wait for a slot
}

// load says how busy the classes are, and how many tasks wait in all.
func (lt *lockTable) load() (byClass map[Class]ClassLoad, waiting int) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	byClass = map[Class]ClassLoad{}
	for class, q := range lt.classes {
		byClass[class] = ClassLoad{q.limit, q.used, len(q.ready)}
	}
	return byClass, lt.waiting
}
