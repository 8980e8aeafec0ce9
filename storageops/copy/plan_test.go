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
		want    []Slice
	}{
		"nothing":             {},
		"holes only":          {extents: []qemuimg.Extent{hole(0, 64<<40)}},
		"a little":            {extents: []qemuimg.Extent{hole(0, 5*m), data(5*m, 64*k), hole(5*m+64*k, g)}, want: []Slice{{4 * m, 6 * m, 64 * k}}},
		"an odd end":          {extents: []qemuimg.Extent{data(0, 3*m+512)}, want: []Slice{{0, 3*m + 512, 3*m + 512}}},
		"zeros are skipped":   {extents: []qemuimg.Extent{zero(0, m), data(m, m)}, want: []Slice{{0, 2 * m, m}}},
		"zeros are written":   {p: planner{zeros: true}, extents: []qemuimg.Extent{zero(0, 3*m), hole(3*m, 3*m)}, want: []Slice{{0, 6 * m, 0}}},
		"only what is held":   {p: planner{held: true}, extents: []qemuimg.Extent{hole(0, 4*m), zero(4*m, 2*m), hole(6*m, g)}, want: []Slice{{4 * m, 6 * m, 0}}},
		"two slices":          {extents: []qemuimg.Extent{data(0, 100*m)}, want: []Slice{{0, 64 * m, 64 * m}, {64 * m, 100 * m, 36 * m}}},
		"holes cost nothing":  {extents: []qemuimg.Extent{data(0, 32*m), hole(32*m, g), data(32*m+g, 32*m)}, want: []Slice{{0, 64*m + g, 64 * m}}},
		"no cluster in two":   {extents: []qemuimg.Extent{data(0, 64*m+64*k), hole(64*m+64*k, 64*k), data(64*m+128*k, 64*k)}, want: []Slice{{0, 64 * m, 64 * m}, {64 * m, 64*m + 192*k, 128 * k}}},
		"much is in 1 GiB":    {extents: []qemuimg.Extent{data(0, 40*g)}, want: every(40*g, g)},
		"less is in 20 parts": {extents: []qemuimg.Extent{data(0, 10*g)}, want: every(10*g, g/2)},
		"zeros end a slice":   {p: planner{zeros: true}, extents: []qemuimg.Extent{zero(0, 16*g)}, want: []Slice{{0, 4 * g, 0}, {4 * g, 8 * g, 0}, {8 * g, 12 * g, 0}, {12 * g, 16 * g, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.floor, c.p.size = minSlice, minPiece
			got := planOf(c.p, c.extents)
			if !reflect.DeepEqual(got.Slices, c.want) {
				t.Fatalf("got  %v\nwant %v", got.Slices, c.want)
			}
		})
	}
}

func every(total, size int64) (all []Slice) {
	for at := int64(0); at < total; at += size {
		all = append(all, Slice{at, at + size, size})
	}
	return all
}

// Whatever the extents are: all data is in one slice, slices are in order, at multiples of a cluster, bounded, few, and the
// rest of a plan is what is behind a slice's end.
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
		data, from := int64(0), int64(0)
		for i, s := range plan.Slices {
			if s.Start < from || s.End <= s.Start || s.End > at || s.Start%grain != 0 || s.End%grain != 0 && s.End != at {
				t.Fatalf("slice %d is %+v behind %d of %d", i, s, from, at)
			}
			if s.Data > maxSlice+grain {
				t.Fatalf("slice %d has %d bytes of data", i, s.Data)
			}
			from, data = s.End, data+s.Data
			if rest := plan.after(s.Start); !reflect.DeepEqual(rest, plan.Slices[i:]) {
				t.Fatalf("after %d is %v", s.Start, rest)
			}
		}
		for _, e := range extents {
			if !e.Data && !p.zeros {
				continue
			}
			covered := int64(0)
			for _, s := range plan.Slices {
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
		if len(plan.after(at)) != 0 || !reflect.DeepEqual(plan, planOf(pieces, extents)) {
			t.Fatal("the same source gave another plan")
		}
	})
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
	if n := len(plan.Slices); n < 32<<10 || n > 40<<10 || plan.Data != 32<<40 {
		t.Fatalf("%d slices of %d bytes", n, plan.Data)
	}
}

func TestPercent(t *testing.T) {
	var got []float64
	p := &percent{report: func(part float64) { got = append(got, part) }}
	for _, s := range []string{"    (0.00/100%)\r    (12.", "50/100%)\r", "", "noise", "    (99.00/100%)\r    (100.00/100%)\r"} {
		if n, err := p.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := []float64{0, 0.125, 1}; !reflect.DeepEqual(got, want) {
		t.Fatalf("%v", got)
	}
}
