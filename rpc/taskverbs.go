package rpc

import (
	"context"
	"fmt"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

type taskParams struct {
	TaskID taskID `json:"taskID" doc:"the task"`
}

type stopParams struct {
	TaskID taskID        `json:"taskID" doc:"the task"`
	Wait   param.Seconds `json:"wait" default:"0" doc:"how long to wait until the task has ended; 0 = not"`
	Force  param.Bool    `json:"force" default:"false" doc:"kill its workers at once; the undo is never skipped"`
	DryRun param.Bool    `json:"dryRun" default:"false" doc:"only say what a stop would do"`
}

type revertParams struct {
	TaskID taskID        `json:"taskID" doc:"the task"`
	Wait   param.Seconds `json:"wait" default:"0" doc:"how long to wait until it is undone; 0 = not"`
}

type setLimitsParams struct {
	TaskID         taskID    `json:"taskID" doc:"the task"`
	BytesPerSecond param.Int `json:"bytesPerSecond" doc:"how much the task may move from its next slice on; 0 = any amount"`
}

type waitParams struct {
	TaskID  taskID        `json:"taskID" doc:"the task"`
	Timeout param.Seconds `json:"timeout" default:"0" doc:"how long to wait until the task has ended; 0 = without limit"`
}

// taskMethods are the verbs about one task.
func taskMethods(e Engine) []Method {
	return []Method{
		with(Method{
			Name: "Task.stop", Aliases: []string{"stopTask"}, Role: access.Operate, Cancels: true, Result: wire.Ended{},
			Doc: "Cancel a task that has not passed its point of no return: stop the work, then undo it.",
		}, func(ctx context.Context, r *Request, p stopParams) (any, error) {
			if p.DryRun {
				preview, err := e.Preview(string(p.TaskID))
				return answered(wire.PreviewOf(preview), err)
			}
			if err := e.Stop(string(p.TaskID), tasks.StopOptions{Who: r.Who, Force: bool(p.Force)}); err != nil {
				return nil, err
			}
			return reached(ctx, e, p.TaskID, p.Wait, "the stop is recorded and goes on")
		}),
		with(Method{
			Name: "Task.revert", Aliases: []string{"revertTask"}, Role: access.Operate, Result: wire.Ended{},
			Doc: "Undo a task that has finished, or try a failed undo again.",
		}, func(ctx context.Context, r *Request, p revertParams) (any, error) {
			if err := e.Revert(ctx, string(p.TaskID), r.Who); err != nil {
				return nil, err
			}
			return reached(ctx, e, p.TaskID, p.Wait, "the revert is recorded and goes on")
		}),
		with(Method{
			Name: "Task.clear", Aliases: []string{"clearTask"}, Role: access.Operate,
			Doc: "Accept an ended task for good: it can no longer be reverted, and leaves the lists.",
		}, func(_ context.Context, r *Request, p taskParams) (any, error) {
			return nil, e.Clear(string(p.TaskID), r.Who)
		}),
		with(Method{
			Name: "Task.getStatus", Aliases: []string{"getTaskStatus"}, Role: access.Observe, Result: wire.TaskStatus{},
			Doc: "Answer a task's state as engines read it.",
		}, func(_ context.Context, _ *Request, p taskParams) (any, error) {
			s, err := e.Summary(string(p.TaskID))
			return answered(wire.StatusOf(s), err)
		}),
		with(Method{
			Name: "Task.getInfo", Aliases: []string{"getTaskInfo"}, Role: access.Observe, Result: wire.TaskInfo{},
			Doc: "Answer which verb a task carries out.",
		}, func(_ context.Context, _ *Request, p taskParams) (any, error) {
			s, err := e.Summary(string(p.TaskID))
			return answered(wire.InfoOf(s), err)
		}),
		with(Method{
			Name: "Task.getDetails", Role: access.Observe, Ours: true, Result: wire.Details{},
			Doc: "Answer everything that is visible of a task.",
		}, func(_ context.Context, _ *Request, p taskParams) (any, error) {
			v, err := e.Get(string(p.TaskID))
			return answered(wire.DetailsOf(v), err)
		}),
		with(Method{
			Name: "Task.pause", Role: access.Operate, Ours: true,
			Doc: "Let a task rest that goes in slices, until it is resumed.",
		}, func(_ context.Context, r *Request, p taskParams) (any, error) {
			return nil, e.Pause(string(p.TaskID), r.Who)
		}),
		with(Method{
			Name: "Task.resume", Role: access.Operate, Ours: true,
			Doc: "Let a paused task go on.",
		}, func(_ context.Context, r *Request, p taskParams) (any, error) {
			return nil, e.Resume(string(p.TaskID), r.Who)
		}),
		with(Method{
			Name: "Task.setLimits", Role: access.Operate, Ours: true,
			Doc: "Limit how many bytes per second a task moves.",
		}, func(_ context.Context, r *Request, p setLimitsParams) (any, error) {
			return nil, e.SetLimit(string(p.TaskID), r.Who, int64(p.BytesPerSecond))
		}),
		with(Method{
			Name: "Task.wait", Role: access.Observe, Ours: true, Result: wire.TaskStatus{},
			Doc: "Wait until a task has ended, and answer its state.",
		}, func(ctx context.Context, _ *Request, p waitParams) (any, error) {
			ctx, end := within(ctx, p.Timeout)
			defer end()
			v, err := e.Wait(ctx, string(p.TaskID), tasks.Ended)
			return answered(wire.StatusOf(v), err)
		}),
		with(Method{
			Name: "Task.getLog", Role: access.Observe, Ours: true, Result: []wire.LogEntry{},
			Doc: "Answer who asked what of a task, and when.",
		}, func(_ context.Context, _ *Request, p taskParams) (any, error) {
			entries, err := e.Log(string(p.TaskID))
			if err == nil && len(entries) == 0 { // a task that exists has at least the line of its submit
				_, err = e.Get(string(p.TaskID))
			}
			return answered(wire.LogOf(entries), err)
		}),
	}
}

// reached answers true at once or, if the client wants to wait, the status in which the task has ended. At the time-out
// the error begins with what was recorded, since that is not taken back.
func reached(ctx context.Context, e Engine, id taskID, wait param.Seconds, recorded string) (any, error) {
	if wait == 0 {
		return nil, nil
	}
	ctx, end := within(ctx, wait)
	defer end()
	v, err := e.Wait(ctx, string(id), tasks.Ended)
	if code.Of(err) == code.ResourceTimeout {
		return nil, code.Errorf(code.ResourceTimeout, "%s; after %s %w", recorded, seconds(wait), err)
	}
	return answered(wire.StatusOf(v), err)
}

// within limits ctx to a time; 0 = no limit.
func within(ctx context.Context, limit param.Seconds) (context.Context, context.CancelFunc) {
	if limit == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(float64(limit)*float64(time.Second)))
}

func seconds(s param.Seconds) string { return fmt.Sprintf("%g s", float64(s)) }
