package storageops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// sparsify is a job that frees in a volume what is allocated and reads as zeros. What a guest's file system does not use, but has not
// zeroed or discarded, stays: the agent looks into no file system.
type sparsify struct{ *job }

// stepFree is the name of its step.
const stepFree = "free"

func (st *Storage) sparsifyVolume() *tasks.Verb {
	return st.jobVerb(&tasks.Verb{
		Role: access.Operate, Doc: "Free what a volume has allocated and reads as zeros, in place, as a job.",
		Name: "SDM.sparsify_volume", Params: onVolume{}, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "that write", PointOfNoReturn: stepGeneration,
			Remainder: "volume LEGAL and whole, part sparsified; bitmaps of a COW volume are lost if its worker had to be killed",
			Bound:     10 * time.Second,
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[onVolume](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			x := sparsify{st.jobOn(p.Volume)}
			return &tasks.Plan{
				Tag: tasks.TagSDM, Locks: x.locks(), Success: "what reads as zeros was freed",
				Steps: []tasks.Step{x.checkStep(x.look), x.freeStep(), x.lastWrite(stepGeneration, unchanged)},
			}, nil
		},
	}, func(raw json.RawMessage) (divInfo, error) {
		p, err := decode[onVolume](raw, param.Lenient)
		return p.Volume, err
	})
}

// look refuses what others are built on, which nobody may write, and what is to stay allocated.
func (x sparsify) look(ctx context.Context, s *tasks.Scope, _ storageDomain, m domain.VolumeMeta) (any, error) {
	if err := writableLeaf(x.volumeRef, m); err != nil {
		return nil, err
	}
	if m.Type == domain.Preallocated {
		return nil, code.Errorf(code.Unsupported, "%s is PREALLOCATED: its blocks are meant to stay allocated", x.volumeRef)
	}
	source, m, err := x.st.volumeSource(ctx, s, x.volumeRef)
	if err != nil {
		return nil, err
	}
	info, err := x.st.images.Info(ctx, s, source.image().Alone())
	if err == nil && info.Compat == qemuimg.Compat010 {
		err = code.Errorf(code.Unsupported, "%s is of the version %s of its format, in which zeros take room; amend it to %s", x.volumeRef, info.Compat, qemuimg.Compat11)
	}
	return commandPlan{jobPlanOf(m), source}, err
}

// freeStep goes on at its last checkpoint. At each it looks whether the volume is still the job's.
func (x sparsify) freeStep() tasks.Step {
	return tasks.Step{
		Name: stepFree, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[commandPlan](s)
			if err != nil {
				return err
			}
			last := new(copy.FillState)
			if found, err := s.LastCheckpoint(last); err != nil {
				return err
			} else if !found {
				last = nil
			}
			return x.leased(ctx, s, func(d storageDomain) error {
				if err := x.still(p.jobPlan); err != nil {
					return err
				}
				l, done := x.st.moving(x.fenced(s, p.jobPlan), x.Domain)
				defer done()
				if err := x.st.images.Sparsify(ctx, l, p.Image.image(), last); err != nil {
					return err
				}
				return d.SetMode(x.Image, x.Volume) // which syncs it
			})
		},
		Remainder: func(*tasks.Scope) string {
			return x.volumeRef.String() + " is part sparsified, and reads as before"
		},
	}
}
