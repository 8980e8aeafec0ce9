package vmops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// jobRun brings a job of libvirt on a whole machine, or of QEMU on one of its disks, to its end, or has it cancelled. It begins the job only if it neither is there nor has
// ended, so it takes up one that a former run of the agent began. A stop is asserted until libvirt shows no job and has answered the call
// that began it: then nothing of it can begin any more.
type jobRun struct {
	vms   *VMs
	vm    string
	disk  string                                  // "" = a job on the whole machine
	what  string                                  // "the save"
	begin func(ctx context.Context) <-chan error  // asks for it; the channel gets the answer to that call
	done  func(ctx context.Context) (bool, error) // whether it has succeeded, by what can be seen
	fails code.Code                               // that of a job that has not, without a reason
	until <-chan struct{}                         // of one that is ready: it goes on until this says so; nil = not longer
	// active is told of the job as long as it goes on and is not to be cancelled; its error is why it is to be. May be nil.
	active func(ctx context.Context, s *tasks.Scope, job virt.Job) error

	asking  context.Context // of the question how it stands: a stop ends it, since libvirt may answer only when a job ends before which it was asked
	call    <-chan error    // of begin; nil = not called, or answered
	called  bool
	failure error // its answer
	quiet   int   // looks without a job, one after the other
	givenUp error // why it is to be cancelled though nobody has stopped the task
}

// How often a job is looked at: signals say when there is something to see, this is for those that get lost.
const (
	lookEvery   = time.Second
	assertEvery = 100 * time.Millisecond
)

// run returns nil if the job has succeeded, or, of one that does not end by itself, is ready; and an error only when it has not, will not, and is not there any more, or the agent shuts down.
func (j *jobRun) run(ctx context.Context, s *tasks.Scope) error {
	wake, stop := j.vms.hv.Watch(j.vm)
	defer stop()
	insist := s.Insist()
	for insist.Err() == nil {
		stopped := ctx.Err() != nil && s.State() == tasks.Aborting
		if ctx.Err() != nil && !stopped {
			break // the agent shuts down; the job goes on
		}
		if j.asking = insist; !stopped {
			j.asking = ctx
		}
		over, err := j.look(insist, s, stopped || j.givenUp != nil)
		if over {
			return err
		}
		stopped = stopped || j.givenUp != nil
		every, ended := lookEvery, ctx.Done()
		if stopped {
			every = assertEvery
		}
		if ctx.Err() != nil {
			ended = nil
		}
		timer := time.NewTimer(every)
		select {
		case j.failure = <-j.call:
			j.call = nil
		case <-wake:
		case <-j.until:
			j.until = nil
		case <-timer.C:
		case <-ended:
		case <-insist.Done():
		}
		timer.Stop()
	}
	if err := context.Cause(insist); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// look asks libvirt how it stands and does what follows. over: the job has come to an end, and err says which. What is not known is
// asked again, however long that takes: the file of a save that may be under way must not be touched.
func (j *jobRun) look(ctx context.Context, s *tasks.Scope, stopped bool) (over bool, err error) {
	job, err := j.job(j.asking)
	gone := code.Of(err) == code.NoSuchVM || virt.Invalid(err)
	switch {
	case err != nil && !gone:
		s.Note("waiting for libvirt: " + err.Error())
		return false, nil //nolint:nilerr // it is asked again
	case err == nil && job.Active:
		j.quiet = 0
		s.Progress(job.Done, job.Total)
		if !stopped && j.active != nil {
			j.givenUp = j.active(ctx, s, job)
		}
		if stopped {
			j.abort(ctx, s)
		}
		return job.Ready && !stopped && j.until == nil, nil
	case j.call != nil: // its job is not there yet, or not any more
		return false, nil
	}
	j.quiet++
	done, err := j.done(ctx)
	switch {
	case err != nil:
		s.Note("waiting to see what became of " + j.what + ": " + err.Error())
		return false, nil //nolint:nilerr // likewise
	case done:
		return true, nil
	case gone:
		return true, code.Errorf(code.VMIsDown, "machine %s went down before %s was complete", j.vm, j.what)
	case stopped && !j.called && j.quiet < 2:
		return false, nil // a call of a former run of the agent may be about to begin it
	case stopped && j.givenUp != nil:
		return true, j.givenUp
	case stopped:
		return true, code.Errorf(code.TaskAborted, "%s was cancelled", j.what)
	case j.failure != nil && !virt.Unreachable(j.failure):
		return true, j.failure
	case j.called && j.failure == nil:
		return true, code.Errorf(j.fails, "%s was begun and has ended without success; QEMU's log of machine %s may say why", j.what, j.vm)
	}
	j.failure, j.called, j.quiet = nil, true, 0
	j.call = j.begin(ctx)
	return false, nil
}

// job is how it stands.
func (j *jobRun) job(ctx context.Context) (virt.Job, error) {
	if j.disk != "" {
		return j.vms.hv.BlockJob(ctx, j.vm, j.disk)
	}
	return j.vms.hv.Job(ctx, j.vm)
}

// abort asks libvirt to cancel. Whatever it answers, it is asked again as long as the job is there.
func (j *jobRun) abort(ctx context.Context, s *tasks.Scope) {
	cancel := j.vms.hv.AbortJob
	if j.disk != "" {
		cancel = func(ctx context.Context, s *tasks.Scope, vm string) error {
			return j.vms.hv.AbortBlockJob(ctx, s, vm, j.disk)
		}
	}
	if err := cancel(ctx, s, j.vm); err != nil && !virt.Invalid(err) {
		s.Note("libvirt does not cancel " + j.what + ": " + err.Error())
		s.Log().Warn().Err(err).Msgf("libvirt did not take the cancel of %s; it is asked again", j.what)
	}
}

// untilAnswered calls f until libvirt gives it an answer, or ctx ends.
func (vms *VMs) untilAnswered(ctx context.Context, s *tasks.Scope, f func() error) error {
	for {
		err := f()
		if !virt.Unreachable(err) {
			return err
		}
		s.Note("waiting for libvirt: " + err.Error())
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return err
		}
	}
}
