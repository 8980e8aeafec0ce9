package tasks

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// queue is what the lock table is to be: the claims in the order in which they came, and nothing else.
type queue struct {
	limit  int // of the one class
	claims []*queued
}

// queued is one claim.
type queued struct {
	*claim
	granted, slot bool
}

func conflict(a, b []Lock) bool {
	return slices.ContainsFunc(a, func(x Lock) bool {
		return slices.ContainsFunc(b, func(y Lock) bool { return x.Key == y.Key && (x.Exclusive || y.Exclusive) })
	})
}

// serve grants what can be: a claim with which nothing before it conflicts has its locks, and slots go to those by arrival.
func (q *queue) serve() {
	used := 0
	for _, c := range q.claims {
		if c.slot {
			used++
		}
	}
	for i, c := range q.claims {
		blocked := slices.ContainsFunc(q.claims[:i], func(o *queued) bool { return conflict(o.locks, c.locks) })
		if !c.granted && !blocked && (q.limit == 0 || used < q.limit) {
			c.granted, c.slot = true, true
			used++
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestLockTable makes random claims and gives them back. Who is granted what must be as in a plain queue: no two that conflict
// (G12), in the order in which they came, so that none waits for ever, and never more than there are slots.
func TestLockTable(t *testing.T) {
	someLocks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Lock {
		return Lock{Key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), Exclusive: rapid.Bool().Draw(t, "exclusive")}
	}), 0, 3)
	for range 20 { // of -rapid.checks sequences
		rapid.Check(t, func(t *rapid.T) { lockSequence(t, someLocks) })
	}
}

// lockSequence is one sequence of claims.
func lockSequence(t *rapid.T, someLocks *rapid.Generator[[]Lock]) {
	q := &queue{limit: rapid.IntRange(0, 3).Draw(t, "limit")}
	lt := newLockTable(map[Class]int{ClassCopy: q.limit})
	n := 0
	name := func() string { n++; return fmt.Sprint(n) }
	t.Repeat(map[string]func(*rapid.T){
		"enter": func(t *rapid.T) {
			q.claims = append(q.claims, &queued{claim: lt.enter(name(), ClassCopy, someLocks.Draw(t, "locks"), false)})
		},
		"reserve": func(t *rapid.T) { q.reserve(t, lt, someLocks.Draw(t, "locks"), name()) },
		"try": func(t *rapid.T) {
			locks := someLocks.Draw(t, "locks")
			c, behind := lt.try(name(), ClassCopy, locks)
			free := !slices.ContainsFunc(q.claims, func(o *queued) bool { return conflict(o.locks, locks) })
			if (c != nil) != free || free != (len(behind) == 0) {
				t.Fatalf("a try for %v answers %v behind %v", locks, c, behind)
			}
			if c != nil {
				q.claims = append(q.claims, &queued{claim: c, granted: true})
			}
		},
		"leave": func(t *rapid.T) {
			if len(q.claims) == 0 {
				return
			}
			i := rapid.IntRange(0, len(q.claims)-1).Draw(t, "which")
			lt.leave(q.claims[i].claim)
			q.claims = slices.Delete(q.claims, i, i+1)
		},
		"": func(t *rapid.T) {
			q.serve()
			for _, c := range q.claims {
				if isClosed(c.claim.granted) != c.granted {
					t.Fatalf("the claim %s for %v is granted: %v, want %v", c.task, c.locks, !c.granted, c.granted)
				}
			}
		},
	})
}

// reserve takes a place where only two may wait, and enters if there is one.
func (q *queue) reserve(t *rapid.T, lt *lockTable, locks []Lock, task string) {
	const most = 2
	waiting := 0
	for _, c := range q.claims {
		if !c.granted {
			waiting++
		}
	}
	ready := func(c *queued) bool { return !c.granted && c.blocked == 0 }
	used := len(slices.DeleteFunc(slices.Clone(q.claims), func(c *queued) bool { return !c.slot }))
	atOnce := !slices.ContainsFunc(q.claims, func(c *queued) bool { return conflict(c.locks, locks) || ready(c) }) &&
		(q.limit == 0 || used < q.limit)
	ok := lt.reserve(most, ClassCopy, locks)
	if ok != (waiting < most || atOnce) {
		t.Fatalf("with %d waiting a place for %v is given: %v", waiting, locks, ok)
	}
	if ok {
		q.claims = append(q.claims, &queued{claim: lt.enter(task, ClassCopy, locks, true)})
	}
}
