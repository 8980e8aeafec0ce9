package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// The results of a task on the wire.
const (
	resultSuccess = "success"
	resultUndone  = "cleanSuccess"
)

// await waits until the task is in a final state, also across restarts of the daemon; limit 0 waits without end. When ctx
// ends first the error says interrupted.
func (c *cli) await(ctx context.Context, id string, limit time.Duration, interrupted string) (wire.TaskStatus, error) {
	begun := time.Now()
	params := func() any {
		p := map[string]any{"taskID": id}
		if limit > 0 {
			p["timeout"] = max(limit-time.Since(begun), time.Millisecond).Seconds() // 0 would be no limit
		}
		return p
	}
	var status wire.TaskStatus
	err := c.daemon.follow(ctx, "Task.wait", params, &status)
	switch {
	case errors.Is(err, context.Canceled):
		err = fail(exitInterrupted, "%s", interrupted)
	case isCode(err, code.UnknownTask):
		err = &goneError{id}
	}
	return status, err
}

// goneError: the task is in no list; perhaps it never was.
type goneError struct{ id string }

func (e *goneError) Error() string {
	return fmt.Sprintf("there is no task %s, or it was cleared; '%s task %s --log' shows what became of it", e.id, program, e.id)
}

func isGone(err error) bool {
	var gone *goneError
	return errors.As(err, &gone)
}

// awaitUndo waits for the end of a stop or a revert that is recorded, and is content only if the task was undone.
func (c *cli) awaitUndo(ctx context.Context, id string, limit time.Duration, interrupted string) error {
	status, err := c.await(ctx, id, limit, interrupted)
	if err != nil {
		return err
	}
	err = c.show(status, func() error {
		if status.TaskResult == resultUndone {
			c.printf("task %s is undone: %s\n", short(id), clean(status.Message))
		}
		return nil
	})
	switch {
	case err != nil || status.TaskResult == resultUndone:
		return err
	case status.TaskResult == resultSuccess:
		return fail(exitNoSuccess, "task %s was not undone, it has finished: %s", short(id), status.Message)
	}
	return fail(exitNoSuccess, "the undo of task %s is not complete: %s", short(id), status.Message)
}

// unsuccessful is the error of a task that ended otherwise than with success.
func unsuccessful(id, message string) error {
	return fail(exitNoSuccess, "task %s did not succeed: %s", short(id), message)
}

// stays is what Ctrl-C says while waiting.
func stays(what, id string) string {
	return fmt.Sprintf("%s; '%s wait %s' waits again, '%s task %s' shows how far it is", what, program, short(id), program, short(id))
}

// told is a task's message as the end of a sentence that says "finished" already.
func told(message string) string {
	return strings.TrimSuffix(": "+clean(strings.TrimPrefix(message, string(tasks.Finished))), ": ")
}
