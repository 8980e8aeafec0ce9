package copy

import (
	"context"
	"errors"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
)

// Run copies spec.Source into spec.Dest and returns when all of it is on stable storage.
//
//   - last is nil: from the start. Otherwise it is the state that was given to Checkpoint last, and the copy goes on there, or
//     starts over if the destination or the source is not what it was.
//   - ctx ends: its cause, after all workers are gone. The destination is unfinished; the last checkpoint is good.
//   - The destination's file system is full: code 397. The last checkpoint is good.
//   - The copy has to start over and spec.Recreate is nil, the source changes while it is read, a worker fails: code 225, or
//     the one of the cause.
func Run(ctx context.Context, env Env, spec Spec, last *State) error {
	if err := spec.check(); err != nil {
		return err
	}
	if last != nil && last.Complete {
		return nil
	}
	r := &run{env: env, spec: spec}
	err := r.run(ctx, last)
	r.keeper.kill()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return qemuimg.Failure(code.VolumeCopy, err, "copying "+spec.Source.Path+" to "+spec.Dest.Path+" failed")
}

// run is one Run. Only the goroutine of Run changes it.
type run struct {
	env    Env
	spec   Spec
	keeper *keeper
	state  State
	// resumed says that a former run has written into the destination.
	resumed bool
}

func (r *run) run(ctx context.Context, last *State) error {
	if err := r.begin(ctx, last); err != nil {
		return err
	}
	if r.spec.rawToRaw() {
		if err := r.copyRaw(); err != nil {
			return err
		}
	} else if err := r.copySlices(ctx); err != nil {
		return err
	}
	return r.finish(ctx)
}

// begin opens the destination, decides whether what it holds can be used, and records the first checkpoint.
func (r *run) begin(ctx context.Context, last *State) error {
	fresh := r.spec.Dest.New
	for {
		if err := r.openKeeper(ctx); err != nil {
			return err
		}
		why, err := r.unusable(ctx, last)
		if err != nil {
			return err
		}
		if last != nil && why == "" {
			r.state, r.resumed = *last, true
			return nil
		}
		blank := fresh
		if why == "" && !blank {
			if blank, err = isBlank(ctx, r.env, r.spec); err != nil {
				return err
			}
			if !blank && r.spec.overlay() {
				why = "it already holds data, which an overlay's copy would leave in place"
			}
		}
		if why == "" {
			r.state = State{Blank: blank, Sources: r.keeper.hello.Sources}
			return r.env.Checkpoint(r.state)
		}
		if last, err = nil, r.recreate(ctx, why); err != nil {
			return err
		}
		fresh = true
	}
}

// unusable says why a copy cannot be resumed from last; "" if it can, or if there is nothing to resume. A check that finds
// leaked clusters gives them back.
func (r *run) unusable(ctx context.Context, last *State) (why string, err error) {
	switch {
	case last == nil:
		return "", nil
	case last.Over:
		return "an earlier run found it unreliable", nil
	case !slices.Equal(last.Sources, r.keeper.hello.Sources):
		return "the source was changed since the copy began", nil
	case r.spec.Dest.Format == qemuimg.Raw:
		return "", nil
	}
	found, err := qemuimg.RepairLeaks(ctx, r.env, r.spec.dest())
	var exit *proc.ExitError
	switch {
	case errors.As(err, &exit) && exit.Signal == 0 && !strings.Contains(exit.Stderr, eio) && ctx.Err() == nil:
		return "it cannot be opened any more", nil
	case err != nil:
		return "", err
	case found.Found == qemuimg.Corrupt:
		return "it is damaged", nil
	}
	return "", nil
}

// eio is what programs in C call an error of the device: it says nothing about what the destination holds.
const eio = "Input/output error"

// recreate makes the destination anew. That it is due is recorded before, so a crash at any moment leads here again.
func (r *run) recreate(ctx context.Context, why string) error {
	if r.spec.Recreate == nil {
		return code.Errorf(code.VolumeCopy, "the copy cannot go on in %s: %s; remove it and copy again", r.spec.Dest.Path, why)
	}
	if err := r.keeper.close(); err != nil {
		return err
	}
	if err := r.env.Checkpoint(State{Over: true}); err != nil {
		return err
	}
	return r.spec.Recreate(ctx)
}

// isBlank looks whether a destination that was not made for this copy reads as zeros or, with a backing file, holds nothing.
func isBlank(ctx context.Context, st qemuimg.Starter, spec Spec) (bool, error) {
	stop := errors.New("not blank")
	err := qemuimg.Map(ctx, st, spec.dest().Alone(), func(e qemuimg.Extent) error {
		if e.Data || !e.Zero || e.Present && len(spec.Dest.Backing) > 0 {
			return stop
		}
		return nil
	})
	if errors.Is(err, stop) {
		return false, nil
	}
	return err == nil, err
}

// finish does what is left when all data is there.
func (r *run) finish(ctx context.Context) error {
	if r.spec.Bitmaps {
		if err := copyBitmaps(ctx, r.env, r.spec.source(), r.spec.dest()); err != nil {
			return err
		}
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	now, err := r.keeper.stat()
	if err != nil {
		return err
	}
	if !slices.Equal(now, r.state.Sources) {
		return errors.Join(r.taint(), code.Errorf(code.VolumeCopy,
			"%s was changed while it was copied; stop what writes it and copy again", r.spec.Source.Path))
	}
	if r.spec.Dest.Format == qemuimg.Raw && !r.spec.shown() {
		if err := r.keeper.truncate(r.spec.Capacity); err != nil {
			return err
		}
	}
	done := r.state
	done.Complete, done.Done = true, done.Total
	if err := r.commit(done); err != nil {
		return err
	}
	r.env.Progress(done.Total, done.Total)
	return r.keeper.close()
}

// sweep gives back what a resumed copy has leaked: QEMU may leave a cluster of its tables unused when it goes on in an image
// whose writer was killed, also if the image was repaired before. The sync that follows in finish covers it.
func (r *run) sweep(ctx context.Context) error {
	if !r.resumed || r.spec.Dest.Format == qemuimg.Raw {
		return nil
	}
	found, err := qemuimg.RepairLeaks(ctx, r.env, r.spec.dest())
	if err == nil && found.Found == qemuimg.Corrupt {
		err = errors.Join(r.taint(), code.Errorf(code.VolumeCopy, "%s is damaged at the end of its copy; copy again", r.spec.Dest.Path))
	}
	return err
}

// commit puts all that was written to stable storage and then records next. It does not change r, so that it may go on while
// the next slice is copied.
func (r *run) commit(next State) error {
	if err := r.keeper.sync(); err != nil {
		return r.lost(err)
	}
	return r.env.Checkpoint(next)
}

// lost handles the end of a keeper. If it ended because a sync failed, that is recorded: what it lost is not known.
func (r *run) lost(err error) error {
	var exit *proc.ExitError
	if errors.As(err, &exit) && exit.Code == exitSync {
		return errors.Join(err, r.taint())
	}
	return err
}

// taint records that the destination has to be made anew before the copy can go on.
func (r *run) taint() error {
	s := r.state
	s.Over = true
	return r.env.Checkpoint(s)
}

// copyBitmaps copies the bitmaps that are consistent: added disabled, so that what is merged into them is all that they
// hold, and enabled at last if the source's are. One that is there already is a former run's and is replaced.
func copyBitmaps(ctx context.Context, st qemuimg.Starter, src, dst qemuimg.Image) error {
	from, err := qemuimg.ReadInfo(ctx, st, src)
	if err != nil {
		return err
	}
	to, err := qemuimg.ReadInfo(ctx, st, dst)
	if err != nil {
		return err
	}
	for _, b := range from.Bitmaps {
		if b.InUse {
			continue
		}
		if slices.ContainsFunc(to.Bitmaps, func(o qemuimg.Bitmap) bool { return o.Name == b.Name }) {
			if err := qemuimg.RemoveBitmap(ctx, st, dst, b.Name); err != nil {
				return err
			}
		}
		if err := qemuimg.AddBitmap(ctx, st, dst, b.Name, b.Granularity, true); err != nil {
			return err
		}
		if err := qemuimg.MergeBitmap(ctx, st, dst, b.Name, src, b.Name); err != nil {
			return err
		}
		if !b.Enabled {
			continue
		}
		if err := qemuimg.EnableBitmap(ctx, st, dst, b.Name); err != nil {
			return err
		}
	}
	return nil
}
