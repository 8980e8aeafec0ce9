package tasks

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// lockModel is the lock table as one would write it without a thought for speed: everything is found out from the list of claims
// in the order of their arrival.
type lockModel struct {
	limits map[Class]int
	claims []*modelClaim
}

type modelClaim struct {
	real    *claim
	task    string
	class   Class
	locks   []Lock
	granted bool // holds all that it wanted, and may work
	slot    bool
	wants   bool // a slot, when it has its locks
	without bool // needs none
	counted bool // waits for its first grant
}

// hasLocks says whether nothing that came before is in the way of the claim.
func (m *lockModel) hasLocks(c *modelClaim) bool {
	for _, other := range m.claims {
		if other == c {
			return true
		}
		if conflict(other.locks, c.locks) {
			return false
		}
	}
	return true
}

func (m *lockModel) used(class Class) (n int) {
	for _, c := range m.claims {
		if c.class == class && c.slot {
			n++
		}
	}
	return n
}

// serve gives slots, in the order of arrival, to claims that have their locks.
func (m *lockModel) serve() {
	for _, c := range m.claims {
		limit := m.limits[c.class]
		if c.wants && m.hasLocks(c) && (c.without || limit == 0 || m.used(c.class) < limit) {
			c.wants, c.slot, c.granted, c.counted = false, !c.without, true, false
		}
	}
}

func (m *lockModel) remove(c *modelClaim) {
	m.claims = slices.DeleteFunc(m.claims, func(o *modelClaim) bool { return o == c })
	m.serve()
}

func (m *lockModel) waiting() (n int) {
	for _, c := range m.claims {
		if c.counted {
			n++
		}
	}
	return n
}

// ready is how many claims of a class have their locks and wait for a slot.
func (m *lockModel) ready(class Class) (n int) {
	for _, c := range m.claims {
		if c.class == class && c.wants && m.hasLocks(c) {
			n++
		}
	}
	return n
}

// inTheWay lists who came before the end of the list, or before c, and keeps it from having the lock.
func (m *lockModel) inTheWay(c *modelClaim, l Lock) (out []string) {
	for _, other := range m.claims {
		if other == c {
			break
		}
		if conflict(other.locks, []Lock{l}) {
			out = append(out, other.task)
		}
	}
	return out
}

var someLocks = rapid.Custom(func(t *rapid.T) []Lock {
	var locks []Lock
	for range rapid.IntRange(0, 3).Draw(t, "locks") {
		locks = append(locks, Lock{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), rapid.Bool().Draw(t, "exclusive")})
	}
	return locks
})

// TestLockTable holds the lock table to the model with random requests.
func TestLockTable(t *testing.T) {
	classes := []Class{ClassCopy, ClassLight}
	rapid.Check(t, func(t *rapid.T) {
		m := &lockModel{limits: map[Class]int{ClassCopy: 1, ClassLight: 2}}
		lt := newLockTable(m.limits)
		var seats []*seat
		last := 0
		aClass := rapid.SampledFrom(classes)
		add := func(c *modelClaim) {
			m.claims = append(m.claims, c)
			m.serve()
		}
		fresh := func(t *rapid.T) *modelClaim {
			last++
			return &modelClaim{task: fmt.Sprint("t", last), class: aClass.Draw(t, "class"), locks: someLocks.Draw(t, "locks")}
		}
		pick := func(t *rapid.T, which func(*modelClaim) bool) *modelClaim {
			var some []*modelClaim
			for _, c := range m.claims {
				if which(c) {
					some = append(some, c)
				}
			}
			if len(some) == 0 {
				return nil
			}
			return some[rapid.IntRange(0, len(some)-1).Draw(t, "claim")]
		}
		enter := func(c *modelClaim, kept *seat) {
			c.wants, c.counted = true, true
			c.real = lt.enter(c.task, c.class, c.locks, kept, c.without)
			add(c)
		}
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) { enter(fresh(t), nil) },
			"revert after a restart": func(t *rapid.T) {
				c := fresh(t)
				c.without = true
				enter(c, nil)
			},
			"use a seat": func(t *rapid.T) {
				if len(seats) > 0 {
					c := fresh(t)
					c.class, c.locks = seats[0].class, seats[0].locks
					enter(c, seats[0])
					seats = seats[1:]
				}
			},
			"reserve": func(t *rapid.T) {
				limit, c := rapid.IntRange(0, 4).Draw(t, "limit"), fresh(t)
				m.claims = append(m.claims, c) // for a look
				most, seated := m.limits[c.class], 0
				atOnce := m.hasLocks(c) && m.ready(c.class) == 0
				m.claims = m.claims[:len(m.claims)-1]
				for _, kept := range seats {
					atOnce = atOnce && !conflict(kept.locks, c.locks)
					if kept.class == c.class {
						seated++
					}
				}
				atOnce = atOnce && (most == 0 || m.used(c.class)+seated < most)
				want := limit == 0 || m.waiting()+len(seats) < limit || atOnce
				kept := lt.reserve(limit, c.class, c.locks)
				if (kept != nil) != want {
					t.Fatalf("a seat in a queue of %d with limit %d: %v, want %v", m.waiting()+len(seats), limit, kept, want)
				}
				if kept != nil {
					seats = append(seats, kept)
				}
			},
			"give back": func(*rapid.T) {
				if len(seats) > 0 {
					lt.giveBack(seats[0])
					seats = seats[1:]
				}
			},
			"leave": func(t *rapid.T) {
				if c := pick(t, func(*modelClaim) bool { return true }); c != nil {
					lt.leave(c.real)
					lt.leave(c.real) // again: nothing more
					m.remove(c)
				}
			},
			"try": func(t *rapid.T) {
				c := fresh(t)
				var want []string
				for _, l := range ordered(c.locks) {
					behind := m.inTheWay(nil, l)
					want = append(want, behind[:min(len(behind), maxBehind)]...)
				}
				got, behind := lt.try(c.task, c.class, c.locks)
				if (got == nil) != (len(want) > 0) || !slices.Equal(behind, want) {
					t.Fatalf("try answers %v, want %v in the way", behind, want)
				}
				if got != nil {
					c.real, c.granted = got, true
					add(c)
				}
			},
			"yield": func(t *rapid.T) { // of one that works, or that was resumed and waits
				if c := pick(t, func(c *modelClaim) bool { return !c.counted && !c.without }); c != nil {
					lt.yield(c.real)
					c.slot, c.wants, c.granted = false, false, true
					m.serve()
				}
			},
			"retake": func(t *rapid.T) {
				if c := pick(t, func(c *modelClaim) bool { return !c.counted && !c.without }); c != nil {
					if !c.slot && !c.wants {
						c.granted, c.wants = false, true
					}
					if lt.retake(c.real) != c.real.granted {
						t.Fatal("retake answers another channel than the claim's")
					}
					m.serve()
				}
			},
			"set limit": func(t *rapid.T) {
				class, limit := aClass.Draw(t, "class"), rapid.IntRange(0, 3).Draw(t, "limit")
				m.limits[class] = limit
				lt.setLimit(class, limit)
				m.serve()
			},
			"restart": func(t *rapid.T) { // those that worked have everything again, then the others wait in their order
				lt, seats = newLockTable(m.limits), nil
				var first, then []*modelClaim
				for _, c := range m.claims {
					if c.counted {
						then = append(then, c)
						continue
					}
					c.granted, c.slot, c.wants, c.without = true, c.slot || c.wants, false, false
					first = append(first, c)
				}
				for _, c := range first {
					c.real = lt.resume(c.task, c.class, c.locks, !c.slot)
				}
				for _, c := range then {
					c.real = lt.enter(c.task, c.class, c.locks, nil, c.without)
				}
				m.claims = slices.Concat(first, then)
				m.serve()
			},
			"": func(t *rapid.T) { m.compare(t, lt, classes) },
		})
		for len(m.claims) > 0 {
			lt.leave(m.claims[0].real)
			m.remove(m.claims[0])
			m.compare(t, lt, classes)
		}
		if len(lt.keys) > 0 {
			t.Fatalf("locks are left when all have gone: %v", lt.keys)
		}
	})
}

// compare looks for a difference between the table and the model.
func (m *lockModel) compare(t *rapid.T, lt *lockTable, classes []Class) {
	t.Helper()
	byClass, waiting := lt.load()
	if waiting != m.waiting() {
		t.Fatalf("%d wait, want %d", waiting, m.waiting())
	}
	for _, class := range classes {
		if want := (ClassLoad{m.limits[class], m.used(class), m.ready(class)}); byClass[class] != want {
			t.Fatalf("class %s is %+v, want %+v", class, byClass[class], want)
		}
	}
	for i, c := range m.claims {
		granted := false
		select {
		case <-c.real.granted:
			granted = true
		default:
		}
		if working := c.granted && (c.slot || !c.wants); granted != working && (c.slot || c.counted || c.wants) {
			t.Fatalf("claim %s of %s granted: %v, want %v", c.task, c.class, granted, working)
		}
		if c.granted {
			for _, other := range m.claims[:i] {
				if other.granted && conflict(other.locks, c.locks) {
					t.Fatalf("%s and %s hold the same lock", other.task, c.task)
				}
			}
		}
		if (c.real.state != claimBlocked) != m.hasLocks(c) {
			t.Fatalf("claim %s has its locks: %v", c.task, (c.real.state != claimBlocked))
		}
		m.compareWaits(t, c, lt.waits(c.real, maxBehind))
	}
}

func (m *lockModel) compareWaits(t *rapid.T, c *modelClaim, w *waiting) {
	t.Helper()
	switch {
	case !c.wants:
		if w != nil {
			t.Fatalf("claim %s waits for nothing, and says %v", c.task, w.sentences())
		}
	case m.hasLocks(c):
		ahead := 0
		for _, other := range m.claims {
			if other == c {
				break
			}
			if other.class == c.class && other.wants && m.hasLocks(other) {
				ahead++
			}
		}
		want := slotWait{c.class, m.limits[c.class], m.used(c.class), ahead}
		if w == nil || len(w.locks) > 0 || w.slot == nil || *w.slot != want {
			t.Fatalf("claim %s waits for a slot %+v, and says %+v", c.task, want, w)
		}
	default:
		if w == nil || w.slot != nil {
			t.Fatalf("claim %s waits for locks, and says %+v", c.task, w)
		}
		at := 0
		for _, l := range ordered(c.locks) {
			behind := m.inTheWay(c, l)
			if len(behind) == 0 {
				continue
			}
			behind = behind[:min(len(behind), maxBehind)]
			if at >= len(w.locks) || w.locks[at].Lock != l || !slices.Equal(w.locks[at].behind, behind) {
				t.Fatalf("claim %s waits for %v behind %v, and says %+v", c.task, l, behind, w.locks)
			}
			at++
		}
		if at != len(w.locks) {
			t.Fatalf("claim %s waits for %d locks, and says %+v", c.task, at, w.locks)
		}
	}
}

// TestExclusiveIsNotOvertaken: a shared lock that comes after an exclusive one waits behind it, although the key is held shared.
func TestExclusiveIsNotOvertaken(t *testing.T) {
	lt := newLockTable(nil)
	shared, exclusive := []Lock{{Key: "k"}}, []Lock{{Key: "k", Exclusive: true}}
	first := lt.enter("first", ClassLight, shared, nil, false)
	second := lt.enter("second", ClassLight, exclusive, nil, false)
	var later []*claim
	for range 10 {
		later = append(later, lt.enter("later", ClassLight, shared, nil, false))
	}
	has := func(c *claim) bool {
		select {
		case <-c.granted:
			return true
		default:
			return false
		}
	}
	if !has(first) || has(second) || slices.ContainsFunc(later, has) {
		t.Error("only the first may have the key")
	}
	lt.leave(first)
	if !has(second) || slices.ContainsFunc(later, has) {
		t.Error("only the exclusive one may have the key")
	}
	lt.leave(second)
	for i, c := range later {
		if !has(c) {
			t.Errorf("shared claim %d waits for nobody, and does not have the key", i)
		}
	}
}

// BenchmarkOneKey lets 10,000 claims enter and leave behind one key.
func BenchmarkOneKey(b *testing.B) {
	const n = 10_000
	locks := []Lock{{Key: "k", Exclusive: true}}
	for b.Loop() {
		lt := newLockTable(map[Class]int{ClassCopy: 4})
		var claims []*claim
		for range n {
			claims = append(claims, lt.enter("t", ClassCopy, locks, nil, false))
		}
		for _, c := range claims {
			<-c.granted
			lt.leave(c)
		}
	}
}

// TestSlotsGoByArrival: of two that one end lets go on, the one that came first has the only slot, whatever its key.
func TestSlotsGoByArrival(t *testing.T) {
	lock := func(keys ...string) (out []Lock) {
		for _, key := range keys {
			out = append(out, Lock{Key: key, Exclusive: true})
		}
		return out
	}
	lt := newLockTable(map[Class]int{ClassCopy: 1})
	holder := lt.enter("holder", ClassLight, lock("a", "b"), nil, false)
	first := lt.enter("first", ClassCopy, lock("b"), nil, false)
	second := lt.enter("second", ClassCopy, lock("a"), nil, false)
	lt.leave(holder)
	if first.state != claimGranted || second.state != claimReady {
		t.Errorf("the first is in state %d and the second in %d, want %d and %d", first.state, second.state, claimGranted, claimReady)
	}
}
