package nbd

import (
	"errors"
	"fmt"
)

// Extent is a stretch of an export that is alike.
type Extent struct {
	Start, End int64
	Zero       bool // it reads as zeros
	Own        bool // the image holds it itself, not a layer below it, and not nobody
}

// The flags of the contexts.
const (
	allocationZero = 1 << 1
	depthOwn       = 1
)

// statusPiece is how much a server is asked about at a time; a length has 32 bits.
const statusPiece = 1 << 30

// EachExtent calls each for the stretches of the export from from on, in order and without gaps. A server that cannot tell what is in which
// layer (qemu-nbd has to be told to) is refused.
func (c *Conn) EachExtent(from int64, each func(Extent) error) error {
	for at := from; at < c.size; {
		found, err := c.status(at, min(statusPiece, c.size-at))
		if err != nil {
			return err
		}
		for _, e := range found {
			if err := each(e); err != nil {
				return err
			}
			at = e.End
		}
	}
	return nil
}

// status describes the beginning of a stretch, as much of it as the server does in both contexts.
func (c *Conn) status(offset, length int64) (joined []Extent, err error) {
	k := &call{extents: map[string][]descript{}}
	if err := c.do(cmdStatus, 0, offset, int(length), k); err != nil {
		return nil, fmt.Errorf("what is at %d: %w", offset, err)
	}
	allocation, depth := k.extents[contextAllocation], k.extents[contextDepth]
	for len(allocation) > 0 && len(depth) > 0 {
		n := min(allocation[0].Length, depth[0].Length)
		if n == 0 {
			return nil, errors.New("the NBD server describes a stretch of no bytes")
		}
		e := Extent{offset, min(offset+int64(n), c.size), allocation[0].Flags&allocationZero != 0, depth[0].Flags == depthOwn}
		joined, offset = append(joined, e), e.End
		allocation, depth = shorten(allocation, n), shorten(depth, n)
	}
	if len(joined) == 0 {
		return nil, errors.New("the NBD server does not say what is allocated where")
	}
	return joined, nil
}

// shorten takes so many bytes off the front.
func shorten(d []descript, by uint32) []descript {
	if d[0].Length -= by; d[0].Length == 0 {
		return d[1:]
	}
	return d
}
