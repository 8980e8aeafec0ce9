package storageops

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// createParams are those of Volume.create; see VDSM's schema and what engines send.
type createParams struct {
	Volume     param.UUID       `json:"volumeID" doc:"id of the new volume"`
	Pool       param.UUID       `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain     param.UUID       `json:"storagedomainID"`
	Image      param.UUID       `json:"imageID" doc:"image that the volume belongs to; made if it is not there"`
	Size       param.Size       `json:"size" doc:"virtual size, rounded up to 4096"`
	Format     param.Format     `json:"volFormat"`
	Allocation param.Allocation `json:"preallocate"`
	DiskType   param.DiskType   `json:"diskType" default:"DATA"`
	Desc       string           `json:"desc" default:""`
	SrcImage   param.UUID       `json:"srcImgUUID" default:"00000000-0000-0000-0000-000000000000" doc:"image of the parent volume"`
	SrcVolume  param.UUID       `json:"srcVolUUID" default:"00000000-0000-0000-0000-000000000000" doc:"parent volume"`
	Initial    *param.Size      `json:"initialSize" default:""`
	AddBitmaps param.Bool       `json:"addBitmaps" default:"false"`
	Legal      param.Bool       `json:"legal" default:"true"`
	Sequence   param.Int        `json:"sequence" default:"0"`
	Bitmap     param.UUID       `json:"bitmap" default:""`
}

// source is the parent volume; none if its Volume is blank. A blank image means the same image.
func (p createParams) source() volumeRef {
	img := p.SrcImage
	if img.IsBlank() {
		img = p.Image
	}
	return volumeRef{string(p.Domain), string(img), string(p.SrcVolume)}
}

func (p createParams) target() volumeRef {
	return volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}
}

// check refuses what can never work.
func (p createParams) check() error {
	invalid := func(format string, args ...any) error { return code.Errorf(code.InvalidParameter, format, args...) }
	switch {
	case p.Volume.IsBlank() || p.Image.IsBlank() || p.Domain.IsBlank():
		return invalid("volumeID, imageID and storagedomainID must not be zeros")
	case p.Size == 0:
		return invalid("parameter \"size\": a volume needs at least one byte")
	case p.Format == param.RAW && !p.SrcVolume.IsBlank():
		return invalid("a volume with a parent must be of format COW")
	case p.Format == param.COW && p.Initial != nil && *p.Initial != 0:
		return invalid("parameter \"initialSize\" must be 0 for a COW volume on a file domain")
	case p.Format == param.RAW && p.Allocation == param.Sparse && p.Initial != nil:
		return invalid("parameter \"initialSize\" has no meaning for a sparse RAW volume")
	case p.Format == param.RAW && p.Initial != nil && *p.Initial > p.Size:
		return invalid("parameter \"initialSize\" is larger than the size")
	case p.Sequence < 0 || p.Sequence > domain.MaxSequence:
		return invalid("parameter \"sequence\" must be 0 to %d", int64(domain.MaxSequence))
	case bool(p.AddBitmaps) && (p.SrcVolume.IsBlank() || p.source().Image != string(p.Image)):
		return invalid("addBitmaps needs a parent volume in the same image")
	case !p.Bitmap.IsBlank() && p.Format != param.COW:
		return invalid("a bitmap needs format COW")
	}
	return nil
}

func (st *Storage) createVolume() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Make a volume, alone or on a parent.",
		Name: "Volume.create", Word: "createVolume", Params: createParams{}, Forward: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "nothing left; parent is LEAF again; share removed",
			Revert: "volume to the trash; refused if it may have been used", Bound: 5 * time.Second,
		},
		Plan: st.planCreate,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[createParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			return st.admitCreate(p)
		},
	}
}

func (st *Storage) admitCreate(p createParams) error {
	d, err := st.writable(string(p.Domain))
	if err != nil {
		return err
	}
	if err := st.leasable(d); err != nil {
		return err
	}
	if err := vacant(d, p.target()); err != nil || p.SrcVolume.IsBlank() {
		return err
	}
	_, err = d.ReadVolume(p.source().Image, p.source().Volume)
	return err
}

func (st *Storage) planCreate(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[createParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	t := &target{
		st: st, task: id, volumeRef: p.target(), format: string(p.Format), allocation: string(p.Allocation), desc: p.Desc,
		sequence: int64(p.Sequence),
	}
	locks := []tasks.Lock{tasks.TaskLock(id), domainShared(string(p.Domain)), imageExclusive(string(p.Domain), string(p.Image))}
	if src := p.source(); !p.SrcVolume.IsBlank() && src.Image != string(p.Image) {
		locks = append(locks, imageShared(src.Domain, src.Image))
	}
	legality := domain.Legal
	if !p.Legal {
		legality = domain.Illegal
	}
	steps := []tasks.Step{st.createCheck(p)}
	if t.shares(p.source()) {
		steps = append(steps, t.imageStep(p.source()), t.shareStep(p.source()))
	} else {
		steps = append(steps, t.imageStep())
	}
	steps = append(steps, t.fileSteps()...)
	if bool(p.AddBitmaps) || !p.Bitmap.IsBlank() {
		steps = append(steps, t.bitmapStep(p))
	}
	steps = append(steps, t.metadataStep(legality))
	if !p.SrcVolume.IsBlank() {
		steps = append(steps, t.parentStep())
	}
	return &tasks.Plan{
		Tag: tag(p.Pool), Locks: locks, Steps: steps,
		Fingerprint: t.fingerprint, Unused: t.unused, Deferred: t.reclaim,
	}, nil
}

// createCheck finds out, under the locks and without effects, what will be made.
func (st *Storage) createCheck(p createParams) tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(context.Context, *tasks.Scope) (any, error) {
			d, err := st.writable(string(p.Domain))
			if err != nil {
				return nil, err
			}
			if err := vacant(d, p.target()); err != nil {
				return nil, err
			}
			m := made{Capacity: qemuimg.RoundCapacity(int64(p.Size)), Parent: domain.BlankUUID, DiskType: string(p.DiskType)}
			if !p.SrcVolume.IsBlank() {
				if err := st.checkParent(d, p, &m); err != nil {
					return nil, err
				}
			}
			return m, enoughRoom(d, m.needs(string(p.Allocation), 0))
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { // again at each resume
			return st.reach(ctx, s, string(p.Domain))
		},
	}
}

// checkParent fills in what the new volume takes from its parent, or refuses it.
func (st *Storage) checkParent(d storageDomain, p createParams, m *made) error {
	src := p.source()
	chain, err := d.Chain(src.Image, src.Volume)
	if err != nil {
		return err
	}
	parent := chain[0].Meta
	switch {
	case parent.Legality == domain.Illegal:
		return code.Errorf(code.CreateIllegalSnapshot, "%s is ILLEGAL and cannot be a parent", src)
	case src.Image != string(p.Image) && parent.VolType != domain.Shared:
		return code.Errorf(code.ImageIsNotLegalChain, "%s is of another image and not SHARED, so it cannot be a parent here", src)
	case m.Capacity < parent.Capacity:
		return code.Errorf(code.InvalidParameter, "the size %d is smaller than that of the parent volume, %d", m.Capacity, parent.Capacity)
	case bool(p.AddBitmaps) && parent.Format != domain.FormatCOW:
		return code.Errorf(code.InvalidParameter, "addBitmaps needs a parent volume of format COW")
	}
	m.Parent, m.ParentFormat = src.Volume, imageFormat(parent.Format)
	return nil
}

// vacant refuses a volume that is there, in whole or in part.
func vacant(d storageDomain, v volumeRef) error {
	_, err := d.ReadVolume(v.Image, v.Volume)
	if absent(err) {
		_, err = d.VolumePath(v.Image, v.Volume)
	}
	switch {
	case absent(err):
		return nil
	case err == nil:
		return code.Errorf(code.VolumeAlreadyExists, "%s exists already; choose another id or delete it", v)
	}
	return err
}

// enoughRoom refuses what would not fit (397).
func enoughRoom(d storageDomain, needs int64) error {
	free, err := d.Free()
	if err != nil {
		return err
	}
	if needs > free {
		return code.Errorf(code.NoSpaceLeftOnDomain, "domain %s has %s free and %s are needed; free some room or empty its trash",
			d.ID(), binarySize(free), binarySize(needs))
	}
	return nil
}

// bitmapStep adds the bitmaps that the new volume starts with: those of its parent by name, and one of its own.
func (t *target) bitmapStep(p createParams) tasks.Step {
	return tasks.Step{
		Name: "bitmaps",
		Do: t.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			d, err := t.domain()
			if err != nil {
				return err
			}
			path, err := d.VolumePath(t.Image, t.Volume)
			if err != nil {
				return err
			}
			img := qemuimg.Image{Path: path, Format: qemuimg.QCOW2}
			names := []qemuimg.Bitmap{}
			if p.AddBitmaps {
				if names, err = t.parentBitmaps(ctx, s, d, p); err != nil {
					return err
				}
			}
			if !p.Bitmap.IsBlank() {
				names = append(names, qemuimg.Bitmap{Name: string(p.Bitmap)})
			}
			return t.st.addMissing(ctx, s, img, names)
		}),
	}
}

func (t *target) parentBitmaps(ctx context.Context, s *tasks.Scope, d storageDomain, p createParams) ([]qemuimg.Bitmap, error) {
	path, err := d.VolumePath(t.Image, string(p.SrcVolume))
	if err != nil {
		return nil, err
	}
	info, err := t.st.images.Info(ctx, s, qemuimg.Image{Path: path, Format: qemuimg.QCOW2})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(info.Bitmaps, func(b qemuimg.Bitmap) bool { return b.InUse || !b.Enabled }), nil
}

// addMissing adds the bitmaps that the image does not have: a repeated step finds its own.
func (st *Storage) addMissing(ctx context.Context, s *tasks.Scope, img qemuimg.Image, want []qemuimg.Bitmap) error {
	info, err := st.images.Info(ctx, s, img)
	if err != nil {
		return err
	}
	for _, b := range want {
		if slices.ContainsFunc(info.Bitmaps, func(has qemuimg.Bitmap) bool { return has.Name == b.Name }) {
			continue
		}
		if err := st.images.AddBitmap(ctx, s, img, b.Name, b.Granularity); err != nil {
			return err
		}
	}
	return nil
}
