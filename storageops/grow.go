package storageops

import (
	"context"
	"fmt"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// growth is what a check has found out of a volume that is to grow.
type growth struct {
	File       from   `json:"file"`
	Allocation string `json:"allocation"`
	Capacity   int64  `json:"capacity"` // what its metadata says
	Length     int64  `json:"length"`   // what its file has for a guest
	To         int64  `json:"to"`
}

// grower is a volume that a task grows: first its file, then its metadata, so that the file is never shorter than that says.
type grower struct {
	st *Storage
	volumeRef
	found func(s *tasks.Scope) (growth, error) // what the check found
}

// look finds out what growing the volume to a capacity means. Its image is proven to be what its metadata says, but for a raw one, which
// a guest may be writing.
func (g *grower) look(ctx context.Context, w work, d storageDomain, m domain.VolumeMeta, to int64) (growth, error) {
	p := growth{Allocation: m.Type, Capacity: m.Capacity, To: to}
	var err error
	if m.Format == domain.FormatCOW {
		p.File, err = g.st.proven(ctx, w, d, g.volumeRef)
	} else {
		p.File.Format = qemuimg.Raw
		p.File.Path, err = d.VolumePath(g.Image, g.Volume)
	}
	if err != nil {
		return p, err
	}
	if p.Length, err = g.length(ctx, w, p); err != nil || m.Type != domain.Preallocated {
		return p, err
	}
	return p, enoughRoom(d, to-p.Length)
}

// length is what the file has for a guest now.
func (g *grower) length(ctx context.Context, w work, p growth) (int64, error) {
	info, err := g.st.images.Info(ctx, w, qemuimg.Image{Path: p.File.Path, Format: p.File.Format, Shared: true})
	return info.VirtualSize, err
}

// fileStep makes the file longer; a preallocated one in pieces.
func (g *grower) fileStep(undo func(context.Context, *tasks.Scope) error, remainder func(*tasks.Scope) string) tasks.Step {
	return tasks.Step{
		Name: "grow", Slices: true, Undo: undo, Remainder: remainder,
		Do: g.st.holding(g.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			p, err := g.found(s)
			if err != nil || p.To <= p.Length {
				return err
			}
			if err := g.grow(ctx, s, p); err != nil {
				return err
			}
			return g.sync()
		}),
	}
}

func (g *grower) grow(ctx context.Context, s *tasks.Scope, p growth) error {
	img, preallocated := p.File.image(), p.Allocation == domain.Preallocated
	if img.Format != qemuimg.Raw || !preallocated {
		if err := g.st.images.Grow(ctx, s, img, p.To); err != nil || !preallocated {
			return err
		}
	}
	var last *copy.FillState
	if img.Format == qemuimg.Raw {
		last = &copy.FillState{Next: p.Length} // what is before it holds data
	}
	var reached copy.FillState
	if found, err := s.LastCheckpoint(&reached); err != nil {
		return err
	} else if found {
		last = &reached
	}
	l, done := g.st.moving(s, g.Domain)
	defer done()
	return g.st.images.Allocate(ctx, l, img, p.To, last)
}

// sync puts the file with its length on stable storage.
func (g *grower) sync() error {
	d, err := g.st.domains.Get(g.Domain)
	if err != nil {
		return err
	}
	return d.SetMode(g.Image, g.Volume)
}

// metadataStep says how long the file is now.
func (g *grower) metadataStep(undo func(context.Context, *tasks.Scope) error) tasks.Step {
	return tasks.Step{
		Name: "metadata", Undo: undo,
		Do: func(_ context.Context, s *tasks.Scope) error {
			p, err := g.found(s)
			if err != nil {
				return err
			}
			return g.setCapacity(max(p.To, p.Capacity))
		},
	}
}

func (g *grower) setCapacity(capacity int64) error {
	d, err := g.st.domains.Get(g.Domain)
	if err != nil {
		return err
	}
	m, err := d.ReadVolume(g.Image, g.Volume)
	if err != nil || m.Capacity == capacity {
		return err
	}
	m.Capacity = capacity
	return d.WriteVolumeMeta(g.Image, g.Volume, m)
}

// keep is the undo of what must never become shorter: the metadata says what size the file has reached.
func (g *grower) keep(ctx context.Context, s *tasks.Scope) error {
	p, err := g.found(s)
	if err != nil {
		return err
	}
	if err := g.sync(); err != nil { // before the metadata relies on it
		return err
	}
	length, err := g.length(ctx, s, p)
	if err != nil {
		return err
	}
	reached := p.Capacity
	if length > p.Length {
		reached = max(reached, min(length, p.To)&^4095)
	}
	return g.setCapacity(reached)
}

// kept says what keep has left.
func (g *grower) kept(s *tasks.Scope) string {
	p, err := g.found(s)
	if err != nil {
		return ""
	}
	_, m, err := g.st.readable(g.volumeRef)
	if err != nil || m.Capacity == p.Capacity {
		return ""
	}
	return fmt.Sprintf("%s has grown from %d to %d bytes, and its metadata says so", g.volumeRef, p.Capacity, m.Capacity)
}

// writableLeaf refuses a volume that a guest cannot be writing (213).
func writableLeaf(v volumeRef, m domain.VolumeMeta) error {
	switch {
	case m.Image != v.Image || m.VolType == domain.Shared:
		return code.Errorf(code.VolumeNonWritable, "%s is a template, which nobody may change", v)
	case m.VolType != domain.Leaf:
		return code.Errorf(code.VolumeNonWritable, "%s is %s, not the LEAF of its chain; only that can be changed", v, m.VolType)
	}
	return nil
}
