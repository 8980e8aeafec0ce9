package copy

import (
	"cmp"
	"context"
	"sort"

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
	cost       int64 // Data and the zeros that are written: qemu-img counts both when it is limited
}

// Plan is how an image is copied: in order, in slices that are cut one at a time, since a limit that is set meanwhile makes them
// smaller. Whatever cut those before, the rest of an image can be cut from any slice's end.
type Plan struct {
	Virtual int64 // the source's virtual size
	Data    int64 // bytes
	zeros   int64 // bytes that are written without being data
	limit   int64 // the most weight of a slice
	pieces  []piece
}

// MakePlan looks through the source once. blank says that the destination needs no zeros written. The same source gives the
// same plan.
func MakePlan(ctx context.Context, st qemuimg.Starter, spec Spec, blank bool) (Plan, error) {
	p := planner{floor: spec.minSlice(), size: min(minPiece, cmp.Or(spec.floor, minSlice)), zeros: !blank || len(spec.Dest.Backing) > 0 && !spec.overlay(), held: spec.overlay()}
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
	weight      int64
	pieces      []piece
}

// piece is what slices are made of.
type piece struct {
	start, end int64
	data       int64
	zeros      int64 // bytes that are visited but hold no data
	weight     int64 // data, and a part of the zeros
	// before, beforeZeros are the sums of the pieces before it; set when all are known.
	before, beforeZeros int64
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
			p.pieces = append(p.pieces, piece{start: at, end: at})
			end = min(e.End(), (at+p.size*per)&^(grain-1))
		}
		last := &p.pieces[len(p.pieces)-1]
		last.end = end
		w := (end - at + per - 1) / per
		last.weight += w
		p.weight += w
		if reads {
			last.data += end - at
		} else {
			last.zeros += end - at
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
		half = append(half, piece{start: a.start, end: b.end, data: a.data + b.data, zeros: a.zeros + b.zeros, weight: a.weight + b.weight})
	}
	p.pieces = half
	p.size *= 2
}

func (p *planner) plan() Plan {
	data, zeros := int64(0), int64(0)
	for i := range p.pieces {
		q := &p.pieces[i]
		q.before, q.beforeZeros = data, zeros
		data, zeros = data+q.data, zeros+q.zeros
	}
	return Plan{Virtual: p.virtual, Data: data, zeros: zeros, limit: sliceLimit(p.weight, p.floor), pieces: p.pieces}
}

// next cuts the slice that follows one that ends at from; false when there is none. It has as many neighbouring pieces as fit.
// bound is the most that it may cost, 0 = anything; of a piece that costs more it has a part.
func (p *Plan) next(from, bound int64) (Slice, bool) {
	i := sort.Search(len(p.pieces), func(i int) bool { return p.roundUp(p.pieces[i].end) > from })
	if i == len(p.pieces) {
		return Slice{}, false
	}
	first := p.pieces[i]
	start := max(from, first.start&^(grain-1))
	end, weight := first.end, first.weight
	if rest := p.slice(start, p.roundUp(end)).cost; bound > 0 && rest > bound {
		parts := (rest + bound - 1) / bound
		return p.slice(start, min(p.roundUp(end), p.roundUp(start+(end-start)/parts))), true
	}
	for _, q := range p.pieces[i+1:] {
		weight += q.weight
		if weight > p.limit || bound > 0 && p.slice(start, p.roundUp(q.end)).cost > bound {
			break
		}
		end = q.end
	}
	return p.slice(start, p.roundUp(end)), true
}

func (p *Plan) roundUp(at int64) int64 { return min((at+grain-1)&^(grain-1), p.Virtual) }

func (p *Plan) slice(start, end int64) Slice {
	data, zeros := p.upTo(start)
	dataEnd, zerosEnd := p.upTo(end)
	return Slice{start, end, dataEnd - data, dataEnd - data + zerosEnd - zeros}
}

// upTo is how many bytes of data, and of zeros that are written, are before at. Within a piece they count as spread evenly.
func (p *Plan) upTo(at int64) (data, zeros int64) {
	i := sort.Search(len(p.pieces), func(i int) bool { return p.pieces[i].end > at })
	if i == len(p.pieces) {
		return p.Data, p.zeros
	}
	q := p.pieces[i]
	part := max(0, float64(at-q.start)/float64(q.end-q.start))
	return q.before + int64(part*float64(q.data)), q.beforeZeros + int64(part*float64(q.zeros))
}
