package copy

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"vdsm-agent/storageops/qemuimg"
)

func planOf(p planner, extents []qemuimg.Extent) Plan {
	for _, e := range extents {
		if err := p.add(e); err != nil {
			panic(err) // it never fails
		}
	}
	return p.plan()
}

// all are the slices from an offset on.
func (p Plan) all(from, bound int64) (all []Slice) {
	for {
		s, more := p.next(from, bound)
		if !more {
			return all
		}
		all, from = append(all, s), s.End
	}
}

func TestPlan(t *testing.T) {
	const k, m, g = 1 << 10, 1 << 20, 1 << 30
	data := func(start, length int64) qemuimg.Extent {
		return qemuimg.Extent{Start: start, Length: length, Data: true, Present: true}
	}
	hole := func(start, length int64) qemuimg.Extent {
		return qemuimg.Extent{Start: start, Length: length, Zero: true}
	}
	zero := func(start, length int64) qemuimg.Extent {
		return qemuimg.Extent{Start: start, Length: length, Zero: true, Present: true}
	}
	for name, c := range map[string]struct {
		p       planner
		extents []qemuimg.Extent
		want    []stretched
	}{
		"nothing":             {},
		"holes only":          {extents: []qemuimg.Extent{hole(0, 64<<40)}},
		"a little":            {extents: []qemuimg.Extent{hole(0, 5*m), data(5*m, 64*k), hole(5*m+64*k, g)}, want: []stretched{{4 * m, 6 * m, 64 * k}}},
		"an odd end":          {extents: []qemuimg.Extent{data(0, 3*m+512)}, want: []stretched{{0, 3*m + 512, 3*m + 512}}},
		"zeros are skipped":   {extents: []qemuimg.Extent{zero(0, m), data(m, m)}, want: []stretched{{0, 2 * m, m}}},
		"zeros are written":   {p: planner{zeros: true}, extents: []qemuimg.Extent{zero(0, 3*m), hole(3*m, 3*m)}, want: []stretched{{0, 6 * m, 0}}},
		"only what is held":   {p: planner{held: true}, extents: []qemuimg.Extent{hole(0, 4*m), zero(4*m, 2*m), hole(6*m, g)}, want: []stretched{{4 * m, 6 * m, 0}}},
		"two slices":          {extents: []qemuimg.Extent{data(0, 100*m)}, want: []stretched{{0, 64 * m, 64 * m}, {64 * m, 100 * m, 36 * m}}},
		"holes cost nothing":  {extents: []qemuimg.Extent{data(0, 32*m), hole(32*m, g), data(32*m+g, 32*m)}, want: []stretched{{0, 64*m + g, 64 * m}}},
		"no cluster in two":   {extents: []qemuimg.Extent{data(0, 64*m+64*k), hole(64*m+64*k, 64*k), data(64*m+128*k, 64*k)}, want: []stretched{{0, 64 * m, 64 * m}, {64 * m, 64*m + 192*k, 128 * k}}},
		"much is in 1 GiB":    {extents: []qemuimg.Extent{data(0, 40*g)}, want: every(40*g, g)},
		"less is in 20 parts": {extents: []qemuimg.Extent{data(0, 10*g)}, want: every(10*g, g/2)},
		"zeros end a slice":   {p: planner{zeros: true}, extents: []qemuimg.Extent{zero(0, 16*g)}, want: []stretched{{0, 4 * g, 0}, {4 * g, 8 * g, 0}, {8 * g, 12 * g, 0}, {12 * g, 16 * g, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.floor, c.p.size = minSlice, minPiece
			plan := planOf(c.p, c.extents)
			var got []stretched
			for _, s := range plan.all(0, 0) {
				got = append(got, stretched{s.Start, s.End, s.Data})
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Fatalf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

// stretched is a slice's start, end and data.
type stretched [3]int64

func every(total, size int64) (all []stretched) {
	for at := int64(0); at < total; at += size {
		all = append(all, stretched{at, at + size, size})
	}
	return all
}

// Whatever the extents are, and whatever bounds there are on the way: all data is in one slice, slices are in order, at
// multiples of a cluster, within their bound, and go on from any slice's end as if nothing had happened.
func TestPlanOfAnyImage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := planner{floor: minSlice, size: minPiece, zeros: rapid.Bool().Draw(t, "zeros")}
		var extents []qemuimg.Extent
		at := int64(0)
		for range rapid.IntRange(0, 20).Draw(t, "extents") {
			length := rapid.OneOf(rapid.Int64Range(1, 1000), rapid.Int64Range(1, 1<<24), rapid.Int64Range(1, 1<<26)).Draw(t, "sectors") * 512
			isData := rapid.Bool().Draw(t, "data")
			extents = append(extents, qemuimg.Extent{Start: at, Length: length, Data: isData, Zero: !isData, Present: isData})
			at += length
		}
		pieces := p
		plan := planOf(p, extents)
		limited := rapid.SliceOfN(rapid.SampledFrom([]int64{0, 0, minLimited, 10 << 20, 1 << 30}), 1, 5).Draw(t, "bounds")
		var slices []Slice
		data, from := int64(0), int64(0)
		for i := 0; ; i++ {
			bound := limited[i%len(limited)]
			s, more := plan.next(from, bound)
			if !more {
				break
			}
			slices = append(slices, s)
			if s.Start < from || s.End <= s.Start || s.End > at || s.Start%grain != 0 || s.End%grain != 0 && s.End != at {
				t.Fatalf("slice %d is %+v behind %d of %d", i, s, from, at)
			}
			// A slice ends with a whole cluster, so it may be larger by what is in that.
			if s.Data > maxSlice+grain || bound > 0 && s.cost > bound+2*grain {
				t.Fatalf("slice %d with bound %d is %+v", i, bound, s)
			}
			from, data = s.End, data+s.Data
			if done, _ := plan.upTo(from); done != data {
				t.Fatalf("after slice %d %d bytes of data are done, not %d", i, done, data)
			}
		}
		for _, e := range extents {
			if !e.Data && !p.zeros {
				continue
			}
			covered := int64(0)
			for _, s := range slices {
				covered += max(0, min(s.End, e.End())-max(s.Start, e.Start))
			}
			if covered != e.Length {
				t.Fatalf("of %+v only %d bytes are in a slice", e, covered)
			}
			if e.Data {
				data -= e.Length
			}
		}
		if data != 0 || plan.Virtual != at {
			t.Fatalf("%d bytes too many, virtual size %d of %d", data, plan.Virtual, at)
		}
		if _, more := plan.next(at, 0); more || !reflect.DeepEqual(plan, planOf(pieces, extents)) {
			t.Fatal("the same source gave another plan")
		}
	})
}

// A piece that costs more than a slice may is cut. So are zeros, which qemu-img counts when it is limited.
func TestPlanWithABound(t *testing.T) {
	const m, g = 1 << 20, 1 << 30
	data := planOf(planner{floor: minSlice, size: 64 * m}, []qemuimg.Extent{{Start: 0, Length: 200 * m, Data: true, Present: true}})
	small := planOf(planner{floor: minSlice, size: minPiece}, []qemuimg.Extent{{Start: 0, Length: 200 * m, Data: true, Present: true}})
	zeros := planOf(planner{floor: minSlice, size: minPiece, zeros: true}, []qemuimg.Extent{{Start: 0, Length: g, Zero: true}})
	for name, c := range map[string]struct {
		plan        Plan
		from, bound int64
		slices      int
		most        int64 // cost of the dearest
	}{
		"no bound":                 {data, 0, 0, 4, 64 * m},
		"parts of pieces":          {data, 0, 10 * m, 22, 10 * m},
		"from the middle":          {data, 70 * m, 10 * m, 14, 10 * m},
		"a bound above a slice":    {data, 0, 150 * m, 4, 64 * m},
		"several pieces":           {small, 0, 30 * m, 8, 28 * m},
		"zeros":                    {zeros, 0, 0, 1, g},
		"zeros with a bound":       {zeros, 0, 32 * m, 32, 32 * m},
		"zeros with a large bound": {zeros, 0, 600 * m, 2, 512 * m},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.plan.all(c.from, c.bound)
			most := int64(0)
			for _, s := range got {
				most = max(most, s.cost)
			}
			if len(got) != c.slices || most != c.most {
				t.Fatalf("%d slices, the dearest costs %d MiB: %+v", len(got), most/m, got)
			}
		})
	}
}

// 64 TiB of scattered data take bounded memory and give slices of the right size.
func TestPlanOfALargeImage(t *testing.T) {
	p := planner{floor: minSlice, size: minPiece}
	const step = 64 << 20
	at := int64(0)
	for ; at < 64<<40; at += step {
		_ = p.add(qemuimg.Extent{Start: at, Length: step / 2, Data: true, Present: true})
		_ = p.add(qemuimg.Extent{Start: at + step/2, Length: step / 2, Zero: true})
	}
	if len(p.pieces) > maxPieces {
		t.Fatalf("%d pieces", len(p.pieces))
	}
	plan := p.plan()
	if n := len(plan.all(0, 0)); n < 32<<10 || n > 40<<10 || plan.Data != 32<<40 {
		t.Fatalf("%d slices of %d bytes", n, plan.Data)
	}
}

// TestWhole: what is copied with others is cut in slices of the size that all of it would have.
func TestWhole(t *testing.T) {
	for whole, want := range map[int64]int64{0: minSlice, 1 << 30: minSlice, 4 << 30: (4 << 30) / sliceShare, 1 << 40: maxSlice} {
		if got := (&Spec{Whole: whole}).minSlice(); got != want {
			t.Errorf("of %d bytes a slice has %d, want %d", whole, got, want)
		}
	}
}
