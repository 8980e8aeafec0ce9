package vmops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// migrating is one migration, on the host that the machine leaves. This host decides: as long as its libvirt has the machine running, it
// has not gone, whatever there is on the other one. If it is paused or not there, what the other host has says whether it arrived, and
// nothing is done with the machine on either host before that has answered.
type migrating struct {
	vms      *VMs
	task, vm string
	journey  journey
}

const (
	stepDestination = "destination"
	stepSend        = "pre-copy"
)

// before is the plan of the look.
type before struct {
	Paused bool `json:"paused"`
}

func (m *migrating) look() tasks.Step {
	return tasks.Step{
		Name: stepLook,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) {
			state, err := m.vms.alive(ctx, m.vm)
			if err != nil {
				return nil, err
			}
			job, err := m.vms.hv.Job(ctx, m.vm)
			if virt.Invalid(err) || err == nil && job.Active {
				return nil, code.Errorf(code.MigrationInProgress, "libvirt does something else with machine %s now; try again when that has ended", m.vm)
			}
			return before{Paused: state.Phase == virt.Paused}, err
		},
		Do: func(context.Context, *tasks.Scope) error { return nil },
	}
}

// destination has the other host's agent make ready. Its undo has that agent remove what has come there, which it does only with what it was
// made ready for.
func (m *migrating) destination() tasks.Step {
	return tasks.Step{
		Name: stepDestination, Undone: "nothing of the machine is left on the destination",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			xml := ""
			if err := m.vms.untilAnswered(ctx, s, func() (err error) { xml, err = m.vms.hv.XML(ctx, m.vm); return err }); err != nil {
				return err
			}
			for {
				err := m.vms.peers.Prepare(ctx, s, m.journey.Destination, arrivalParams{
					VM: param.UUID(m.vm), Params: arriving{VM: param.UUID(m.vm), XML: xml}, Incoming: m.journey.Incoming, Task: param.UUID(m.task),
				})
				if code.Of(err) != code.MigrationLimit {
					return err
				}
				s.Note("waiting for the destination: " + err.Error())
				select {
				case <-time.After(lookEvery):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		},
		Undo: m.dismiss,
	}
}

// How long the destination may take to answer in the undo. By then the machine is known to run here, and must not be kept from whatever is done
// with it next by a host that has died.
const (
	dismissWithin  = 7 * time.Second
	unexpectWithin = 2 * time.Second
)

// dismiss is the undo. Before anything was sent, what there is on the destination cannot have come from here and is not touched: it only expects
// no more, and if it does not hear of that it ends by itself.
func (m *migrating) dismiss(ctx context.Context, s *tasks.Scope) error {
	p := dismissParams{VM: param.UUID(m.vm), Task: param.UUID(m.task), Sent: param.Bool(s.Started(stepSend))}
	within := unexpectWithin
	if p.Sent {
		within = dismissWithin
	}
	for end := time.Now().Add(within); ; {
		err := m.vms.peers.Dismiss(ctx, s, m.journey.Destination, p)
		switch {
		case code.Of(err) == code.MigrationNotActive: // it has nothing of this migration
			return nil
		case err != nil && !bool(p.Sent) && time.Now().After(end):
			s.Log().Warn().Err(err).Msgf("the destination does not hear that machine %s stays here; it expects it for %s", m.vm, keepExpected)
			return nil
		case err == nil || time.Now().After(end):
			return err
		}
		s.Note("waiting for the destination: " + err.Error())
		select {
		case <-time.After(assertEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send is decided by libvirt, but for entering post-copy, which is recorded first.
func (m *migrating) send() tasks.Step {
	return tasks.Step{
		Name: stepSend, DecidedBy: "libvirt", Undone: "the machine goes on here",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			defer m.vms.leaving(m.vm)()
			var b before
			if _, err := s.PlanOf(stepLook, &b); err != nil {
				return err
			}
			c := &converging{vms: m.vms, vm: m.vm, schedule: m.journey.Schedule}
			j := &jobRun{vms: m.vms, vm: m.vm, what: "the migration", active: c.look}
			j.begin = func(ctx context.Context) <-chan error { return m.begin(ctx, s, b) }
			j.done = func(ctx context.Context) (bool, error) { return m.gone(ctx, b, j.failure) }
			return j.run(ctx, s)
		},
		Undo: func(ctx context.Context, s *tasks.Scope) error {
			var b before
			if _, err := s.PlanOf(stepLook, &b); err != nil {
				return err
			}
			return m.vms.goOn(ctx, s, m.vm, b.Paused)
		},
	}
}

// begin has libvirt begin, as it stands now. A machine that libvirt has left paused when it died in a migration goes on first, or it would arrive so.
func (m *migrating) begin(ctx context.Context, s *tasks.Scope, b before) <-chan error {
	how := m.journey.migration()
	how.Unsafe = m.vms.unsafe
	if mib, changed := m.vms.bandwidth(m.vm, m.task); changed {
		how.Bandwidth = mib
	}
	if s.State() == tasks.Committing {
		if state, err := m.vms.hv.State(ctx, m.vm); err == nil {
			how.Resume = state.Broken()
		}
	}
	if !how.Resume {
		if err := m.vms.goOn(ctx, s, m.vm, b.Paused); err != nil {
			answer := make(chan error, 1)
			answer <- err
			return answer
		}
	}
	if m.journey.Downtime > 0 {
		if err := m.vms.hv.SetDowntime(ctx, m.vm, time.Duration(m.journey.Downtime)*time.Millisecond); err != nil {
			s.Log().Warn().Err(err).Msg("libvirt did not take the downtime; its own is in force")
		}
	}
	return m.vms.hv.Migrate(ctx, s, m.vm, how)
}

// gone says whether the machine has gone to the other host, when libvirt has no job of it. failure is libvirt's answer to the call. With an
// error it is not known.
func (m *migrating) gone(ctx context.Context, b before, failure error) (bool, error) {
	state, err := m.vms.hv.State(ctx, m.vm)
	if err != nil && code.Of(err) != code.NoSuchVM {
		return false, err
	}
	if err == nil && state.Alive() {
		refused := failure != nil && !virt.Unreachable(failure)
		if state.Phase != virt.Paused || b.Paused && refused && !state.Incoming() && !state.Broken() {
			return false, nil
		}
	}
	a, err := m.vms.peers.Arrival(ctx, m.journey.Destination, arrivalOf{VM: param.UUID(m.vm), Task: param.UUID(m.task)})
	if err != nil {
		return false, err
	}
	switch a.Here {
	case machineArrived:
		return true, nil
	case machineComing:
		return false, code.Errorf(code.ResourceUnavailable, "the machine is on its way, says the destination")
	}
	return false, nil
}

// leave removes what libvirt has kept here of a machine that runs on the other host: it does, paused, if it died before it heard of it.
func (m *migrating) leave() tasks.Step {
	return tasks.Step{
		Name: "leave",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			state, err := m.vms.hv.State(ctx, m.vm)
			if code.Of(err) == code.NoSuchVM || err == nil && !state.Alive() {
				return nil
			}
			if err != nil {
				return err
			}
			if state.Phase != virt.Paused {
				return code.Errorf(code.MigrationError, "machine %s runs on both hosts; end one of them by hand", m.vm)
			}
			return m.vms.hv.Remove(ctx, s, m.vm)
		},
	}
}
