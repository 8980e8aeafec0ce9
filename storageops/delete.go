package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// deleteParams are those of Volume.delete; Image.delete has no volume.
type deleteParams struct {
	Volume   param.UUID `json:"volumeID" doc:"volume to delete"`
	Pool     param.UUID `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain   param.UUID `json:"storagedomainID"`
	Image    param.UUID `json:"imageID"`
	PostZero param.Bool `json:"postZero" default:"false" doc:"overwrite with zeros; cannot be taken back"`
	Force    param.Bool `json:"force" default:"false"`
	Discard  param.Bool `json:"discard" default:"false"`
}

type deleteImageParams struct {
	Image    param.UUID `json:"imageID" doc:"image to delete, with all its volumes"`
	Pool     param.UUID `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain   param.UUID `json:"storagedomainID"`
	PostZero param.Bool `json:"postZero" default:"false" doc:"overwrite with zeros; cannot be taken back"`
	Force    param.Bool `json:"force" default:"false"`
	Discard  param.Bool `json:"discard" default:"false"`
}

// deletion is a volume, or a whole image, on its way to the trash.
type deletion struct {
	st   *Storage
	task string
	volumeRef
	wipe bool
}

// deletionPlan is what the check step found.
type deletionPlan struct {
	Gone   bool   `json:"gone,omitempty"`   // it is not there, or in the trash already: nothing to do
	Parent string `json:"parent,omitempty"` // in the same image; "" = none
}

func (st *Storage) deleteVolume() *tasks.Verb {
	plan := func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		var p deleteParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		x := &deletion{st, id, volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}, bool(p.PostZero)}
		return x.plan(p.Pool, x.illegalStep(), x.parentStep()), nil
	}
	return &tasks.Verb{
		Role: access.Operate, Doc: "Move a volume to the trash.",
		Name: "Volume.delete", Word: "deleteVolume", Params: deleteParams{}, Class: tasks.ClassLight, Contract: deleteContract(),
		Plan: plan, Admit: st.admitDelete,
	}
}

func (st *Storage) deleteImage() *tasks.Verb {
	plan := func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		var p deleteImageParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		x := &deletion{st, id, imageRef(p.Domain, p.Image), bool(p.PostZero)}
		return x.plan(p.Pool), nil
	}
	return &tasks.Verb{
		Role: access.Operate, Doc: "Move an image with all of its volumes to the trash.",
		Name: "Image.delete", Word: "deleteImage", Params: deleteImageParams{}, Class: tasks.ClassLight, Contract: deleteContract(),
		Plan: plan, Admit: st.admitDelete,
	}
}

func deleteContract() tasks.Contract {
	return tasks.Contract{
		CancellableUntil: "finished, or the wipe's start", PointOfNoReturn: "wipe (only with postZero)",
		Undo: "everything back, legality and chain as before", Revert: "everything back, legality and chain as before, unless wiped",
		Bound: 5 * time.Second,
	}
}

// admitDelete looks only at the domain: that the volume or image is gone already is a success, and found out under the locks.
func (st *Storage) admitDelete(_ context.Context, raw json.RawMessage) error {
	var p struct {
		Domain param.UUID `json:"storagedomainID"`
	}
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return err
	}
	_, err := st.writable(string(p.Domain))
	return err
}

// plan is the same for both: more stands for what only a single volume needs before it moves.
func (x *deletion) plan(pool param.UUID, more ...tasks.Step) *tasks.Plan {
	steps := append([]tasks.Step{x.checkStep()}, more...)
	steps = append(steps, x.trashStep())
	if x.wipe {
		steps = append(steps, x.wipeStep())
	}
	return &tasks.Plan{
		Tag:         tag(pool),
		Locks:       []tasks.Lock{tasks.TaskLock(x.task), domainShared(x.Domain), imageExclusive(x.Domain, x.Image)},
		Steps:       steps,
		Fingerprint: x.fingerprint, Unused: x.unused, Expires: x.expires,
		Deferred: func(s *tasks.Scope, end tasks.End) *tasks.Submission {
			if end != tasks.EndCleared && end != tasks.EndExpired || s.State() != tasks.Finished || x.nothingToDo(s) {
				return nil
			}
			return reclaimTask(x.Domain, x.task, false)
		},
	}
}

func (x *deletion) nothingToDo(s *tasks.Scope) bool {
	p, err := x.found(s)
	return err == nil && p.Gone
}

// expires is when the trash is given up of a delete that nobody has cleared.
func (x *deletion) expires(s *tasks.Scope) time.Time {
	var p trashed
	if found, err := s.PlanOf(stepTrash, &p); err != nil || !found || x.wipe || x.nothingToDo(s) {
		return time.Time{} // there is nothing that a revert could need
	}
	return p.Deadline
}

// checkStep finds out what there is, and refuses to delete what others depend on.
func (x *deletion) checkStep() tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(context.Context, *tasks.Scope) (any, error) {
			d, err := x.st.writable(x.Domain)
			if err != nil {
				return nil, err
			}
			if x.Volume == "" {
				return x.findImage(d)
			}
			return x.findVolume(d)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { // again at each resume
			return x.st.reach(ctx, s, x.Domain)
		},
	}
}

func (x *deletion) findVolume(d storageDomain) (deletionPlan, error) {
	m, err := d.ReadVolume(x.Image, x.Volume)
	if absent(err) {
		return deletionPlan{Gone: true}, nil
	}
	if err != nil {
		return deletionPlan{}, err
	}
	if m.Image != x.Image {
		return deletionPlan{}, code.Errorf(code.CannotDeleteShared, "%s is a share of the template in image %s; delete image %s instead", x.volumeRef, m.Image, x.Image)
	}
	if err := notUsed(d, x.volumeRef); err != nil {
		return deletionPlan{}, code.Errorf(code.Of(err), "%w; delete that first", err)
	}
	if !m.HasParent() {
		return deletionPlan{}, nil
	}
	return deletionPlan{Parent: m.PUUID}, nil
}

func (x *deletion) findImage(d storageDomain) (deletionPlan, error) {
	volumes, err := d.Volumes(x.Image)
	if absent(err) {
		return deletionPlan{Gone: true}, nil
	}
	if err != nil {
		return deletionPlan{}, err
	}
	return deletionPlan{}, notDerivedFrom(d, x.Image, volumes)
}

// notDerivedFrom refuses an image that is the template of others (223).
func notDerivedFrom(d storageDomain, image string, volumes []string) error {
	for _, v := range volumes {
		m, err := d.ReadVolume(image, v)
		if code.Of(err) == code.VolumeMetadataRead {
			continue // damaged metadata must not make an image undeletable
		}
		if err != nil {
			return err
		}
		if m.Image != image {
			continue // a share of a template: only this link of it goes
		}
		shares, err := d.SharedBy(image, v)
		if err != nil {
			return err
		}
		if len(shares) > 0 {
			return code.Errorf(code.CannotDeleteShared, "image %s is the template of image %s; delete that first", image, shares[0])
		}
	}
	return nil
}

// found is what the check step found.
func (x *deletion) found(s *tasks.Scope) (p deletionPlan, err error) {
	there, err := s.PlanOf(stepCheck, &p)
	if err == nil && !there {
		err = code.Errorf(code.InternalError, "the check step has not run")
	}
	return p, err
}

// legalityWas is the plan of the step that marks the volume.
type legalityWas struct {
	Legality string `json:"legality"` // "" = there is nothing to mark
}

// illegalStep marks the volume, so that nobody starts to use it while it goes.
func (x *deletion) illegalStep() tasks.Step {
	set := func(to func(legalityWas) string) func(context.Context, *tasks.Scope) error {
		return func(_ context.Context, s *tasks.Scope) error {
			var p legalityWas
			if err := s.Plan(&p); err != nil || p.Legality == "" {
				return err
			}
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			return d.UpdateVolumeMeta(x.Image, x.Volume, func(m *domain.VolumeMeta) error {
				m.Legality = to(p)
				return nil
			})
		}
	}
	back := set(func(p legalityWas) string { return p.Legality })
	return tasks.Step{
		Name: "illegal",
		Plan: func(_ context.Context, s *tasks.Scope) (any, error) {
			if x.nothingToDo(s) {
				return legalityWas{}, nil
			}
			_, m, err := x.st.readable(x.volumeRef)
			return legalityWas{m.Legality}, err
		},
		Do: set(func(legalityWas) string { return domain.Illegal }),
		Undo: func(ctx context.Context, s *tasks.Scope) error {
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			// What did not come back whole is told by the files that the manifest names: rewritten metadata is none of them.
			if left, err := d.Trash().Has(x.task); err != nil {
				return err
			} else if left {
				return code.Errorf(code.VolumeMetadataWrite, "%s stays %s until all of it is back from the trash", x.volumeRef, domain.Illegal)
			}
			return back(ctx, s)
		},
	}
}

// parentStep turns the parent into a LEAF again if this volume was its only child.
func (x *deletion) parentStep() tasks.Step {
	return tasks.Step{
		Name: "parent",
		Plan: func(_ context.Context, s *tasks.Scope) (any, error) {
			found, err := x.found(s)
			if err != nil || found.Parent == "" {
				return parentWas{}, err
			}
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return nil, err
			}
			parent, err := d.ReadVolume(x.Image, found.Parent)
			if absent(err) {
				return parentWas{}, nil // a broken chain can be deleted too
			}
			if err != nil || parent.VolType != domain.Internal {
				return parentWas{}, err
			}
			children, err := d.Children(x.Image, found.Parent)
			if err != nil || len(children) > 1 {
				return parentWas{}, err
			}
			return parentWas{found.Parent, parent.VolType}, nil
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			return changeParent(x.st, s, x.volumeRef, func(parentWas) string { return domain.Leaf })
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			return changeParent(x.st, s, x.volumeRef, func(p parentWas) string { return p.VolType })
		},
	}
}

// trashed is the plan of the step that moves it.
type trashed struct {
	Deadline time.Time `json:"deadline"`
}

// trashStep moves it to the trash, from where a revert or a stop takes it back.
func (x *deletion) trashStep() tasks.Step {
	return tasks.Step{
		Name: stepTrash, Undone: "everything is back from the trash",
		Plan: func(context.Context, *tasks.Scope) (any, error) {
			return trashed{time.Now().Add(x.st.trashFor).UTC()}, nil
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			var p trashed
			if err := s.Plan(&p); err != nil || x.nothingToDo(s) {
				return err
			}
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			err = d.Trash().Put(domain.Entry{Task: x.task, Label: labelDeleted, Image: x.Image, Volume: x.Volume, Deadline: p.Deadline})
			if err != nil || x.Volume == "" {
				return err
			}
			return d.RemoveImageDirIfEmpty(x.Image)
		},
		Undo: func(context.Context, *tasks.Scope) error {
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			return d.Trash().Restore(x.task, nil)
		},
	}
}

// wipeStep overwrites the data with zeros. From its start on the task completes, whatever happens.
func (x *deletion) wipeStep() tasks.Step {
	return tasks.Step{
		Name: "wipe", PointOfNoReturn: true, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			if x.nothingToDo(s) {
				return nil
			}
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			files, err := d.Trash().Data(x.task)
			if err != nil {
				return err
			}
			return x.st.wipe(ctx, s, files, x.Domain)
		},
	}
}

// wipe overwrites the files, which are in these domains, one after the other; it goes on where it was.
func (st *Storage) wipe(ctx context.Context, s *tasks.Scope, files []string, domains ...string) error {
	return inOrder(s, len(files), nil, func(w work, i int, last *copy.FillState) error {
		l, done := st.moving(w, domains...)
		defer done()
		return st.images.Zero(ctx, l, files[i], last)
	})
}

// deletedPrint is what must not have changed when a delete is taken back: the parent, on whose content the volume depends.
type deletedPrint struct {
	Parent *domain.Fingerprint `json:"parent,omitempty"`
}

func (x *deletion) fingerprint(_ context.Context, s *tasks.Scope) (any, error) {
	found, err := x.found(s)
	if err != nil || found.Parent == "" {
		return deletedPrint{}, err
	}
	d, err := x.st.domains.Get(x.Domain)
	if err != nil {
		return nil, err
	}
	parent, err := d.ReadVolume(x.Image, found.Parent)
	if absent(err) || err == nil && parent.VolType == domain.Shared {
		return deletedPrint{}, nil // nobody writes a template, and each image derived from it changes its links
	}
	if err != nil {
		return nil, err
	}
	print, err := d.Fingerprint(x.Image, found.Parent)
	return deletedPrint{&print}, err
}

// unused refuses to take a delete back when there is nothing to take back, or when the parent was written since: the volume
// would then show something that never was.
func (x *deletion) unused(_ context.Context, s *tasks.Scope, raw json.RawMessage) error {
	if x.wipe {
		return code.Errorf(code.NotRevertible, "%s was wiped (postZero) and cannot come back", x.volumeRef)
	}
	if x.nothingToDo(s) {
		return code.Errorf(code.TaskState, "%s was gone before this task; there is nothing to take back", x.volumeRef)
	}
	var then deletedPrint
	if err := json.Unmarshal(raw, &then); err != nil {
		return code.Errorf(code.TaskState, "what the parent volume looked like cannot be read, so it cannot be shown to be unchanged: %w", err)
	}
	d, err := x.st.writable(x.Domain)
	if err != nil {
		return err
	}
	if _, err := d.Trash().Manifest(x.task); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return code.Errorf(code.TaskState, "%s is not in the trash any more; it was emptied", x.volumeRef)
		}
		return err
	}
	if then.Parent == nil {
		return nil
	}
	found, err := x.found(s)
	if err != nil {
		return err
	}
	now, err := d.Fingerprint(x.Image, found.Parent)
	if err != nil {
		return code.Errorf(code.TaskState, "the parent volume %s is needed to take the delete back: %w", found.Parent, err)
	}
	if what := then.Parent.Differs(now); what != "" {
		return code.Errorf(code.TaskState, "the parent volume %s was changed since (%s), so what was deleted does not fit it any more", found.Parent, what)
	}
	return nil
}
