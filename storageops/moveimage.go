package storageops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// moveParams are those of Image.move.
type moveParams struct {
	Image     param.UUID      `json:"imageID" doc:"image to copy, with all its volumes"`
	Pool      param.UUID      `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain    param.UUID      `json:"storagedomainID"`
	DstDomain param.UUID      `json:"dstSdUUID"`
	Operation param.Operation `json:"operation" doc:"MOVE: the source goes to the trash when all is copied"`
	PostZero  param.Bool      `json:"postZero" default:"false" doc:"what this moves away, replaces, or leaves when it is stopped, is wiped when it is reclaimed"`
	Force     param.Bool      `json:"force" default:"false" doc:"replace the image in the destination if it is there"`
	Discard   param.Bool      `json:"discard" default:"false"`
}

func (p moveParams) check() error { return otherDomain(p.Domain, p.DstDomain) }

// otherDomain refuses to copy an image to where it is.
func otherDomain(source, dest param.UUID) error {
	if source == dest {
		return code.Errorf(code.InvalidParameter, "dstSdUUID must be another domain than storagedomainID")
	}
	return nil
}

func (p moveParams) chain(st *Storage, task string) *chain {
	return &chain{
		st: st, task: task, image: string(p.Image), source: string(p.Domain), dest: string(p.DstDomain), force: bool(p.Force),
		postZero: bool(p.PostZero),
	}
}

func (st *Storage) moveImage() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Copy or move an image with all of its volumes to another domain.",
		Name: "Image.move", Word: "moveImage", Params: moveParams{}, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "destination gone, source in place",
			Revert: "destination gone, source in place; MOVE: source back", Bound: 10 * time.Second,
		},
		Plan: st.planMove,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[moveParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			return p.chain(st, "").admit()
		},
	}
}

func (st *Storage) planMove(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[moveParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	c := p.chain(st, id)
	plan := &tasks.Plan{
		Tag: tag(p.Pool), Locks: c.locks(imageShared(c.source, c.image)), Success: "copied to " + c.destImage().String(),
		Steps: []tasks.Step{
			c.checkStep(true, func() error { return nil }), c.replaceStep(), c.imageStep(), c.shareStep(), c.filesStep(), c.allocateStep(),
			c.metadataStep(domain.Illegal), c.dataStep(), c.legalStep(),
		},
		Fingerprint: c.fingerprint, Unused: c.unused,
		Deferred: func(s *tasks.Scope, end tasks.End) *tasks.Submission { return c.reclaim(s, end, false) },
	}
	if p.Operation == param.Move {
		c.moves(plan)
	}
	return plan, nil
}

// moves makes of a copy a move: the source goes to the trash at last.
func (c *chain) moves(plan *tasks.Plan) {
	x := &deletion{st: c.st, task: c.task, Domain: c.source, Image: c.image}
	plan.Success = "moved to " + c.destImage().String()
	plan.Locks = c.locks(imageExclusive(c.source, c.image))
	plan.Steps[0] = c.checkStep(true, c.movable)
	plan.Steps = append(plan.Steps, x.trashStep())
	plan.Expires = x.expires
	plan.Unused = func(ctx context.Context, s *tasks.Scope, fingerprint json.RawMessage) error {
		if err := c.unused(ctx, s, fingerprint); err != nil {
			return err
		}
		return x.unused(ctx, s, fingerprint)
	}
	plan.Deferred = func(s *tasks.Scope, end tasks.End) *tasks.Submission { return c.reclaim(s, end, true) }
}

// movable refuses to move a template away from the images that are derived from it.
func (c *chain) movable() error {
	d, err := c.st.writable(c.source)
	if err != nil {
		return err
	}
	volumes, err := d.Volumes(c.image)
	if err != nil {
		return err
	}
	if err := notDerivedFrom(d, c.image, volumes); err != nil {
		return code.Errorf(code.MoveTemplateImage, "%w, or copy the template instead", err)
	}
	return nil
}

// replaceStep moves an image that is in the place to the trash.
func (c *chain) replaceStep() tasks.Step {
	return tasks.Step{
		Name: "replace",
		Do: func(_ context.Context, s *tasks.Scope) error {
			p, err := c.planned(s)
			if err != nil || !p.Replaces {
				return err
			}
			d, err := c.st.domains.Get(c.dest)
			if err != nil {
				return err
			}
			return d.Trash().Put(domain.Entry{Task: c.task, Label: labelReplaced, Image: c.image})
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			return restoreReplaced(c.st, s, c.destImage(), stepImage)
		},
	}
}

// reclaim is the task that empties this one's trash, once nothing in it can be needed again: what an undo has taken back, when the
// task is stopped or, after a revert, cleared; and what it has replaced or moved away, when it is cleared or its time is over. What a failed
// undo could not put back stays.
func (c *chain) reclaim(s *tasks.Scope, end tasks.End, moves bool) *tasks.Submission {
	p, err := c.planned(s)
	if err != nil {
		return nil
	}
	finished := s.State() == tasks.Finished && end != tasks.EndReverted
	undone := end == tasks.EndUndone || end == tasks.EndCleared && s.State() == tasks.Recovered
	switch {
	case undone && s.Started(stepImage), finished && p.Replaces && !moves:
		return reclaimTask(c.dest, c.task, c.postZero)
	case finished && moves && !p.Replaces:
		return reclaimTask(c.source, c.task, c.postZero)
	case finished && moves:
		return reclaimTask("", c.task, c.postZero)
	}
	return nil
}
