package vmops

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// exodus is the checkpoint of the machines that leave. That one shall leave is recorded before its task is submitted, so an undo knows all tasks that
// there may be.
type exodus struct {
	Going map[string]int `json:"going,omitempty"` // the number of the try, by machine
	Moved []string       `json:"moved,omitempty"`
}

// tasksEvery is how often tasks are looked at.
const tasksEvery = 500 * time.Millisecond

// empty has the machines leave, each by a task of its own.
func (m *maintaining) empty() tasks.Step {
	return tasks.Step{
		Name: stepEmpty, Undone: "no machine leaves any more",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			x := exodus{Going: map[string]int{}}
			if _, err := s.LastCheckpoint(&x); err != nil {
				return err
			}
			for {
				left, err := m.round(ctx, s, &x)
				if err != nil || left == 0 {
					return err
				}
				if err := rest(ctx, tasksEvery); err != nil {
					return err
				}
			}
		},
		Undo: m.stay,
		Remainder: func(s *tasks.Scope) string {
			var x exodus
			if _, err := s.LastCheckpoint(&x); err != nil || len(x.Moved) == 0 {
				return ""
			}
			return "machines that are on other hosts now: " + strings.Join(x.Moved, ", ")
		},
	}
}

// round looks at all machines and their tasks once; left is how many there are still.
func (m *maintaining) round(ctx context.Context, s *tasks.Scope, x *exodus) (left int, err error) {
	all, err := m.vms.present(ctx)
	if err != nil {
		s.Note("waiting to see which machines there are: " + err.Error())
		return 1, nil //nolint:nilerr // it is asked again
	}
	before := maps.Clone(x.Going)
	here, waits := map[string]bool{}, 0
	for _, one := range all {
		here[one.VM] = true
	}
	var failure error
	for _, vm := range sortedKeys(x.Going) {
		failure = cmp.Or(failure, m.judge(x, vm, here[vm]))
	}
	for _, one := range all {
		_, going := x.Going[one.VM]
		switch {
		case going || failure != nil:
		case one.Status == statusIncoming || one.Status == statusLaunching || one.Status == statusRestoring:
			waits++ // it can leave only when it is here
		case len(m.params.Destinations) == 0:
			failure = code.Errorf(code.InvalidParameter, "virtual machine %s is on this host, and \"destinations\" does not say where it may go", one.VM)
		case len(x.Going) < int(m.params.Parallel) && !slices.Contains(x.Moved, one.VM):
			x.Going[one.VM] = 0
		}
	}
	if !maps.Equal(before, x.Going) {
		if err := s.Checkpoint(x); err != nil {
			return 0, err
		}
	}
	if failure != nil {
		return 0, failure
	}
	held := ""
	for _, vm := range sortedKeys(x.Going) {
		err := m.send(ctx, s, vm, x.Going[vm])
		id, _ := m.child(vm, x.Going[vm])
		t, unknown := m.vms.crew.Summary(id)
		switch {
		case code.Of(err) == code.AddTask: // the queue is full
			held = "; " + err.Error()
		case err != nil:
			return 0, err
		case unknown == nil && t.State == tasks.Queued:
			held = fmt.Sprintf("; machine %s is %s", vm, t.Message)
		}
	}
	s.Progress(int64(len(x.Moved)), int64(len(x.Moved)+len(all)))
	s.Note(fmt.Sprintf("%d machines are on this host, %d of them on their way to another one, %d not ready to leave%s", len(all), len(x.Going), waits, held))
	return len(all) + len(x.Going), nil
}

// judge looks at what became of the task of a machine that was to leave.
func (m *maintaining) judge(x *exodus, vm string, here bool) error {
	id, to := m.child(vm, x.Going[vm])
	t, err := m.vms.crew.Summary(id)
	switch {
	case code.Of(err) == code.UnknownTask && here: // it is submitted yet
		return nil
	case code.Of(err) == code.UnknownTask: // it was, and was cleared
	case err != nil:
		return err
	case !t.State.Final():
		return nil
	case t.State == tasks.Finished:
		x.Moved = append(x.Moved, vm)
	case !here: // it went down by itself
	case t.Stopped:
		return code.Errorf(code.MigrationCancel, "the migration of machine %s was cancelled (task %s): %s", vm, id, t.Message)
	case x.Going[vm]+1 < len(m.params.Destinations):
		x.Going[vm]++
		return nil
	default:
		return code.Errorf(code.MigrationError, "machine %s cannot leave, the last host that it was to go to is %s (task %s): %s", vm, to.Host, id, t.Message)
	}
	delete(x.Going, vm)
	return nil
}

// send submits the task of a machine, unless it was.
func (m *maintaining) send(ctx context.Context, s *tasks.Scope, vm string, try int) error {
	id, to := m.child(vm, try)
	if _, err := m.vms.crew.Summary(id); code.Of(err) != code.UnknownTask {
		return err
	}
	params, err := json.Marshal(map[string]any{"vmID": vm, "params": to.journey()})
	if err != nil {
		return err
	}
	err = m.vms.crew.Submit(ctx, s, tasks.Submission{ID: id, Verb: migrateVerb, Params: params, Flow: m.flow(s), Who: s.Who(), Part: true})
	switch code.Of(err) {
	case code.NoSuchVM, code.VMIsDown: // the next look tells
		return nil
	}
	return err
}

// flow is that of the tasks by which machines leave: the maintenance's own, or if it has none its id.
func (m *maintaining) flow(s *tasks.Scope) string {
	if f := s.Flow(); f != "" {
		return f
	}
	return m.task
}

// stay is the undo: the tasks are stopped, and those that cannot be come to their end.
func (m *maintaining) stay(ctx context.Context, s *tasks.Scope) error {
	var x exodus
	if _, err := s.LastCheckpoint(&x); err != nil {
		return err
	}
	var left error
	for _, vm := range sortedKeys(x.Going) {
		id, _ := m.child(vm, x.Going[vm])
		left = cmp.Or(left, m.stop(ctx, s, id))
	}
	if left != nil {
		return left
	}
	for _, vm := range sortedKeys(x.Going) {
		id, _ := m.child(vm, x.Going[vm])
		t, err := m.ended(ctx, s, id)
		if err != nil {
			return err
		}
		if t.State == tasks.Finished {
			x.Moved = append(x.Moved, vm)
		}
	}
	x.Going = nil
	return s.Checkpoint(x)
}

// stopWithin is how long it is tried to record the stop of a task before it is residue that it goes on.
const stopWithin = 5 * time.Second

// stop has a task stopped, if there is one that can be.
func (m *maintaining) stop(ctx context.Context, s *tasks.Scope, id string) error {
	for end := time.Now().Add(stopWithin); ; {
		if t, err := m.vms.crew.Summary(id); code.Of(err) == code.UnknownTask || err == nil && t.State.Final() {
			return nil
		}
		err := m.vms.crew.Stop(s, id, s.Who())
		switch code.Of(err) {
		case 0, code.TaskState, code.UnknownTask:
			return nil
		}
		if time.Now().After(end) {
			return code.Errorf(code.Of(err), "task %s goes on: %w", id, err)
		}
		if err := rest(ctx, assertEvery); err != nil {
			return err
		}
	}
}

// ended waits for the end of a task. One that is not known never was, or was cleared.
func (m *maintaining) ended(ctx context.Context, s *tasks.Scope, id string) (tasks.Summary, error) {
	for {
		t, err := m.vms.crew.Summary(id)
		switch {
		case code.Of(err) == code.UnknownTask:
			return t, nil
		case err != nil || t.State.Final():
			return t, err
		}
		s.Note(fmt.Sprintf("waiting for the end of task %s", id))
		if err := rest(ctx, assertEvery); err != nil {
			return t, err
		}
	}
}

// settled is the checkpoint of the tasks that were stopped.
type settled struct {
	Stopped []string `json:"stopped"`
}

// settle waits for all that this host still does, or stops it. What comes later can only be machines that leave: new tasks are refused.
func (m *maintaining) settle() tasks.Step {
	return tasks.Step{
		Name: stepSettle,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			var done settled
			if _, err := s.LastCheckpoint(&done); err != nil {
				return err
			}
			for {
				live := m.live()
				if len(live) == 0 {
					return nil
				}
				for _, t := range live {
					if m.params.Tasks != tasksStop || !t.Cancelable || t.Verb == migrateVerb {
						continue // a machine that leaves does what is wanted
					}
					if !slices.Contains(done.Stopped, t.ID) {
						done.Stopped = append(done.Stopped, t.ID)
						if err := s.Checkpoint(done); err != nil { // first, so that it is listed if it happens
							return err
						}
					}
					if err := m.vms.crew.Stop(s, t.ID, s.Who()); err != nil && code.Of(err) != code.TaskState && code.Of(err) != code.UnknownTask {
						return err
					}
				}
				s.Note(fmt.Sprintf("waiting for %d tasks, the first is %s (%s): %s", len(live), live[0].ID, live[0].Verb, live[0].Message))
				if err := rest(ctx, tasksEvery); err != nil {
					return err
				}
			}
		},
		Remainder: func(s *tasks.Scope) string {
			var done settled
			if _, err := s.LastCheckpoint(&done); err != nil || len(done.Stopped) == 0 {
				return ""
			}
			return "tasks that were stopped: " + strings.Join(done.Stopped, ", ")
		},
	}
}

// live are the tasks that have not ended, but this one.
func (m *maintaining) live() (out []tasks.Summary) {
	for _, t := range m.vms.crew.List(tasks.Filter{}) {
		if !t.State.Final() && t.ID != m.task {
			out = append(out, t)
		}
	}
	return out
}

// rest waits, unless ctx ends before.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
