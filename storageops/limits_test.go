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
		if got := st.limited(ownLimit{limit: c.own}, "to", "from", "", "other").Limit(); got != c.want {
			t.Errorf("own %d, from %d, to %d: %d and not %d", c.own, c.from, c.to, got, c.want)
		}
	}
}
