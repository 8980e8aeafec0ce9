package mock

import (
	"context"
	"fmt"
	"time"

	"vdsm-agent/tasks"
)

// decided lets another program do the work. A stop is asserted until that program answers, also when it cannot be asked for
// a while.
func (m *step) decided(ctx context.Context, s *tasks.Scope, effect string) error {
	w := m.world
	cancelled := fmt.Errorf("%s has cancelled it", m.k.DecidedBy)
	state, ends := w.job(effect)
	if state == "" {
		if ctx.Err() != nil {
			return cancelled // it was never asked to begin
		}
		if err := m.gate(s, "start the job"); err != nil {
			return err
		}
		w.startJob(effect, m.k.Pace*time.Duration(m.k.Slices))
		state, ends = w.job(effect)
	}
	w.reached("slice", s.TaskID(), m.k.Name)
	if state == jobRuns {
		select {
		case <-time.After(time.Until(ends)):
		case <-ctx.Done():
			if s.State() != tasks.Aborting {
				return context.Cause(ctx) // the job goes on without the agent
			}
			if err := m.assertCancel(s, effect); err != nil {
				return err
			}
		}
	}
	if err := m.failure(effect, 1); err != nil {
		w.failJob(effect)
		return err
	}
	if state, _ = w.job(effect); state != jobFinished {
		return cancelled
	}
	s.Progress(int64(m.k.Slices), int64(m.k.Slices))
	return nil
}

const (
	assertEvery = 5 * time.Second
	assertMost  = 24
)

func (m *step) assertCancel(s *tasks.Scope, effect string) (err error) {
	for range assertMost {
		if err = m.gate(s, "cancel the job"); err == nil {
			m.world.cancelJob(effect, m.k.Finished)
			return nil
		}
		<-time.After(assertEvery)
	}
	return err
}
