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

// mergeParams are those of SDM.merge.
type mergeParams struct {
	Subchain subchainInfo `json:"subchain_info" doc:"the volume top_id, base_id below it, and the generation that that must have"`
	Bitmaps  param.Bool   `json:"merge_bitmaps" default:"false" doc:"merge the bitmaps of the top into those of the base too"`
}

func (p mergeParams) check() error { return p.Subchain.check() }

// merge is a job that writes into a volume what the one above it holds.
type merge struct {
	*job
	subchainInfo
	bitmaps bool
}

const stepCommit = "commit"

// mergePlan is what its check finds.
type mergePlan struct {
	jobPlan
	Top      from   `json:"top"` // with the base right below it
	Legality string `json:"legality"`
	Merging  bool   `json:"merging,omitempty"`
}

func (st *Storage) mergeVolumes() *tasks.Verb {
	return st.jobVerb(&tasks.Verb{
		Role: access.Operate, Doc: "Write what a volume holds into the one below it, as a job.",
		Name: "SDM.merge", Params: mergeParams{}, Forward: true, Class: tasks.ClassMerge,
		Contract: tasks.Contract{
			CancellableUntil: "commit ended", DecidedBy: qemuimg.Program,
			Remainder: "chain reads as before through top; base is part merged, so the snapshot that base held is lost and previewing it is refused until the merge is retried",
			Bound:     10 * time.Second,
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[mergeParams](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			x := &merge{st.jobOn(p.Subchain.base()), p.Subchain, bool(p.Bitmaps)}
			return &tasks.Plan{
				Tag: tasks.TagSDM, Locks: x.locks(), Success: fmt.Sprintf("merged into %s", x.volumeRef),
				Steps: []tasks.Step{x.checkStep(x.look), x.illegalStep(), x.commitStep(), x.bitmapsStep(), x.legalStep()},
			}, nil
		},
	}, func(raw json.RawMessage) (divInfo, error) {
		p, err := decode[mergeParams](raw, param.Lenient)
		return p.Subchain.base(), err
	})
}

func (x *merge) look(ctx context.Context, s *tasks.Scope, d storageDomain, m domain.VolumeMeta) (any, error) {
	c, err := readSubchain(d, x.subchainInfo)
	if err != nil {
		return nil, err
	}
	if err := c.mergeable(x.subchainInfo); err != nil {
		return nil, err
	}
	if m.Capacity < c.top.Capacity {
		return nil, code.Errorf(code.InvalidParameter, "%s has %d bytes, less than the %d of what is merged into it; call StoragePool.prepareMerge first", x.volumeRef, m.Capacity, c.top.Capacity)
	}
	p := mergePlan{jobPlan: jobPlanOf(m), Legality: m.Legality, Merging: m.Merging}
	if p.Top, err = x.st.proven(ctx, s, d, x.top()); err != nil {
		return nil, err
	}
	return p, x.fits(ctx, s, d, p)
}

// fits refuses what would not fit (397): both together take more than the base does now.
func (x *merge) fits(ctx context.Context, s *tasks.Scope, d storageDomain, p mergePlan) error {
	img := p.Top.image()
	base := qemuimg.Image{Path: img.Backing[0].Path, Format: img.Backing[0].Format}
	img.Backing = img.Backing[:1]
	both, err := x.st.images.Measure(ctx, s, img, base.Format)
	if err != nil {
		return err
	}
	now, err := x.st.images.Info(ctx, s, base)
	if err != nil {
		return err
	}
	return enoughRoom(d, both.Required-now.ActualSize)
}

// illegalStep marks the base before anything is written into it: what it showed by itself is no more to be relied on. Once the commit
// may have begun, that stays so until one is completed.
func (x *merge) illegalStep() tasks.Step {
	set := func(ctx context.Context, s *tasks.Scope, to func(p mergePlan, m *domain.VolumeMeta)) error {
		p, err := planned[mergePlan](s)
		if err != nil {
			return err
		}
		return x.leased(ctx, s, func(d storageDomain) error {
			return d.UpdateVolumeMeta(x.job.Image, x.Volume, func(m *domain.VolumeMeta) error {
				to(p, m)
				return x.mine(p.jobPlan, *m)
			})
		})
	}
	return tasks.Step{
		Name: "illegal",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			return set(ctx, s, func(_ mergePlan, m *domain.VolumeMeta) { m.Legality, m.Merging = domain.Illegal, true })
		},
		Undo: func(ctx context.Context, s *tasks.Scope) error {
			if s.Started(stepCommit) {
				return nil
			}
			err := set(ctx, s, func(p mergePlan, m *domain.VolumeMeta) { m.Legality, m.Merging = p.Legality, p.Merging })
			if refusesJob(err) {
				return nil // somebody else's now
			}
			return err
		},
	}
}

// commitStep is decided by qemu-img: if it has ended well before the stop has ended it, the merge is done. A worker that died with its
// agent has decided nothing, and another one begins anew.
func (x *merge) commitStep() tasks.Step {
	return tasks.Step{
		Name: stepCommit, DecidedBy: qemuimg.Program,
		Do: x.st.holding(x.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[mergePlan](s)
			if err != nil {
				return err
			}
			if err := x.still(p.jobPlan); err != nil {
				return err
			}
			l, done := x.st.moving(s, x.job.Domain)
			defer done()
			if err := x.st.images.Commit(ctx, l, p.Top.image()); err != nil {
				return err
			}
			d, err := x.domain()
			if err != nil {
				return err
			}
			return d.SetMode(x.job.Image, x.Volume) // which syncs it
		}),
		Remainder: func(*tasks.Scope) string {
			return fmt.Sprintf("%s is part merged: it stays ILLEGAL, and its bitmaps may be lost, until the merge is retried; through %s the chain reads as before", x.volumeRef, x.Top)
		},
	}
}

// bitmapsStep adds to each bitmap of the base what the top's marks. One that the base has, but was not closed, has forgotten what was
// written before the top was made: it stays as it is, and the next backup is a full one.
func (x *merge) bitmapsStep() tasks.Step {
	return tasks.Step{
		Name: "bitmaps",
		Do: x.st.holding(x.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[mergePlan](s)
			if err != nil || !x.bitmaps || p.Top.Backing[0].Format != qemuimg.QCOW2 {
				return err
			}
			top := p.Top.image()
			base := qemuimg.Image{Path: top.Backing[0].Path, Format: qemuimg.QCOW2}
			return x.mergeBitmaps(ctx, s, base, top.Alone())
		}),
	}
}

func (x *merge) mergeBitmaps(ctx context.Context, s *tasks.Scope, base, top qemuimg.Image) error {
	has, err := x.st.images.Info(ctx, s, base)
	if err != nil {
		return err
	}
	from, err := x.st.images.Info(ctx, s, top)
	if err != nil {
		return err
	}
	useful := slices.DeleteFunc(from.Bitmaps, func(b qemuimg.Bitmap) bool {
		lost := slices.ContainsFunc(has.Bitmaps, func(old qemuimg.Bitmap) bool { return old.Name == b.Name && old.InUse })
		return b.InUse || !b.Enabled || lost
	})
	if err := x.st.addMissing(ctx, s, base, useful); err != nil {
		return err
	}
	for _, b := range useful {
		if err := x.st.images.MergeBitmap(ctx, s, base, b.Name, top); err != nil {
			return err
		}
	}
	return nil
}

// legalStep is the last write: the base shows what the top does, and is as LEGAL.
func (x *merge) legalStep() tasks.Step {
	return x.lastWrite("legal", func(_ *tasks.Scope, m *domain.VolumeMeta) error {
		m.Legality, m.Merging = domain.Legal, false
		return nil
	})
}
