package storageops

import "testing"

type ownLimit struct {
	work
	limit int64
}

func (o ownLimit) Limit() int64 { return o.limit }

func TestTheLeastLimitCounts(t *testing.T) {
	st := &Storage{}
	for _, c := range []struct{ own, from, to, want int64 }{
		{0, 0, 0, 0}, {5, 0, 0, 5}, {0, 7, 0, 7}, {0, 0, 7, 7}, {5, 7, 9, 5}, {8, 7, 9, 7}, {9, 8, 7, 7}, {0, 9, 7, 7},
	} {
		st.limits.set("from", c.from)
		st.limits.set("to", c.to)
		l, done := st.moving(ownLimit{limit: c.own}, "to", "from", "", "other")
		if got := l.Limit(); got != c.want {
			t.Errorf("own %d, from %d, to %d: %d and not %d", c.own, c.from, c.to, got, c.want)
		}
		done()
	}
}

// TestDomainLimitIsShared: what all tasks of a domain have together is its limit, however many they are, and one that works within the
// domain counts once.
func TestDomainLimitIsShared(t *testing.T) {
	st := &Storage{}
	st.limits.set("sd", 90)
	one, endOne := st.moving(ownLimit{}, "sd", "sd")
	if got := one.Limit(); got != 90 {
		t.Errorf("alone it has %d", got)
	}
	two, endTwo := st.moving(ownLimit{limit: 20}, "sd", "other")
	three, endThree := st.moving(ownLimit{}, "sd")
	for got, want := range map[int64]int64{one.Limit(): 30, two.Limit(): 20, three.Limit(): 30} {
		if got != want {
			t.Errorf("of three one has %d, want %d", got, want)
		}
	}
	endTwo()
	endThree()
	if got := one.Limit(); got != 90 {
		t.Errorf("alone again it has %d", got)
	}
	st.limits.set("sd", 1)
	_, more := st.moving(ownLimit{}, "sd")
	if got := one.Limit(); got != 1 {
		t.Errorf("a share is %d; 0 would be no limit", got)
	}
	more()
	endOne()
	if len(st.limits.movers) > 0 {
		t.Errorf("%v are counted and gone", st.limits.movers)
	}
}
