package vmops

import (
	"context"
	"strconv"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// schedule says what is done so that a migration comes to an end though the guest changes its memory faster than it is sent.
type schedule struct {
	Init     []action `json:"init,omitempty"`     // as soon as it runs
	Stalling []stall  `json:"stalling,omitempty"` // in their order
}

// stall is what is done when so many passes over the memory have left no less of it to send; -1 = after all others.
type stall struct {
	Limit  param.Int `json:"limit"`
	Action action    `json:"action"`
}

// action is one of setDowntime (with ms), postcopy and abort.
type action struct {
	Name   string   `json:"name"`
	Params []string `json:"params,omitempty"`
}

const (
	setDowntime = "setDowntime"
	postCopy    = "postcopy"
	abortIt     = "abort"
)

func (s schedule) check() error {
	all := append([]action{}, s.Init...)
	for _, one := range s.Stalling {
		all = append(all, one.Action)
	}
	for _, a := range all {
		switch a.Name {
		case postCopy, abortIt:
		case setDowntime:
			if _, err := a.downtime(); err != nil {
				return err
			}
		default:
			return code.Errorf(code.InvalidParameter, "%q in convergenceSchedule is none of setDowntime, postcopy and abort", a.Name)
		}
	}
	return nil
}

func (a action) downtime() (time.Duration, error) {
	if len(a.Params) == 1 {
		if ms, err := strconv.ParseUint(a.Params[0], 10, 31); err == nil {
			return time.Duration(ms) * time.Millisecond, nil
		}
	}
	return 0, code.Errorf(code.InvalidParameter, "setDowntime in convergenceSchedule needs one parameter, a number of milliseconds")
}

// postCopy says whether it may be entered.
func (s schedule) postCopy() bool {
	for _, a := range s.Init {
		if a.Name == postCopy {
			return true
		}
	}
	for _, one := range s.Stalling {
		if one.Action.Name == postCopy {
			return true
		}
	}
	return false
}

// converging carries the schedule out. After a restart of the agent it begins at its beginning, but for a post-copy that was decided.
type converging struct {
	vms      *VMs
	vm       string
	schedule schedule

	begun  bool
	pass   int64
	least  int64 // of what was left at the end of a pass
	stalls int64
	next   int // of the stalling actions
}

// entered is the checkpoint of a post-copy.
type entered struct {
	PostCopy bool `json:"postCopy"`
}

// look is told how the job stands. Its error is that the migration shall be given up.
func (c *converging) look(ctx context.Context, s *tasks.Scope, job virt.Job) error {
	c.vms.leavingBy(c.vm, job)
	var e entered
	if _, err := s.LastCheckpoint(&e); err != nil {
		return err
	}
	if e.PostCopy {
		return c.enter(ctx, s)
	}
	var due []action
	if !c.begun {
		c.begun = true
		due = append(due, c.schedule.Init...)
	}
	if job.Pass > c.pass { // what is left is least where a pass begins
		if c.pass > 0 && job.Left >= c.least {
			c.stalls++
		}
		if c.pass == 0 || job.Left < c.least {
			c.least = job.Left
		}
		c.pass = job.Pass
	}
	for c.next < len(c.schedule.Stalling) {
		one := c.schedule.Stalling[c.next]
		if one.Limit >= 0 && c.stalls <= int64(one.Limit) || one.Limit < 0 && c.stalls <= c.last() {
			break
		}
		due = append(due, one.Action)
		c.next++
	}
	for _, a := range due {
		if err := c.act(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

// last is the number of stalls after which only what comes after all others is left to do.
func (c *converging) last() (most int64) {
	for _, one := range c.schedule.Stalling {
		most = max(most, int64(one.Limit))
	}
	return most + 1
}

func (c *converging) act(ctx context.Context, s *tasks.Scope, a action) error {
	switch a.Name {
	case abortIt:
		return code.Errorf(code.MigrationError, "the guest of machine %s changes its memory faster than it is sent, and the convergenceSchedule says to give up then", c.vm)
	case postCopy:
		if s.State() == tasks.Aborting {
			return nil
		}
		if err := s.Decide(entered{true}); err != nil {
			s.Log().Warn().Err(err).Msg("post-copy is not entered")
			return nil //nolint:nilerr // the task's state says what comes next
		}
		return c.enter(ctx, s)
	}
	most, err := a.downtime()
	if err == nil {
		err = c.vms.hv.SetDowntime(ctx, c.vm, most)
	}
	if err != nil {
		s.Log().Warn().Err(err).Msg("libvirt did not take the downtime of the convergenceSchedule")
	}
	return nil
}

// enter has the machine go on on the other host. It is asked for at each look: it was decided, and libvirt says when it has happened.
func (c *converging) enter(ctx context.Context, s *tasks.Scope) error {
	if err := c.vms.hv.PostCopy(ctx, s, c.vm); err != nil && !virt.Invalid(err) {
		s.Note("libvirt does not enter post-copy: " + err.Error())
		s.Log().Warn().Err(err).Msg("libvirt did not enter post-copy; it is asked again")
	}
	return nil
}
