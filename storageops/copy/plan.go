package copy

import (
	"context"

	"vdsm-agent/storageops/qemuimg"
)

// Bounds of a slice, in bytes of data. A slice is what is copied twice after a crash.
const (
	minSlice   = 64 << 20
	maxSlice   = 1 << 30
	sliceShare = 20 // a slice has at most this part of all data, but minSlice

	// grain is the largest cluster of qcow2: slices begin and end at multiples of it, so no cluster is written by two.
	grain = 2 << 20
	// A plan is collected in pieces that are joined to slices when the total is known. They begin at minPiece and double when
	// there are maxPieces, so they stay far below a slice and their number is bounded.
	minPiece  = 4 << 20
	maxPieces = 128 << 10
	// zeroShare: zeros that have to be written count as this part of data, so that slices of zeros end too.
	zeroShare = 64
)

// Slice is a stretch of the virtual disk that is copied by one run of qemu-img.
type Slice struct {
	Start, End int64
	Data       int64 // bytes that will be read and written
}

// Plan is how an image is copied.
type Plan struct {
	Virtual int64   // the source's virtual size
	Data    int64   // bytes
	Slices  []Slice // in order; what is between them needs no visit
}

// MakePlan looks through the source once and cuts it into slices. blank says that the destination needs no zeros written.
// The same source gives the same plan.
func MakePlan(ctx context.Context, st qemuimg.Starter, spec Spec, blank bool) (Plan, error) {
	p := planner{floor: spec.minSlice(), size: min(minPiece, spec.minSlice()), zeros: !blank || len(spec.Dest.Backing) > 0 && !spec.overlay(), held: spec.overlay()}
	img := spec.source()
	if p.held {
		img = img.Alone() // what only a layer below holds is then not present
	}
	if err := qemuimg.Map(ctx, st, img, p.add); err != nil {
		return Plan{}, err
	}
	return p.plan(), nil
}

// sliceLimit is how much data a slice has at most.
func sliceLimit(total, floor int64) int64 { return min(max(total/sliceShare, floor), maxSlice) }

// planner collects pieces while the map goes by, since only its end tells how large slices may be.
type planner struct {
	floor       int64 // of a slice
	size        int64 // of a piece, in weight
	zeros, held bool  // zeros are visited; only what is present is visited
	virtual     int64
	data        int64
	weight      int64
	pieces      []piece
}

type piece struct {
	Slice
	weight int64 // data, and a part of the zeros
}

func (p *planner) add(e qemuimg.Extent) error {
	p.virtual = e.End()
	reads := e.Data && !e.Zero
	switch {
	case p.held && !e.Present:
		return nil
	case !p.held && !reads && !p.zeros:
		return nil
	}
	per := int64(1) // bytes of the disk for one of weight
	if !reads {
		per = zeroShare
	}
	for at := e.Start; at < e.End(); {
		room := p.size
		if n := len(p.pieces); n > 0 {
			room -= p.pieces[n-1].weight
		}
		end := min(e.End(), (at+room*per)&^(grain-1))
		if end <= at || len(p.pieces) == 0 {
			p.coarsen()
			p.pieces = append(p.pieces, piece{Slice: Slice{Start: at, End: at}})
			end = min(e.End(), (at+p.size*per)&^(grain-1))
		}
		last := &p.pieces[len(p.pieces)-1]
		last.End = end
		w := (end - at + per - 1) / per
		last.weight += w
		p.weight += w
		if reads {
			last.Data += end - at
			p.data += end - at
		}
		at = end
	}
	return nil
}

// coarsen joins the pieces by twos when they have become too many.
func (p *planner) coarsen() {
	if len(p.pieces) < maxPieces {
		return
	}
	half := p.pieces[:0]
	for i := 0; i < len(p.pieces); i += 2 {
		a, b := p.pieces[i], p.pieces[i+1] // maxPieces is even
		half = append(half, piece{Slice{a.Start, b.End, a.Data + b.Data}, a.weight + b.weight})
	}
	p.pieces = half
	p.size *= 2
}

// plan joins neighbouring pieces to slices.
func (p *planner) plan() Plan {
	limit := sliceLimit(p.weight, p.floor)
	out := Plan{Virtual: p.virtual, Data: p.data}
	weight := int64(0)
	for _, q := range p.pieces {
		n := len(out.Slices)
		if n > 0 && weight+q.weight <= limit {
			out.Slices[n-1].End = q.End
			out.Slices[n-1].Data += q.Data
			weight += q.weight
			continue
		}
		out.Slices = append(out.Slices, q.Slice)
		weight = q.weight
	}
	from := int64(0)
	for i := range out.Slices {
		s := &out.Slices[i]
		s.Start = max(from, s.Start&^(grain-1))
		s.End = min((s.End+grain-1)&^(grain-1), p.virtual)
		from = s.End
	}
	return out
}

// after is the part of the plan from next on.
func (p Plan) after(next int64) []Slice {
	for i, s := range p.Slices {
		if s.End > next {
			rest := append([]Slice(nil), p.Slices[i:]...)
			rest[0].Start = max(rest[0].Start, next)
			return rest
		}
	}
	return nil
}
