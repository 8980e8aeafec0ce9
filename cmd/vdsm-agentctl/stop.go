package main

import (
	"context"

	"vdsm-agent/rpc/wire"
)

// stopCommand cancels a task.
type stopCommand struct {
	ID     string  `arg:"" predictor:"open" help:"The task, or the beginning of its id."`
	Wait   waiting `placeholder:"S" help:"Wait until the task is undone, so many seconds at most if given (--wait=30)."`
	Force  bool    `help:"End the task's processes with SIGKILL at once; the undo is never skipped."`
	DryRun bool    `help:"Say what a stop would undo now, and do nothing."`
}

// Help is the end of the command's help text.
func (stopCommand) Help() string {
	return "The stop is on stable storage when this command says so: no restart or power loss lets the task go on. " +
		"With --wait: exit code 0 when the task was undone, 5 when it had finished or the undo is not complete, 4 after S seconds; the stop stays recorded."
}

func (s *stopCommand) Run(ctx context.Context, c *cli) error {
	if s.DryRun && (s.Force || s.Wait.asked) {
		return misuse("--dry-run does nothing, so it takes neither --force nor --wait; see '%s stop --help'", program)
	}
	id, err := c.resolve(ctx, s.ID)
	if err != nil {
		return err
	}
	if s.DryRun {
		return c.previewStop(ctx, id)
	}
	params := map[string]any{"taskID": id}
	if s.Force {
		params["force"] = true
	}
	if err := c.daemon.call(ctx, "Task.stop", params, nil); err != nil {
		return err
	}
	if s.Wait.asked {
		return c.awaitUndo(ctx, id, s.Wait.limit.duration(), stays("the stop stays recorded and goes on", id))
	}
	return c.show(recorded{id, "stop"}, func() error {
		c.printf("the stop of task %s is recorded; '%s wait %s' waits for its end\n", short(id), program, short(id))
		return nil
	})
}

// recorded is the JSON of a request that the daemon has on stable storage.
type recorded struct {
	TaskID   string `json:"taskID"`
	Recorded string `json:"recorded"`
}

func (c *cli) previewStop(ctx context.Context, id string) error {
	var p wire.Preview
	if err := c.daemon.call(ctx, "Task.stop", map[string]any{"taskID": id, "dryRun": true}, &p); err != nil {
		return err
	}
	err := c.show(p, func() error {
		if !p.Cancelable {
			return nil
		}
		c.printf("task %s can be stopped\n", short(id))
		undo := p.Undo
		if len(undo) == 0 {
			undo = []string{"nothing; it has done nothing yet"}
		}
		c.items("Undo", undo)
		c.items("Remains", p.Remainder)
		if p.PointOfNoReturn != "" {
			c.field("Until", "step "+p.PointOfNoReturn)
		}
		return nil
	})
	if err == nil && !p.Cancelable {
		err = fail(exitRefused, "task %s cannot be stopped: %s", short(id), p.Reason)
	}
	return err
}
