package vmops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

const stepFreeze = "freeze"

// asked is the checkpoint of a freeze: written before the guest is asked, and again when it is known what it did.
type asked struct {
	Known  bool `json:"known"`
	AtRest bool `json:"atRest"`
}

// freeze brings the guest's file systems to rest, if the guest has an agent that does. Without one the snapshot is as after a power cut. The
// guest is asked once; that cannot be taken back, so a stop waits for the answer, and only then they are thawed.
func (sn *snapshotting) freeze() tasks.Step {
	return tasks.Step{
		Name: stepFreeze, Undone: "file systems thawed",
		Do: func(_ context.Context, s *tasks.Scope) error {
			var before asked
			again, err := s.LastCheckpoint(&before)
			if err != nil || before.Known {
				return err
			}
			if !again {
				if err := s.Checkpoint(asked{}); err != nil {
					return err
				}
			}
			err = sn.vms.hv.Freeze(s.Insist(), s, sn.vm)
			switch {
			case s.Insist().Err() != nil:
				return context.Cause(s.Insist())
			case err == nil:
				return s.Checkpoint(asked{Known: true, AtRest: true})
			case code.Of(err) == code.NoSuchVM:
				return code.Errorf(code.VMIsDown, "machine %s went down", sn.vm)
			}
			s.Log().Warn().Err(err).Msg("the guest's file systems are not brought to rest; the snapshot is as after a power cut")
			if again || virt.Unreachable(err) {
				return nil // it may have happened, and is thawed in any case
			}
			return s.Checkpoint(asked{Known: true})
		},
		Undo: sn.thawed,
	}
}

// thaw lets them go on.
func (sn *snapshotting) thaw() tasks.Step { return tasks.Step{Name: "thaw", Do: sn.thawed} }

// thawed asks the guest to thaw its file systems. If they are at rest it is asked until it has: a guest that stands still is of no use. If
// they only may be, that no agent is there says that they are not.
func (sn *snapshotting) thawed(ctx context.Context, s *tasks.Scope) error {
	var a asked
	began, err := s.CheckpointOf(stepFreeze, &a)
	if err != nil || !began || a.Known && !a.AtRest {
		return err
	}
	for {
		err := sn.vms.hv.Thaw(ctx, s, sn.vm)
		switch {
		case err == nil, virt.Invalid(err), code.Of(err) == code.NoSuchVM, !a.Known && virt.NoGuest(err):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		s.Note("the guest does not thaw its file systems: " + err.Error())
		s.Log().Warn().Err(err).Msg("the guest does not thaw its file systems; it is asked again")
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// freezeNow and thawNow are verbs of their own.
func (vms *VMs) freezeNow(ctx context.Context, vm string) error { return vms.hv.Freeze(ctx, nil, vm) }

func (vms *VMs) thawNow(ctx context.Context, vm string) error { return vms.hv.Thaw(ctx, nil, vm) }
