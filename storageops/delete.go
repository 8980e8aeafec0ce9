package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
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

type deleteVolumesParams struct {
	Image    param.UUID   `json:"imageID" doc:"image that the volumes are in"`
	Pool     param.UUID   `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain   param.UUID   `json:"storagedomainID"`
	Volumes  []param.UUID `json:"volumeList" doc:"volumes to delete, in any order"`
	PostZero param.Bool   `json:"postZero" default:"false" doc:"overwrite with zeros; cannot be taken back"`
	Force    param.Bool   `json:"force" default:"false"`
	Discard  param.Bool   `json:"discard" default:"false"`
}

// deletion is some volumes of an image, or all of it, on the way to the trash.
type deletion struct {
	st      *Storage
	task    string
	Domain  string
	Image   string
	volumes []string // nil = the whole image
	wipe    bool
}

// deletionPlan is what the check step found.
type deletionPlan struct {
	Gone    bool     `json:"gone,omitempty"`    // it is not there, or in the trash already: nothing to do
	Volumes []string `json:"volumes,omitempty"` // that are there, a child before its parent; none of a whole image
	Parents []string `json:"parents,omitempty"` // in the same image, of these and not among them
}

func (st *Storage) deleteVolume() *tasks.Verb {
	plan := func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		var p deleteParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		x := &deletion{st, id, string(p.Domain), string(p.Image), []string{string(p.Volume)}, bool(p.PostZero)}
		return x.plan(p.Pool, x.illegalStep(), x.parentStep()), nil
	}
	return &tasks.Verb{
		Role: access.Operate, Doc: "Move a volume to the trash.",
		Name: "Volume.delete", Word: "deleteVolume", Params: deleteParams{}, Class: tasks.ClassLight, Contract: deleteContract(),
		Plan: plan, Admit: st.admitDelete,
	}
}

func (st *Storage) deleteVolumes() *tasks.Verb {
	plan := func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		var p deleteVolumesParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		if len(p.Volumes) == 0 {
			return nil, code.Errorf(code.InvalidParameter, "parameter \"volumeList\" names no volume; Image.delete deletes all of an image")
		}
		x := &deletion{st: st, task: id, Domain: string(p.Domain), Image: string(p.Image), wipe: bool(p.PostZero)}
		for _, v := range p.Volumes {
			x.volumes = append(x.volumes, string(v))
		}
		return x.plan(p.Pool, x.illegalStep(), x.parentStep()), nil
	}
	return &tasks.Verb{
		Role: access.Operate, Doc: "Move several volumes of an image to the trash.",
		Name: "Image.deleteVolumes", Word: "deleteVolume", Params: deleteVolumesParams{}, Class: tasks.ClassLight, Contract: deleteContract(),
		Plan: plan, Admit: st.admitDelete,
	}
}

func (st *Storage) deleteImage() *tasks.Verb {
	plan := func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		var p deleteImageParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		x := &deletion{st, id, string(p.Domain), string(p.Image), nil, bool(p.PostZero)}
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

// plan is the same for all: more stands for what only single volumes need before they move.
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
			if x.volumes == nil {
				return x.findImage(d)
			}
			return x.findVolumes(d)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { // again at each resume
			return x.st.reach(ctx, s, x.Domain)
		},
	}
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
			if x.volumes == nil {
				return d.Trash().Put(domain.Entry{Task: x.task, Label: labelDeleted, Image: x.Image, Deadline: p.Deadline})
			}
			found, err := x.found(s)
			if err != nil {
				return err
			}
			for i, v := range found.Volumes {
				err := d.Trash().Put(domain.Entry{Task: x.task, Label: labelOf(i), Image: x.Image, Volume: v, Deadline: p.Deadline})
				if err != nil {
					return err
				}
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

// deletedPrint is what must not have changed when a delete is taken back: the parents, on whose content the volumes depend.
type deletedPrint struct {
	Parents map[string]domain.Fingerprint `json:"parents,omitempty"`
}

func (x *deletion) fingerprint(_ context.Context, s *tasks.Scope) (any, error) {
	found, err := x.found(s)
	if err != nil || len(found.Parents) == 0 {
		return deletedPrint{}, err
	}
	d, err := x.st.domains.Get(x.Domain)
	if err != nil {
		return nil, err
	}
	prints := map[string]domain.Fingerprint{}
	for _, v := range found.Parents {
		parent, err := d.ReadVolume(x.Image, v)
		if absent(err) || err == nil && parent.VolType == domain.Shared {
			continue // nobody writes a template, and each image derived from it changes its links
		}
		if err != nil {
			return nil, err
		}
		if prints[v], err = d.Fingerprint(x.Image, v); err != nil {
			return nil, err
		}
	}
	return deletedPrint{prints}, nil
}

// unused refuses to take a delete back when there is nothing to take back, or when the parent was written since: the volume
// would then show something that never was.
func (x *deletion) unused(_ context.Context, s *tasks.Scope, raw json.RawMessage) error {
	if x.wipe {
		return code.Errorf(code.NotRevertible, "%s was wiped (postZero) and cannot come back", x.what())
	}
	if x.nothingToDo(s) {
		return code.Errorf(code.TaskState, "%s was gone before this task; there is nothing to take back", x.what())
	}
	var then deletedPrint
	if err := json.Unmarshal(raw, &then); err != nil {
		return code.Errorf(code.TaskState, "what the parent volumes looked like cannot be read, so it cannot be shown to be unchanged: %w", err)
	}
	d, err := x.st.writable(x.Domain)
	if err != nil {
		return err
	}
	if _, err := d.Trash().Manifest(x.task); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return code.Errorf(code.TaskState, "%s is not in the trash any more; it was emptied", x.what())
		}
		return err
	}
	for v, then := range then.Parents {
		now, err := d.Fingerprint(x.Image, v)
		if err != nil {
			return code.Errorf(code.TaskState, "the parent volume %s is needed to take the delete back: %w", v, err)
		}
		if what := then.Differs(now); what != "" {
			return code.Errorf(code.TaskState, "the parent volume %s was changed since (%s), so what was deleted does not fit it any more", v, what)
		}
	}
	return nil
}

func (x *deletion) what() string {
	switch len(x.volumes) {
	case 0:
		return "image " + x.Image
	case 1:
		return volumeRef{x.Domain, x.Image, x.volumes[0]}.String()
	}
	return fmt.Sprintf("%d volumes of image %s", len(x.volumes), x.Image)
}
