package storageops

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// outwardCopy is a copy to an external endpoint. There is no metadata that could say whether that is whole: it is when the task has
// finished, and until then the copy can be cancelled.
type outwardCopy struct {
	st   *Storage
	task string
	copyDataParams
}

// outwardPlan is what its check finds.
type outwardPlan struct {
	Source   from  `json:"source"`
	Capacity int64 `json:"capacity"` // of the destination
}

// checkStep looks at both ends; again, that they are what they were, at each resume.
func (x outwardCopy) checkStep() tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			source, capacity, err := x.st.copySource(ctx, s, x.Source)
			if err != nil {
				return nil, err
			}
			if err := x.st.admitExternal(x.Dest, true); err != nil {
				return nil, err
			}
			if x.Dest.makes() {
				return outwardPlan{source, qemuimg.RoundCapacity(capacity)}, nil
			}
			has, err := x.st.verifyExternal(ctx, s, x.Dest)
			if err == nil && has < capacity {
				err = code.Errorf(code.InvalidParameter, "%s has room for %d bytes, and its source has %d", x.Dest, has, capacity)
			}
			return outwardPlan{source, has}, err
		},
		Do: func(ctx context.Context, s *tasks.Scope) error {
			if !x.Source.external() {
				if err := x.st.reach(ctx, s, string(x.Source.Domain)); err != nil {
					return err
				}
			}
			return x.st.admitExternal(x.Dest, true)
		},
	}
}

// dataStep makes the destination, where it is asked to, and copies slice by slice. What it has copied stays after a stop.
func (x outwardCopy) dataStep() tasks.Step {
	return tasks.Step{
		Name: stepCopy, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[outwardPlan](s)
			if err != nil {
				return err
			}
			spec, err := x.spec(s, p)
			if err != nil {
				return err
			}
			last := new(copy.State)
			found, err := s.LastCheckpoint(last)
			if err != nil {
				return err
			}
			return x.st.externally(ctx, s, x.Dest, func() error {
				if !found {
					last = nil
					if x.Dest.makes() {
						if err := spec.Recreate(ctx); err != nil {
							return err
						}
					}
				}
				l, done := x.st.moving(s, string(x.Source.Domain))
				defer done()
				return x.st.images.Copy(ctx, l, spec, last)
			})
		},
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			var last copy.State
			found, err := s.LastCheckpoint(&last)
			return found && last.Complete, err
		},
		Remainder: func(*tasks.Scope) string { return x.Dest.URL + " is part copied; copy again, or delete it" },
	}
}

// spec is the copy. A destination that was not made for it is not made anew either.
func (x outwardCopy) spec(s *tasks.Scope, p outwardPlan) (copy.Spec, error) {
	img, err := x.Dest.image()
	spec := copy.Spec{
		Source:   copy.Source{Path: p.Source.Path, Format: p.Source.Format, Backing: p.Source.Backing},
		Dest:     copy.Dest{Path: img.Path, Format: img.Format, New: x.Dest.makes() || bool(x.Dest.IsZero)},
		Capacity: p.Capacity,
		Bitmaps:  bool(x.Bitmaps) && p.Source.Format == qemuimg.QCOW2 && img.Format == qemuimg.QCOW2,
	}
	if x.Dest.makes() {
		spec.Recreate = func(ctx context.Context) error {
			return x.st.images.CreateExternal(ctx, s, qemuimg.CreateSpec{Path: img.Path, Format: img.Format, Capacity: p.Capacity})
		}
	}
	return spec, err
}

// externalSource proves an external source, which nobody vouches for, and says how large it is.
func (st *Storage) externalSource(ctx context.Context, s *tasks.Scope, e endpoint) (from, int64, error) {
	if err := st.admitExternal(e, false); err != nil {
		return from{}, 0, err
	}
	size, err := st.verifyExternal(ctx, s, e)
	if err != nil {
		return from{}, 0, err
	}
	img, err := e.image()
	return from{Path: img.Path, Format: img.Format}, size, err
}

// verifyExternal refuses what is not of the format that is said, or names another file (484).
func (st *Storage) verifyExternal(ctx context.Context, s *tasks.Scope, e endpoint) (size int64, err error) {
	img, err := e.image()
	if err != nil {
		return 0, err
	}
	info, err := st.images.Verify(ctx, s, img, qemuimg.Expect{})
	return info.VirtualSize, err
}
