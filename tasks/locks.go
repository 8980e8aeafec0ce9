package tasks

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// lockTable is the scheduler: it gives tasks their locks and a slot of their class, all at once or not at all, so that no two
// tasks ever wait for each other. It is derived from live tasks: whoever leaves it leaves no lock behind.
//
// Each key has a queue of the claims that hold it or wait for it, in the order in which they came. A claim has its locks when
// nothing before it, in any of its queues, is in its way; so two tasks that use the same image run in the order of their
// submits, and an exclusive lock is not starved by shared ones that come later. A claim that has its locks waits for a slot
// of its class, again in the order of arrival, and keeps its place in the queues meanwhile.
//
// The cost of a claim depends on the number of its keys and on how many claims it lets go on, not on how many wait.
type lockTable struct {
	mu       sync.Mutex // never held while anything blocks
	last     uint64
	keys     map[string]*keyQueue
	classes  map[Class]*classQueue
	waiting  int // claims that have not been granted, and places that are reserved
	reserved int
}

// claim is what one task holds or waits for.
type claim struct {
	task    string
	class   Class
	locks   []Lock
	seq     uint64 // order of arrival
	blocked int    // keys at which something is in the way
	state   claimState
	slot    bool          // counts against its class
	counted bool          // in lockTable.waiting
	granted chan struct{} // closed when all is held; a new one after each yield
}

type claimState int

const (
	claimBlocked claimState = iota // something is in the way at a key
	claimReady                     // has its locks, waits for a slot
	claimGranted
	claimLeft
)

// keyQueue is who holds or waits for one key. The first open of them have it: one exclusive, or all shared ones up to the first
// exclusive one.
type keyQueue struct {
	places    []place
	exclusive int // that want it exclusively
	open      int
}

type place struct {
	*claim
	exclusive bool
}

type classQueue struct {
	limit int // 0 = none
	used  int
	ready []*claim // by seq
}

func newLockTable(limits map[Class]int) *lockTable {
	lt := &lockTable{keys: map[string]*keyQueue{}, classes: map[Class]*classQueue{}}
	for _, class := range Classes {
		lt.classes[class] = &classQueue{limit: limits[class]}
	}
	return lt
}

// enter puts the task in the queue. The claim's granted channel is closed when it holds all. A place that was reserved for
// it is used up.
func (lt *lockTable) enter(task string, class Class, locks []Lock, reserved bool) *claim {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if reserved {
		lt.reserved--
		lt.waiting--
	}
	c := lt.join(task, class, locks)
	c.counted = true
	lt.waiting++
	if c.blocked == 0 {
		lt.makeReady(c)
	}
	return c
}

// resume gives a task after a restart what it held before, whatever the limits are now. One that was paused has no slot.
func (lt *lockTable) resume(task string, class Class, locks []Lock, paused bool) *claim {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	c := lt.join(task, class, locks)
	lt.grant(c, !paused)
	return c
}

// try takes all locks at once, without a slot, or answers nil and the tasks that hold or wait for something in the way.
func (lt *lockTable) try(task string, class Class, locks []Lock) (*claim, []string) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	var inTheWay []string
	for _, l := range ordered(locks) {
		if q := lt.keys[l.Key]; q != nil {
			inTheWay = append(inTheWay, q.inTheWay(nil, l.Exclusive, maxBehind)...)
		}
	}
	if len(inTheWay) > 0 {
		return nil, inTheWay
	}
	c := lt.join(task, class, locks)
	lt.grant(c, false)
	return c, nil
}

// reserve takes a place in the queue for a task that is about to enter; false when limit tasks wait already and it would
// have to wait too. 0 = no limit.
func (lt *lockTable) reserve(limit int, class Class, locks []Lock) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if limit > 0 && lt.waiting >= limit && !lt.free(class, locks) {
		return false
	}
	lt.reserved++
	lt.waiting++
	return true
}

// giveBack gives back a reserved place that was not used.
func (lt *lockTable) giveBack() {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.reserved--
	lt.waiting--
}

// free says whether a claim would be granted at once. The caller holds mu.
func (lt *lockTable) free(class Class, locks []Lock) bool {
	for _, l := range locks {
		if q := lt.keys[l.Key]; q != nil && (l.Exclusive || q.exclusive > 0) {
			return false
		}
	}
	q := lt.classes[class]
	return len(q.ready) == 0 && q.slotFree()
}

// leave gives up everything the claim holds or waits for.
func (lt *lockTable) leave(c *claim) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if c.state == claimLeft {
		return
	}
	lt.dropSlot(c)
	lt.uncount(c)
	c.state = claimLeft
	var freed []place
	for _, l := range c.locks {
		q := lt.keys[l.Key]
		freed = append(freed, q.remove(c)...)
		if len(q.places) == 0 {
			delete(lt.keys, l.Key)
		}
	}
	slices.SortFunc(freed, func(a, b place) int { return cmp.Compare(a.seq, b.seq) }) // slots go by arrival, not by key
	for _, f := range freed {
		if f.blocked--; f.blocked == 0 && f.state == claimBlocked {
			lt.makeReady(f.claim)
		}
	}
	lt.serve(lt.classes[c.class])
}

// yield gives up the slot and keeps the locks: the task is paused.
func (lt *lockTable) yield(c *claim) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.dropSlot(c)
	lt.serve(lt.classes[c.class])
}

// retake asks for a slot again; the channel is closed when the claim has it. Its place is that of its arrival.
func (lt *lockTable) retake(c *claim) <-chan struct{} {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if !c.slot && c.state == claimGranted {
		c.granted = make(chan struct{})
		lt.makeReady(c)
	}
	return c.granted
}

// join makes a claim and puts it at the end of its queues. The caller holds mu.
func (lt *lockTable) join(task string, class Class, locks []Lock) *claim {
	lt.last++
	c := &claim{task: task, class: class, locks: ordered(locks), seq: lt.last, granted: make(chan struct{})}
	for _, l := range c.locks {
		q := lt.keys[l.Key]
		if q == nil {
			q = &keyQueue{}
			lt.keys[l.Key] = q
		}
		if !q.add(c, l.Exclusive) {
			c.blocked++
		}
	}
	return c
}

// makeReady lets a claim that has its locks wait for a slot. The caller holds mu.
func (lt *lockTable) makeReady(c *claim) {
	c.state = claimReady
	q := lt.classes[c.class]
	at, _ := slices.BinarySearchFunc(q.ready, c, func(a, b *claim) int { return cmp.Compare(a.seq, b.seq) })
	q.ready = slices.Insert(q.ready, at, c)
	lt.serve(q)
}

// serve gives free slots to those that wait for them. The caller holds mu.
func (lt *lockTable) serve(q *classQueue) {
	for len(q.ready) > 0 && q.slotFree() {
		c := q.ready[0]
		q.ready = slices.Delete(q.ready, 0, 1)
		lt.grant(c, true)
	}
}

// grant gives the claim all it wants. The caller holds mu.
func (lt *lockTable) grant(c *claim, slot bool) {
	lt.uncount(c)
	c.state, c.slot = claimGranted, slot
	if slot {
		lt.classes[c.class].used++
	}
	close(c.granted)
}

func (lt *lockTable) uncount(c *claim) {
	if c.counted {
		c.counted = false
		lt.waiting--
	}
}

// dropSlot takes the claim's slot, or its place among those that wait for one. The caller holds mu.
func (lt *lockTable) dropSlot(c *claim) {
	q := lt.classes[c.class]
	switch {
	case c.state == claimReady:
		q.ready = slices.DeleteFunc(q.ready, func(r *claim) bool { return r == c })
		c.state = claimGranted // of one that was paused; any other is about to leave
	case c.slot:
		q.used--
		c.slot = false
	}
}

func (q *classQueue) slotFree() bool { return q.limit == 0 || q.used < q.limit }

// add puts a claim at the end and says whether it has the key.
func (q *keyQueue) add(c *claim, exclusive bool) bool {
	has := q.exclusive == 0 && (!exclusive || len(q.places) == 0)
	q.places = append(q.places, place{c, exclusive})
	if exclusive {
		q.exclusive++
	}
	if has {
		q.open++
	}
	return has
}

// remove takes a claim out and returns those that have the key from now on.
func (q *keyQueue) remove(c *claim) []place {
	i := slices.IndexFunc(q.places, func(p place) bool { return p.claim == c })
	if q.places[i].exclusive {
		q.exclusive--
	}
	q.places = slices.Delete(q.places, i, i+1)
	if i < q.open {
		q.open--
	}
	first := q.open
	for q.open < len(q.places) && (q.open == 0 || !q.places[q.open].exclusive && !q.places[0].exclusive) {
		q.open++
	}
	return q.places[first:q.open]
}

// inTheWay lists the tasks before c that keep it from having the key, at most so many, those that have it first. A claim that
// is not in the queue comes behind all.
func (q *keyQueue) inTheWay(c *claim, exclusive bool, most int) []string {
	var out []string
	for _, p := range q.places {
		if p.claim == c || len(out) == most {
			break
		}
		if exclusive || p.exclusive {
			out = append(out, p.task)
		}
	}
	return out
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

// hasLocks says whether the claim waits for no lock any more.
func (lt *lockTable) hasLocks(c *claim) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return c.state != claimBlocked
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
	return byClass, lt.waiting - lt.reserved
}

// setLimit changes how many tasks of a class may run at a time; those that run are left alone. 0 = any number.
func (lt *lockTable) setLimit(class Class, limit int) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	q := lt.classes[class]
	q.limit = limit
	lt.serve(q)
}
