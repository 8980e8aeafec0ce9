package storageops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// copyParams are those of Volume.copy.
type copyParams struct {
	Volume     param.UUID       `json:"volumeID" doc:"volume to copy"`
	Pool       param.UUID       `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain     param.UUID       `json:"storagedomainID"`
	Image      param.UUID       `json:"imageID"`
	DstDomain  param.UUID       `json:"dstSdUUID"`
	DstImage   param.UUID       `json:"dstImgUUID"`
	DstVolume  param.UUID       `json:"dstVolUUID"`
	Desc       string           `json:"desc" default:""`
	VolType    param.VolType    `json:"volType" default:"LEAF" doc:"SHARED makes a template"`
	Format     param.Format     `json:"volFormat"`
	Allocation param.Allocation `json:"preallocate"`
	PostZero   param.Bool       `json:"postZero" default:"false" doc:"what this replaces, or leaves when it is stopped, is wiped when it is reclaimed"`
	Force      param.Bool       `json:"force" default:"false" doc:"replace the destination if it exists"`
	Discard    param.Bool       `json:"discard" default:"false"`
	// Collapse is ours: an overlay is copied as an overlay, onto the same parent in the destination image.
	Collapse param.Bool `json:"collapse" default:"true" doc:"false: copy an overlay as an overlay; its parent must be in the destination image"`
}

func (p copyParams) source() volumeRef {
	return volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}
}

func (p copyParams) target() volumeRef {
	return volumeRef{string(p.DstDomain), string(p.DstImage), string(p.DstVolume)}
}

func (p copyParams) check() error {
	invalid := func(format string, args ...any) error { return code.Errorf(code.InvalidParameter, format, args...) }
	switch {
	case p.DstDomain.IsBlank() || p.DstImage.IsBlank() || p.DstVolume.IsBlank():
		return invalid("dstSdUUID, dstImgUUID and dstVolUUID must not be zeros")
	case p.source() == p.target():
		return invalid("a volume cannot be copied to itself")
	case p.VolType == param.Internal:
		return invalid("parameter \"volType\": a copy is LEAF or SHARED")
	case !bool(p.Collapse) && p.Format != param.COW:
		return invalid("an overlay can only be copied to format COW; leave collapse out to make a volume of its own")
	case !bool(p.Collapse) && p.VolType == param.Shared:
		return invalid("a template has no parent; leave collapse out")
	}
	return nil
}

func (st *Storage) copyVolume() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Copy what a guest sees in a volume to a new volume.",
		Name: "Volume.copy", Word: "copyImage", Params: copyParams{}, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "destination gone, source untouched, a replaced destination is back from the trash",
			Revert: "destination to the trash, replaced one back", Bound: 10 * time.Second,
		},
		Plan: st.planCopy,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[copyParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			if _, _, err := st.readable(p.source()); err != nil {
				return err
			}
			d, err := st.writable(string(p.DstDomain))
			if err != nil {
				return err
			}
			if err := st.leasable(d); err != nil {
				return err
			}
			_, err = replaces(d, p.target(), bool(p.Force))
			return err
		},
	}
}

func (st *Storage) planCopy(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[copyParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	t := &target{
		st: st, task: id, volumeRef: p.target(), format: string(p.Format), allocation: string(p.Allocation), desc: p.Desc, postZero: bool(p.PostZero),
	}
	src := p.source()
	t.from = src.Domain
	locks := []tasks.Lock{
		tasks.TaskLock(id), domainShared(src.Domain), domainShared(t.Domain), imageShared(src.Domain, src.Image), imageExclusive(t.Domain, t.Image),
	}
	return &tasks.Plan{
		Tag: tag(p.Pool), Locks: locks, Success: fmt.Sprintf("copied to %s", t.volumeRef),
		Steps: slices.Concat(
			[]tasks.Step{st.copyCheck(t, p), t.replaceStep(), t.imageStep()}, t.fileSteps(),
			[]tasks.Step{t.metadataStep(domain.Illegal), t.dataStep(), t.parentStep(), t.legalStep(string(p.VolType))},
		),
		Fingerprint: t.fingerprint, Unused: t.unused, Deferred: t.reclaim,
	}, nil
}

// copyCheck looks at the source and at the place for the copy, under the locks and without effects.
func (st *Storage) copyCheck(t *target, p copyParams) tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := st.writable(t.Domain)
			if err != nil {
				return nil, err
			}
			m := made{Parent: domain.BlankUUID}
			if m.Replaces, err = replaces(d, t.volumeRef, bool(p.Force)); err != nil {
				return nil, err
			}
			source, meta, err := st.volumeSource(ctx, s, p.source())
			if err != nil {
				return nil, err
			}
			m.Source, m.Capacity, m.DiskType = &source, meta.Capacity, meta.DiskType
			if !p.Collapse {
				if err := t.keepParent(d, meta, &m); err != nil {
					return nil, err
				}
			}
			return m, st.measure(ctx, s, d, t, &m)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { // again at each resume
			if err := st.reach(ctx, s, string(p.Domain)); err != nil {
				return err
			}
			if err := st.reach(ctx, s, t.Domain); err != nil {
				return err
			}
			_, _, err := st.volumeSource(ctx, s, p.source())
			return err
		},
	}
}

// keepParent makes the copy an overlay of the same parent, which must be in the destination's image.
func (t *target) keepParent(d storageDomain, source domain.VolumeMeta, m *made) error {
	if !source.HasParent() {
		return code.Errorf(code.InvalidParameter, "the volume has no parent; leave collapse out to copy it")
	}
	parent, err := d.ReadVolume(t.Image, source.PUUID)
	if absent(err) {
		return code.Errorf(code.ImageIsNotLegalChain, "the parent %s is not in image %s; copy it there first, or leave collapse out", source.PUUID, t.Image)
	}
	if err != nil {
		return err
	}
	m.Parent, m.ParentFormat = source.PUUID, imageFormat(parent.Format)
	return nil
}

// replaces says whether a volume is in the place of a copy and goes to the trash first: with force, or when it is ILLEGAL, as
// a failed copy leaves it. Another one is refused (212).
func replaces(d storageDomain, v volumeRef, force bool) (bool, error) {
	occupied := vacant(d, v)
	if code.Of(occupied) != code.VolumeAlreadyExists {
		return false, occupied
	}
	m, err := d.ReadVolume(v.Image, v.Volume)
	if absent(err) {
		return force, unless(force, occupied) // a file without metadata
	}
	if err != nil {
		return false, err
	}
	if !force && m.Legality != domain.Illegal {
		return false, occupied
	}
	return true, notUsed(d, v)
}

func unless(forced bool, err error) error {
	if forced {
		return nil
	}
	return err
}

// measure fills in what the copy will take, and refuses it before the first byte if it does not fit.
func (st *Storage) measure(ctx context.Context, s *tasks.Scope, d storageDomain, t *target, m *made) error {
	if err := st.sizeUp(ctx, s, m); err != nil {
		return err
	}
	return enoughRoom(d, m.needs(t.allocation, m.Measured))
}

// sizeUp fills in what the data will take. It is that of a qcow2 image, whatever the copy will be: of a raw one qemu-img counts
// holes too.
func (st *Storage) sizeUp(ctx context.Context, w work, m *made) error {
	img := m.Source.image()
	if m.Parent != domain.BlankUUID {
		img = img.Alone()
	}
	size, err := st.images.Measure(ctx, w, img, qemuimg.QCOW2)
	m.Measured = size.Required + size.Bitmaps
	return err
}

// replaceStep moves a volume that is in the place of the copy to the trash.
func (t *target) replaceStep() tasks.Step {
	return tasks.Step{
		Name: "replace",
		Do: func(_ context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil || !m.Replaces {
				return err
			}
			d, err := t.domain()
			if err != nil {
				return err
			}
			return d.Trash().Put(domain.Entry{Task: t.task, Label: labelReplaced, Image: t.Image, Volume: t.Volume})
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			return restoreReplaced(t.st, s, t.volumeRef, stepFile)
		},
	}
}

// restoreReplaced puts back what was in the place of what the step made. That may still be there, in part, if its undo failed: a later
// try to take it back would take this.
func restoreReplaced(st *Storage, s *tasks.Scope, place volumeRef, made string) error {
	if s.Started(made) && !s.Undone(made) {
		return code.Errorf(code.Storage, "%s stays in the trash until what the task made in its place is taken back", place)
	}
	d, err := st.domains.Get(place.Domain)
	if err != nil {
		return err
	}
	return d.Trash().Restore(s.TaskID(), func(i domain.Item) bool { return i.Label == labelReplaced })
}
