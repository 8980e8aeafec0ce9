package tasks

import (
	"cmp"
	"slices"
	"sync"
)

// lockTable gives tasks their locks and a slot of their class, all at once or not at all, so that no two tasks ever wait
// for each other. It is derived from live tasks: whoever leaves it leaves no lock behind.
//
// Waiters are served in the order they came. One that must wait reserves its keys, so an exclusive lock is not starved by
// shared ones that come later; one that waits only for a slot reserves nothing.
type lockTable struct {
	mu      sync.Mutex // never held while anything blocks
	limits  map[Class]int
	holders []*claim
	waiters []*claim
}

// claim is what one task holds or waits for.
type claim struct {
	task    string
	class   Class
	locks   []Lock
	granted chan struct{} // closed when all is held
}

func newLockTable(limits map[Class]int) *lockTable { return &lockTable{limits: limits} }

// enter puts the task in the queue. The claim's granted channel is closed when it holds all.
func (lt *lockTable) enter(task string, class Class, locks []Lock) *claim {
	c := &claim{task: task, class: class, locks: ordered(locks), granted: make(chan struct{})}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.waiters = append(lt.waiters, c)
	lt.serve()
	return c
}

// try takes all at once, or answers nil and the tasks that hold or wait for something in the way.
func (lt *lockTable) try(task string, class Class, locks []Lock) (*claim, []string) {
	c := &claim{task: task, class: class, locks: ordered(locks), granted: make(chan struct{})}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if blockers := lt.blockers(c, lt.waiters); len(blockers) > 0 {
		return nil, blockers
	}
	lt.holders = append(lt.holders, c) // a revert does not wait for a slot
	close(c.granted)
	return c, nil
}

// leave gives up everything the claim holds or waits for.
func (lt *lockTable) leave(c *claim) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.holders = slices.DeleteFunc(lt.holders, func(h *claim) bool { return h == c })
	lt.waiters = slices.DeleteFunc(lt.waiters, func(w *claim) bool { return w == c })
	lt.serve()
}

// behind says which tasks the claim waits for; nil once it is granted. Waiting for a slot only is not listed.
func (lt *lockTable) behind(c *claim) []string {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	i := slices.Index(lt.waiters, c)
	if i < 0 {
		return nil
	}
	return lt.blockers(c, lt.waiters[:i])
}

// serve grants what can be granted. The caller holds mu.
func (lt *lockTable) serve() {
	var still []*claim
	for _, w := range lt.waiters {
		if len(lt.blockers(w, still)) > 0 || !lt.slotFree(w.class) {
			still = append(still, w)
			continue
		}
		lt.holders = append(lt.holders, w)
		close(w.granted)
	}
	lt.waiters = still
}

func (lt *lockTable) slotFree(class Class) bool {
	limit := lt.limits[class]
	if limit == 0 {
		return true
	}
	used := 0
	for _, h := range lt.holders {
		if h.class == class {
			used++
		}
	}
	return used < limit
}

// blockers lists the tasks whose claims are in the way of c: all holders, and those of earlier that wait for a lock
// themselves. The caller holds mu.
func (lt *lockTable) blockers(c *claim, earlier []*claim) []string {
	var out []string
	for _, other := range lt.holders {
		if conflicts(c.locks, other.locks) {
			out = append(out, other.task)
		}
	}
	for _, other := range earlier {
		if conflicts(c.locks, other.locks) {
			out = append(out, other.task)
		}
	}
	return out
}

func conflicts(a, b []Lock) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Key == y.Key && (x.Exclusive || y.Exclusive) {
				return true
			}
		}
	}
	return false
}

// ordered is the one global order of locks; a key that is asked for twice is taken once, exclusive if either is.
func ordered(locks []Lock) []Lock {
	out := slices.Clone(locks)
	slices.SortFunc(out, func(a, b Lock) int {
		if c := cmp.Compare(a.Key, b.Key); c != 0 || a.Exclusive == b.Exclusive {
			return c
		}
		if a.Exclusive {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(a, b Lock) bool { return a.Key == b.Key })
}
