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
		return from{}, meta, code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL: it was not completed or is being deleted; it cannot be copied", v)
	}
	chain, err := d.Chain(v.Image, v.Volume)
	if err != nil {
		return from{}, meta, err
	}
	var f from
	for i, link := range chain {
		path, err := d.VolumePath(v.Image, link.Volume)
		if err != nil {
			return from{}, meta, err
		}
		layer := copy.Layer{Path: path, Format: imageFormat(link.Meta.Format)}
		if err := st.sound(ctx, w, layer, expected(chain[i:]), link.Meta.Capacity); err != nil {
			return from{}, meta, err
		}
		if i == 0 {
			f.Path, f.Format = layer.Path, layer.Format
		} else {
			f.Backing = append(f.Backing, layer)
		}
	}
	return f, meta, nil
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
			spec, err := t.copySpec(s, m)
			if err != nil {
				return err
			}
			w := t.st.limited(s, t.Domain, t.from)
			var last copy.State
			found, err := s.LastCheckpoint(&last)
			if err != nil {
				return err
			}
			if !found {
				return t.st.images.Copy(ctx, w, spec, nil)
			}
			s.Log().Info().Int64("done", last.Done).Int64("total", last.Total).Msg("the copy goes on from its checkpoint")
			return t.st.images.Copy(ctx, w, spec, &last)
		}),
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			var last copy.State
			found, err := s.LastCheckpoint(&last)
			return found && last.Complete, err
		},
	}
}

func (t *target) copySpec(s *tasks.Scope, m made) (copy.Spec, error) {
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
		Dest:     copy.Dest{Path: path, Format: imageFormat(t.format), New: true, Preallocated: t.allocation == domain.Preallocated && t.format == domain.FormatRaw},
		Capacity: m.Capacity,
		Recreate: func(ctx context.Context) error {
			if err := t.makeFile(ctx, s, m); err != nil {
				return err
			}
			return t.allocate(ctx, silent{s}, m, nil)
		},
	}
	if m.Parent == domain.BlankUUID {
		return spec, nil
	}
	chain, err := d.Chain(t.Image, m.Parent)
	if err != nil {
		return copy.Spec{}, err
	}
	for _, link := range chain {
		layer := copy.Layer{Format: imageFormat(link.Meta.Format)}
		if layer.Path, err = d.VolumePath(t.Image, link.Volume); err != nil {
			return copy.Spec{}, err
		}
		spec.Dest.Backing = append(spec.Dest.Backing, layer)
	}
	return spec, nil
}
