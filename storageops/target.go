package storageops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// The names of the steps that others refer to.
const (
	stepCheck = "check"
	stepImage = "image"
	stepFile  = "volume"
	stepTrash = "trash"
)

// Labels in the trash of a task.
const (
	labelMade     = "made"     // what the task made, taken back
	labelReplaced = "replaced" // what was in the place of what the task makes
	labelDeleted  = "deleted"  // what the task was asked to delete
)

// made is the plan of a check step: what the new volume will be.
type made struct {
	Capacity     int64  `json:"capacity"`
	Parent       string `json:"parent"` // domain.BlankUUID = none
	ParentFormat string `json:"parentFormat,omitempty"`
	DiskType     string `json:"diskType"`
	Measured     int64  `json:"measured,omitempty"` // bytes that its data takes, as qemu-img measured
	Replaces     bool   `json:"replaces,omitempty"` // a volume is in its place and goes to the trash first
	Source       *from  `json:"source,omitempty"`
}

// needs is the room in bytes that the volume takes at once.
func (m made) needs(allocation string, data int64) int64 {
	const metadata = 1 << 20 // the .meta file, directories, and a qcow2's own tables while it is empty
	if allocation == domain.Preallocated {
		return m.Capacity + metadata
	}
	return data + metadata
}

// target is a volume that a task makes: the steps that make it are the same for create, copy and import.
type target struct {
	st   *Storage
	task string
	volumeRef
	format     string // domain.FormatCOW or FormatRaw
	allocation string // domain.Sparse or Preallocated
	desc       string
	sequence   int64
	internal   bool   // others of the task are made on it
	from       string // the domain that its data comes from; "" = none
	bitmaps    bool   // those of its source are copied too
	old        bool   // it was there before the task, and may hold data
	whole      int64  // bytes of data in all copies of the task; 0 = this is the only one
	postZero   bool   // what the task puts into the trash is wiped before it is unlinked
}

func (t *target) domain() (storageDomain, error) { return t.st.domains.Get(t.Domain) }

// made reads what the check step found out.
func (t *target) made(s *tasks.Scope) (m made, err error) {
	found, err := s.PlanOf(stepCheck, &m)
	if err == nil && !found {
		err = code.Errorf(code.InternalError, "the check step has not run")
	}
	return m, err
}

// existed is the plan of a step that makes something which may be there already.
type existed struct {
	Existed bool `json:"existed"`
}

// undoNew is the undo of such a step: what was there before stays.
func (t *target) undoNew(remove func(storageDomain) error) func(context.Context, *tasks.Scope) error {
	return func(_ context.Context, s *tasks.Scope) error {
		var p existed
		if err := s.Plan(&p); err != nil || p.Existed {
			return err
		}
		d, err := t.domain()
		if err != nil {
			return err
		}
		return remove(d)
	}
}

// imageStep makes the image's directory. With what the task puts into it still there, since its undo failed, the directory
// cannot go either and is residue too, so that a later revert comes back to it. shared are templates that are linked into it.
func (t *target) imageStep(shared ...volumeRef) tasks.Step {
	return tasks.Step{
		Name: stepImage,
		Plan: func(context.Context, *tasks.Scope) (any, error) {
			d, err := t.domain()
			if err != nil {
				return nil, err
			}
			_, err = d.ImagePath(t.Image)
			if absent(err) {
				return existed{false}, nil
			}
			return existed{true}, err
		},
		Do: func(context.Context, *tasks.Scope) error {
			d, err := t.domain()
			if err == nil {
				_, err = d.CreateImageDir(t.Image)
			}
			return err
		},
		Undo: t.undoNew(func(d storageDomain) error {
			if err := d.RemoveImageDirIfEmpty(t.Image); err != nil {
				return err
			}
			for _, v := range append(shared, t.volumeRef) {
				if err := vacant(d, volumeRef{t.Domain, t.Image, v.Volume}); err != nil {
					return code.Errorf(code.ImageDelete, "image %s stays as long as what this task has put into it: %w", t.Image, err)
				}
			}
			return nil
		}),
	}
}

// shares says whether the parent is a template of another image.
func (t *target) shares(parent volumeRef) bool {
	return parent.Volume != domain.BlankUUID && parent.Volume != "" && parent.Image != t.Image
}

// shareStep links the template that is the parent, and of another image, into this one.
func (t *target) shareStep(parent volumeRef) tasks.Step {
	return tasks.Step{
		Name: "share-template",
		Plan: func(context.Context, *tasks.Scope) (any, error) {
			d, err := t.domain()
			if err != nil {
				return nil, err
			}
			_, err = d.ReadVolume(t.Image, parent.Volume)
			if absent(err) {
				return existed{false}, nil
			}
			return existed{true}, err
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			d, err := t.domain()
			if err != nil {
				return err
			}
			return d.ShareTemplate(parent.Image, parent.Volume, t.Image)
		},
		Undo: t.undoNew(func(d storageDomain) error { return d.UnshareTemplate(parent.Image, parent.Volume, t.Image) }),
	}
}

// fileStep makes the volume's file, empty. Its undo moves whatever there is of the volume to the trash: a large file is never
// unlinked within the bound of a stop.
func (t *target) fileStep() tasks.Step {
	return tasks.Step{
		Name: stepFile, Undone: "volume " + t.Volume + " removed",
		Do: t.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			return t.makeFile(ctx, s, m)
		}),
		Undo: func(context.Context, *tasks.Scope) error {
			d, err := t.domain()
			if err != nil {
				return err
			}
			err = d.Trash().Put(domain.Entry{Task: t.task, Label: labelMade, Image: t.Image, Volume: t.Volume})
			if absent(err) {
				return nil // the file was not made yet
			}
			return err
		},
	}
}

// makeFile makes the file anew, also when one is there: it is this task's own.
func (t *target) makeFile(ctx context.Context, w work, m made) error {
	d, err := t.domain()
	if err != nil {
		return err
	}
	dir, err := d.ImagePath(t.Image)
	if err != nil {
		return err
	}
	spec := qemuimg.CreateSpec{Path: dir + "/" + t.Volume, Format: imageFormat(t.format), Capacity: m.Capacity}
	if m.Parent != domain.BlankUUID {
		spec.Backing, spec.BackingFormat = m.Parent, m.ParentFormat
	}
	if err := t.st.images.Create(ctx, w, spec); err != nil {
		return err
	}
	return d.SetMode(t.Image, t.Volume)
}

// fileSteps make the file, and reserve its blocks if it is to have them.
func (t *target) fileSteps() []tasks.Step {
	if t.allocation != domain.Preallocated {
		return []tasks.Step{t.fileStep()}
	}
	return []tasks.Step{t.fileStep(), t.allocateStep()}
}

// allocateStep reserves the room of a preallocated volume.
func (t *target) allocateStep() tasks.Step {
	return tasks.Step{
		Name: "allocate", Slices: true,
		Do: t.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			var last copy.FillState
			found, err := s.LastCheckpoint(&last)
			if err != nil {
				return err
			}
			if !found {
				return t.allocate(ctx, s, m, nil)
			}
			return t.allocate(ctx, s, m, &last)
		}),
	}
}

func (t *target) allocate(ctx context.Context, w work, m made, last *copy.FillState) error {
	if t.allocation != domain.Preallocated {
		return nil
	}
	d, err := t.domain()
	if err != nil {
		return err
	}
	path, err := d.VolumePath(t.Image, t.Volume)
	if err != nil {
		return err
	}
	l, done := t.st.moving(w, t.Domain)
	defer done()
	return t.st.images.Allocate(ctx, l, qemuimg.Image{Path: path, Format: imageFormat(t.format)}, m.Capacity, last)
}

// metadataStep makes the volume visible, with its lease where it has one. Its undo hides it before anything else is taken back.
func (t *target) metadataStep(legality string) tasks.Step {
	return tasks.Step{
		Name: "metadata",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			return t.writeMeta(ctx, s, m, legality)
		},
		Undo: func(_ context.Context, s *tasks.Scope) error { return t.hide(s) },
	}
}

// writeMeta gives the volume its metadata, and its lease before that, where the domain's have one. A template is one only when it is whole.
func (t *target) writeMeta(ctx context.Context, w work, m made, legality string) error {
	d, err := t.domain()
	if err != nil {
		return err
	}
	if err := t.st.makeLease(ctx, w, d, t.volumeRef); err != nil {
		return err
	}
	volType := domain.Leaf
	if t.internal {
		volType = domain.Internal
	}
	return d.WriteVolumeMeta(t.Image, t.Volume, domain.VolumeMeta{
		Capacity: m.Capacity, CTime: time.Now(), Description: t.desc, DiskType: m.DiskType, Domain: t.Domain, Format: t.format,
		Image: t.Image, Legality: legality, PUUID: m.Parent, Sequence: t.sequence, Type: t.allocation, VolType: volType,
	})
}

// makeLease makes the sanlock area of a volume, where the domain's have one, before its metadata makes it visible. It is undone with the
// volume's file.
func (st *Storage) makeLease(ctx context.Context, w work, d storageDomain, v volumeRef) error {
	area, err := d.MakeLease(v.Image, v.Volume)
	if err != nil || area == nil {
		return err
	}
	if err := st.images.FormatLease(ctx, w, *area); err != nil {
		return err
	}
	return d.SetMode(v.Image, v.Volume)
}

// leasable refuses a new volume if this host cannot make its lease.
func (st *Storage) leasable(d storageDomain) error {
	if has, err := d.HasLeases(); err != nil || !has {
		return err
	}
	return st.images.Leasable()
}

// legalStep publishes the volume: it is whole. volType is Leaf or Shared.
func (t *target) legalStep(volType string) tasks.Step {
	return tasks.Step{
		Name: "legal",
		Do: func(context.Context, *tasks.Scope) error {
			d, err := t.domain()
			if err != nil {
				return err
			}
			return d.UpdateVolumeMeta(t.Image, t.Volume, func(m *domain.VolumeMeta) error {
				m.Legality, m.VolType = domain.Legal, volType
				return nil
			})
		},
		Undo: func(_ context.Context, s *tasks.Scope) error { return t.hide(s) },
	}
}

// hide marks the volume ILLEGAL, if it is not so already.
func (t *target) hide(s *tasks.Scope) error {
	if s.Undone(stepFile) {
		return nil // what is in its place now was there before the task
	}
	d, err := t.domain()
	if err != nil {
		return err
	}
	m, err := d.ReadVolume(t.Image, t.Volume)
	if absent(err) || err == nil && m.Legality == domain.Illegal {
		return nil
	}
	if err != nil {
		return err
	}
	m.Legality = domain.Illegal
	return d.WriteVolumeMeta(t.Image, t.Volume, m)
}

// parentWas is the plan of a step that changes a parent's place in its chain.
type parentWas struct {
	Volume  string `json:"volume"` // "" = there is nothing to change
	VolType string `json:"volType"`
}

// parentStep turns the parent from LEAF to INTERNAL. SHARED ones never change.
func (t *target) parentStep() tasks.Step {
	return tasks.Step{
		Name: "parent",
		Plan: func(_ context.Context, s *tasks.Scope) (any, error) {
			m, err := t.made(s)
			if err != nil || m.Parent == domain.BlankUUID {
				return parentWas{}, err
			}
			d, err := t.domain()
			if err != nil {
				return nil, err
			}
			parent, err := d.ReadVolume(t.Image, m.Parent)
			if err != nil || parent.VolType != domain.Leaf {
				return parentWas{}, err
			}
			return parentWas{m.Parent, parent.VolType}, nil
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			return changeParent(t.st, s, t.volumeRef, func(parentWas) string { return domain.Internal })
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			return changeParent(t.st, s, t.volumeRef, func(p parentWas) string { return p.VolType })
		},
	}
}

// changeParent sets the place in the chain of the parent that the step's plan names.
func changeParent(st *Storage, s *tasks.Scope, child volumeRef, to func(parentWas) string) error {
	var p parentWas
	if err := s.Plan(&p); err != nil || p.Volume == "" {
		return err
	}
	return p.change(st, child.Domain, child.Image, to(p))
}

func (p parentWas) change(st *Storage, domainID, image, volType string) error {
	d, err := st.domains.Get(domainID)
	if err != nil {
		return err
	}
	return d.UpdateVolumeMeta(image, p.Volume, func(m *domain.VolumeMeta) error {
		m.VolType = volType
		return nil
	})
}

// fingerprint is what the volume looks like when the task finishes.
func (t *target) fingerprint(context.Context, *tasks.Scope) (any, error) {
	d, err := t.domain()
	if err != nil {
		return nil, err
	}
	return d.Fingerprint(t.Image, t.Volume)
}

// unused refuses a revert if the volume may have been used: a child, a derived image, or any change of its files.
func (t *target) unused(_ context.Context, _ *tasks.Scope, raw json.RawMessage) error {
	var then domain.Fingerprint
	if err := json.Unmarshal(raw, &then); err != nil {
		return code.Errorf(code.TaskState, "what the volume looked like cannot be read, so it cannot be shown to be unused: %w", err)
	}
	d, err := t.st.writable(t.Domain)
	if err != nil {
		return err
	}
	if err := notUsed(d, t.volumeRef); err != nil {
		return code.Errorf(code.TaskState, "%w", err)
	}
	now, err := d.Fingerprint(t.Image, t.Volume)
	if err != nil {
		return err
	}
	if what := then.Differs(now); what != "" {
		return code.Errorf(code.TaskState, "%s was changed since the task finished (%s), so it may be in use", t.volumeRef, what)
	}
	return nil
}

// notUsed refuses a volume on which others depend: a child (204) that is none of besides, or an image derived from it as a template
// (223).
func notUsed(d storageDomain, v volumeRef, besides ...string) error {
	children, err := d.Children(v.Image, v.Volume)
	if err != nil {
		return err
	}
	children = slices.DeleteFunc(children, func(child string) bool { return slices.Contains(besides, child) })
	if len(children) > 0 {
		return code.Errorf(code.VolumeImageHasChild, "%s has the child volume %s", v, children[0])
	}
	shares, err := d.SharedBy(v.Image, v.Volume)
	if err != nil {
		return err
	}
	if len(shares) > 0 {
		return code.Errorf(code.CannotDeleteShared, "%s is the template of image %s", v, shares[0])
	}
	return nil
}

// reclaim is the task that empties this one's trash, once nothing in it can be needed again: what an undo has taken back,
// when the task is stopped or, after a revert, cleared; and what the copy replaced, when it is cleared. What a failed undo
// could not put back stays.
func (t *target) reclaim(s *tasks.Scope, end tasks.End) *tasks.Submission {
	var m made
	checked, err := s.PlanOf(stepCheck, &m)
	if err != nil || !checked || end == tasks.EndReverted {
		return nil
	}
	var started bool
	if started = s.Started(stepFile); end == tasks.EndCleared {
		started = s.State() == tasks.Recovered && started || s.State() == tasks.Finished && m.Replaces
	}
	if !started {
		return nil
	}
	return reclaimTask(t.Domain, t.task, t.postZero)
}

// imageFormat is QEMU's word for a volume's format.
func imageFormat(format string) string {
	if format == domain.FormatCOW {
		return qemuimg.QCOW2
	}
	return qemuimg.Raw
}

// binarySize writes bytes as a person reads them.
func binarySize(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
