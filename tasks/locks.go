package tasks

import (
	"cmp"
	"slices"
	"sync"
	"time"
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
	mu      sync.Mutex // never held while anything blocks
	last    uint64
	keys    map[string]*keyQueue
	classes map[Class]*classQueue
	waiting int            // claims that were never granted
	seats   map[*seat]bool // of tasks that are being recorded
}

// seat is a place in the queue that is kept for a task which is about to enter.
type seat struct {
	class Class
	locks []Lock
}

// claim is what one task holds or waits for.
type claim struct {
	task    string
	class   Class
	locks   []Lock
	seq     uint64    // order of arrival
	came    time.Time // in the queue
	ready   time.Time // has its locks since then; zero = not yet
	blocked int       // keys at which something is in the way
	state   claimState
	slot    bool          // counts against its class
	without bool          // needs no slot: a revert
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
	lt := &lockTable{keys: map[string]*keyQueue{}, classes: map[Class]*classQueue{}, seats: map[*seat]bool{}}
	for _, class := range Classes {
		lt.classes[class] = &classQueue{limit: limits[class]}
	}
	return lt
}

// enter puts the task in the queue. The claim's granted channel is closed when it holds all. The seat that was kept for it, if
// any, is used up. A revert waits for no slot.
func (lt *lockTable) enter(task string, class Class, locks []Lock, kept *seat, revert bool) *claim {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	delete(lt.seats, kept)
	c := lt.join(task, class, locks)
	c.counted, c.without = true, revert
	lt.waiting++
	if c.blocked == 0 {
		lt.makeReady(c)
		lt.serve(lt.classes[class])
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

// reserve keeps a seat in the queue for a task that is about to enter; nil when limit tasks wait already and it would have to
// wait too. 0 = no limit.
func (lt *lockTable) reserve(limit int, class Class, locks []Lock) *seat {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if limit > 0 && lt.waiting+len(lt.seats) >= limit && !lt.free(class, locks) {
		return nil
	}
	kept := &seat{class, locks}
	lt.seats[kept] = true
	return kept
}

// giveBack gives back a seat that was not used.
func (lt *lockTable) giveBack(kept *seat) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	delete(lt.seats, kept)
}

// free says whether a claim would be granted at once, even if all that have a seat come before it. The caller holds mu.
func (lt *lockTable) free(class Class, locks []Lock) bool {
	for _, l := range locks {
		if q := lt.keys[l.Key]; q != nil && (l.Exclusive || q.exclusive > 0) {
			return false
		}
	}
	seated := 0
	for kept := range lt.seats {
		if conflict(kept.locks, locks) {
			return false
		}
		if kept.class == class {
			seated++
		}
	}
	q := lt.classes[class]
	return len(q.ready) == 0 && (q.limit == 0 || q.used+seated < q.limit)
}

// conflict says whether two tasks with these locks cannot have them at the same time.
func conflict(a, b []Lock) bool {
	for _, x := range a {
		if slices.ContainsFunc(b, func(y Lock) bool { return x.Key == y.Key && (x.Exclusive || y.Exclusive) }) {
			return true
		}
	}
	return false
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
	classes := []Class{c.class}
	for _, f := range freed { // all of them before any gets a slot: the keys do not say who came first
		if f.blocked--; f.blocked == 0 && f.state == claimBlocked {
			lt.makeReady(f.claim)
			classes = append(classes, f.class)
		}
	}
	for _, class := range classes {
		lt.serve(lt.classes[class])
	}
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
		lt.serve(lt.classes[c.class])
	}
	return c.granted
}

// join makes a claim and puts it at the end of its queues. The caller holds mu.
func (lt *lockTable) join(task string, class Class, locks []Lock) *claim {
	lt.last++
	c := &claim{task: task, class: class, locks: ordered(locks), seq: lt.last, came: time.Now(), granted: make(chan struct{})}
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

// makeReady lets a claim that has its locks wait for a slot, if it needs one. The caller holds mu, and serves the class.
func (lt *lockTable) makeReady(c *claim) {
	c.ready = time.Now()
	if c.without {
		lt.grant(c, false)
		return
	}
	c.state = claimReady
	q := lt.classes[c.class]
	at, _ := slices.BinarySearchFunc(q.ready, c, func(a, b *claim) int { return cmp.Compare(a.seq, b.seq) })
	q.ready = slices.Insert(q.ready, at, c)
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

// setLimit changes how many tasks of a class may run at a time; those that run are left alone. 0 = any number.
func (lt *lockTable) setLimit(class Class, limit int) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	q := lt.classes[class]
	q.limit = limit
	lt.serve(q)
}

// hasSlot says whether the claim has been granted and counts against its class.
func (lt *lockTable) hasSlot(c *claim) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return c.state == claimGranted && c.slot
}
