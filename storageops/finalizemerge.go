package storageops

import (
	"context"
	"path"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// finalization is StoragePool.finalizeMerge at work: the top goes out of the chain.
type finalization struct {
	st *Storage
	subchainInfo
}

// finalPlan is what its check finds.
type finalPlan struct {
	Children   []string `json:"children,omitempty"` // of the top, which get the base as their parent
	BaseFormat string   `json:"baseFormat"`         // QEMU's word
}

func (st *Storage) finalizeMerge() *tasks.Verb {
	return st.subchainVerb(&tasks.Verb{
		Doc:  "Take a volume that was merged into the one below it out of its chain.",
		Name: "StoragePool.finalizeMerge", Word: "finalizeMerge", Forward: true,
		Contract: tasks.Contract{
			CancellableUntil: "top ILLEGAL recorded", PointOfNoReturn: "top ILLEGAL", Undo: "untouched", Bound: 5 * time.Second,
		},
	}, func(_ string, i subchainInfo) []tasks.Step {
		f := &finalization{st, i}
		return []tasks.Step{f.checkStep(), f.illegalStep(), f.rebaseStep(), f.relinkStep()}
	})
}

// checkStep finds out what there is to do; less, if a former task has done a part of it. The generation is that of before the merge,
// if one is given at all, and is not looked at.
func (f *finalization) checkStep() tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := f.st.writable(string(f.Domain))
			if err != nil {
				return nil, err
			}
			c, err := readSubchain(d, f.subchainInfo)
			if err != nil {
				return nil, err
			}
			if c.base.Legality == domain.Illegal {
				return nil, code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL: the merge into it has not been completed; do that first", f.base().ref())
			}
			for _, child := range c.children {
				if _, err := f.known(ctx, s, d, child); err != nil {
					return nil, err
				}
			}
			return finalPlan{c.children, imageFormat(c.base.Format)}, nil
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return f.st.reach(ctx, s, string(f.Domain)) }, // again at each resume
	}
}

// known is the image of a child of the top. Its file names the top as what is below it, or the base already (else 484).
func (f *finalization) known(ctx context.Context, w work, d storageDomain, child string) (qemuimg.Image, error) {
	file, err := d.VolumePath(string(f.Image), child)
	if err != nil {
		return qemuimg.Image{}, err
	}
	img := qemuimg.Image{Path: file, Format: qemuimg.QCOW2}
	info, err := f.st.images.Info(ctx, w, img)
	if err != nil {
		return img, err
	}
	if below := path.Base(info.Backing); below != string(f.Top) && below != string(f.Base) {
		return img, code.Errorf(code.ImageVerification, "%s has the backing file %q and not the volume that its metadata says, %s", file, info.Backing, f.Top)
	}
	return img, nil
}

// complete is the Do of a step past the point of no return: with a volume gone it can never be completed.
func (f *finalization) complete(do func(ctx context.Context, s *tasks.Scope, d storageDomain, p finalPlan) error) func(context.Context, *tasks.Scope) error {
	return func(ctx context.Context, s *tasks.Scope) error {
		p, err := planned[finalPlan](s)
		if err != nil {
			return err
		}
		d, err := f.st.domains.Get(string(f.Domain))
		if err != nil {
			return err
		}
		if err := do(ctx, s, d, p); absent(err) {
			return tasks.Permanent(err, f.top().String()+" is ILLEGAL, and what was built on it may be built on "+string(f.Base)+" already")
		} else if err != nil {
			return err
		}
		return nil
	}
}

// illegalStep marks the top: what it holds is in the base now, and once a child has left it, it shows what no guest has written.
func (f *finalization) illegalStep() tasks.Step {
	return tasks.Step{
		Name: "illegal", PointOfNoReturn: true,
		Do: f.complete(func(_ context.Context, _ *tasks.Scope, d storageDomain, _ finalPlan) error {
			return d.UpdateVolumeMeta(string(f.Image), string(f.Top), func(m *domain.VolumeMeta) error { m.Legality = domain.Illegal; return nil })
		}),
	}
}

// rebaseStep lets each child's file name the base. It is synced also when it does already: who wrote it may have died before.
func (f *finalization) rebaseStep() tasks.Step {
	return tasks.Step{
		Name: "rebase",
		Do: f.complete(func(ctx context.Context, s *tasks.Scope, d storageDomain, p finalPlan) error {
			for _, child := range p.Children {
				img, err := f.known(ctx, s, d, child)
				if err != nil {
					return err
				}
				release, err := f.st.hold(ctx, s, volumeRef{string(f.Domain), string(f.Image), child})
				if err != nil {
					return err
				}
				err = f.st.images.Rebase(ctx, s, img, string(f.Base), p.BaseFormat)
				release()
				if err != nil {
					return err
				}
				if err := d.SetMode(string(f.Image), child); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// relinkStep lets the metadata say what the files do. Without a child the base is the leaf.
func (f *finalization) relinkStep() tasks.Step {
	return tasks.Step{
		Name: "metadata",
		Do: f.complete(func(_ context.Context, _ *tasks.Scope, d storageDomain, p finalPlan) error {
			for _, child := range p.Children {
				err := d.UpdateVolumeMeta(string(f.Image), child, func(m *domain.VolumeMeta) error { m.PUUID = string(f.Base); return nil })
				if err != nil {
					return err
				}
			}
			c, err := readSubchain(d, f.subchainInfo)
			if err != nil || len(c.siblings) > 0 || c.base.VolType != domain.Internal {
				return err
			}
			return d.UpdateVolumeMeta(string(f.Image), string(f.Base), func(m *domain.VolumeMeta) error { m.VolType = domain.Leaf; return nil })
		}),
	}
}
