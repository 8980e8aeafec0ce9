package vmops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// blockJobs is what the verbs need of libvirt for the disks of machines; *virt.Client says what each answers.
type blockJobs interface {
	BeginCommit(ctx context.Context, s *tasks.Scope, vm string, job virt.Commit) error
	BeginMirror(ctx context.Context, s *tasks.Scope, vm, disk, xml string) error
	BlockJob(ctx context.Context, vm, disk string) (virt.Job, error)
	AbortBlockJob(ctx context.Context, s *tasks.Scope, vm, disk string) error
	Pivot(ctx context.Context, s *tasks.Scope, vm, disk string) error
}

func (l scoped) BeginCommit(ctx context.Context, _ *tasks.Scope, vm string, job virt.Commit) error {
	return l.Client.BeginCommit(ctx, vm, job)
}

func (l scoped) BeginMirror(ctx context.Context, _ *tasks.Scope, vm, disk, xml string) error {
	return l.Client.BeginMirror(ctx, vm, disk, xml)
}

func (l scoped) AbortBlockJob(ctx context.Context, _ *tasks.Scope, vm, disk string) error {
	return l.Client.AbortBlockJob(ctx, vm, disk)
}

func (l scoped) Pivot(ctx context.Context, _ *tasks.Scope, vm, disk string) error {
	return l.Client.Pivot(ctx, vm, disk)
}

// changeOver ends the job of a disk so that the machine goes on on what it has written.
type changeOver struct {
	vms   *VMs
	vm    string
	disk  string
	what  string // "the merge"
	fails code.Code
	lost  string                                  // the residue if the machine goes down in the middle
	done  func(ctx context.Context) (bool, error) // whether the machine works on it
}

// run returns nil when it does. Any other error than one that Unreachable knows means that it does not, and will not by what was asked. Libvirt
// forgets a machine that goes down, and nobody can tell any more whether it had changed over: that is looked at before the first request,
// which is recorded, and after it is an error for ever.
func (c *changeOver) run(ctx context.Context, s *tasks.Scope) error {
	var asked bool
	before, err := s.LastCheckpoint(&asked)
	if err != nil {
		return err
	}
	for refused := error(nil); ; {
		done, err := c.done(ctx)
		if done || err != nil && code.Of(err) != code.NoSuchVM {
			return err
		}
		job, err := c.vms.hv.BlockJob(ctx, c.vm, c.disk)
		switch {
		case code.Of(err) == code.NoSuchVM || virt.Invalid(err):
			err = code.Errorf(code.VMIsDown, "machine %s went down before %s was complete", c.vm, c.what)
			if before {
				return tasks.Permanent(err, c.lost)
			}
			return err
		case err != nil:
			return err
		case job.Active && job.Pivoting:
			if err := c.wait(ctx); err != nil {
				return err
			}
			continue
		case refused != nil:
			return refused
		case !job.Active:
			return code.Errorf(c.fails, "QEMU has given up %s; its log of machine %s may say why", c.what, c.vm)
		}
		if !before {
			if err := s.Checkpoint(true); err != nil {
				return err
			}
			before = true
		}
		if refused = c.vms.hv.Pivot(ctx, s, c.vm, c.disk); refused == nil || virt.Unreachable(refused) {
			return refused
		}
	}
}

func (c *changeOver) wait(ctx context.Context) error {
	wake, stop := c.vms.hv.Watch(c.vm)
	defer stop()
	timer := time.NewTimer(assertEvery)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// withoutJob cancels the job of a disk until there is none.
func (vms *VMs) withoutJob(ctx context.Context, s *tasks.Scope, vm, disk, what string) error {
	wake, stop := vms.hv.Watch(vm)
	defer stop()
	for {
		job, err := vms.hv.BlockJob(ctx, vm, disk)
		switch {
		case err == nil && !job.Active, code.Of(err) == code.NoSuchVM, virt.Invalid(err):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			err = vms.hv.AbortBlockJob(ctx, s, vm, disk)
		}
		if err != nil && !virt.Invalid(err) {
			s.Note("waiting to cancel " + what + ": " + err.Error())
		}
		timer := time.NewTimer(assertEvery)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}
