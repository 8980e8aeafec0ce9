package storageops

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// from is where a copy reads: a volume with its chain, or a file outside.
type from struct {
	Path    string       `json:"path"`
	Format  string       `json:"format"` // QEMU's word
	Backing []copy.Layer `json:"backing,omitempty"`
}

func (f from) image() qemuimg.Image {
	return qemuimg.Image{Path: f.Path, Format: f.Format, Backing: f.Backing}
}

// volumeSource proves that a volume's chain is what its metadata says, and returns it.
func (st *Storage) volumeSource(ctx context.Context, w work, v volumeRef) (from, domain.VolumeMeta, error) {
	d, meta, err := st.readable(v)
	if err != nil {
		return from{}, meta, err
	}
	if meta.Legality == domain.Illegal {
		return from{}, meta, code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL: it was not completed or is being deleted; it cannot be used", v)
	}
	f, err := st.proven(ctx, w, d, v)
	return f, meta, err
}

// proven is a volume with its chain, each file of which is what its metadata says.
func (st *Storage) proven(ctx context.Context, w work, d storageDomain, v volumeRef) (f from, err error) {
	chain, err := d.Chain(v.Image, v.Volume)
	if err != nil {
		return from{}, err
	}
	layers, err := st.soundLayers(ctx, w, d, v.Image, chain)
	if err != nil {
		return from{}, err
	}
	return sourceOf(layers), nil
}

// soundLayers proves of each volume of a chain that its file is what the metadata says, and returns the files, the leaf's first.
func (st *Storage) soundLayers(ctx context.Context, w work, d storageDomain, image string, chain []domain.ChainLink) ([]copy.Layer, error) {
	layers, err := layersOf(d, image, chain)
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		if err := st.sound(ctx, w, l, expected(chain[i:]), chain[i].Meta.Capacity); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// layersOf are the files of a chain, in its order.
func layersOf(d storageDomain, image string, chain []domain.ChainLink) ([]copy.Layer, error) {
	layers := make([]copy.Layer, len(chain))
	for i, link := range chain {
		path, err := d.VolumePath(image, link.Volume)
		if err != nil {
			return nil, err
		}
		layers[i] = copy.Layer{Path: path, Format: imageFormat(link.Meta.Format)}
	}
	return layers, nil
}

// sourceOf reads the first of the layers, over the others.
func sourceOf(layers []copy.Layer) from {
	return from{Path: layers[0].Path, Format: layers[0].Format, Backing: layers[1:]}
}

// expected is what the header of the first volume of a chain must say.
func expected(chain []domain.ChainLink) (want qemuimg.Expect) {
	if len(chain) > 1 {
		want.Backing, want.BackingFormat = chain[1].Volume, imageFormat(chain[1].Meta.Format)
	}
	return want
}

// sound refuses a layer whose file is not what the metadata says: another format, another backing file, cut short.
func (st *Storage) sound(ctx context.Context, w work, l copy.Layer, want qemuimg.Expect, capacity int64) error {
	info, err := st.images.Verify(ctx, w, qemuimg.Image{Path: l.Path, Format: l.Format}, want)
	if err != nil {
		return err
	}
	if info.VirtualSize < capacity {
		return code.Errorf(code.ImageVerification, "%s is cut short: it has %d bytes, its metadata says %d", l.Path, info.VirtualSize, capacity)
	}
	return nil
}

// dataStep copies the data in slices. A checkpoint after each is what it goes on from.
func (t *target) dataStep() tasks.Step {
	return tasks.Step{
		Name: "copy-data", Slices: true,
		Do: t.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			var last copy.State
			if found, err := s.LastCheckpoint(&last); err != nil {
				return err
			} else if !found {
				return t.copyData(ctx, s, m, nil)
			}
			s.Log().Info().Int64("done", last.Done).Int64("total", last.Total).Msg("the copy goes on from its checkpoint")
			return t.copyData(ctx, s, m, &last)
		}),
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			var last copy.State
			found, err := s.LastCheckpoint(&last)
			return found && last.Complete, err
		},
	}
}

// copyData copies the data into the volume, on from last. The caller holds the lease.
func (t *target) copyData(ctx context.Context, w work, m made, last *copy.State) error {
	spec, err := t.copySpec(w, m)
	if err != nil {
		return err
	}
	l, done := t.st.moving(w, t.Domain, t.from)
	defer done()
	return t.st.images.Copy(ctx, l, spec, last)
}

func (t *target) copySpec(w work, m made) (copy.Spec, error) {
	d, err := t.domain()
	if err != nil {
		return copy.Spec{}, err
	}
	path, err := d.VolumePath(t.Image, t.Volume)
	if err != nil {
		return copy.Spec{}, err
	}
	spec := copy.Spec{
		Source:   copy.Source{Path: m.Source.Path, Format: m.Source.Format, Backing: m.Source.Backing},
		Dest:     copy.Dest{Path: path, Format: imageFormat(t.format), New: !t.old, Preallocated: t.allocation == domain.Preallocated && t.format == domain.FormatRaw},
		Capacity: m.Capacity,
		Whole:    t.whole,
		Bitmaps:  t.bitmaps && t.format == domain.FormatCOW && m.Source.Format == qemuimg.QCOW2,
		Recreate: func(ctx context.Context) error {
			if err := t.makeFile(ctx, w, m); err != nil {
				return err
			}
			return t.allocate(ctx, silent{w}, m, nil)
		},
	}
	if m.Parent == domain.BlankUUID {
		return spec, nil
	}
	chain, err := d.Chain(t.Image, m.Parent)
	if err != nil {
		return copy.Spec{}, err
	}
	spec.Dest.Backing, err = layersOf(d, t.Image, chain)
	return spec, err
}
