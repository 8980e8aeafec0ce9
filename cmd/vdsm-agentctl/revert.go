package main

import "context"

// revertCommand undoes a finished task.
type revertCommand struct {
	ID   string  `arg:"" predictor:"ended" help:"The task, or the beginning of its id."`
	Wait waiting `placeholder:"S" help:"Wait until the task is undone, so many seconds at most if given (--wait=30)."`
}

// Help is the end of the command's help text.
func (revertCommand) Help() string {
	return "A task can be reverted until it is cleared, if its verb can ('" + program + " contract') and nothing may have used its result since. " +
		"With --wait: exit code 0 when the task was undone, 5 when not, 4 after S seconds; the revert stays recorded."
}

func (r *revertCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, r.ID)
	if err != nil {
		return err
	}
	return c.revert(ctx, id, r.Wait)
}

func (c *cli) revert(ctx context.Context, id string, wait waiting) error {
	if err := c.daemon.call(ctx, "Task.revert", map[string]any{"taskID": id}, nil); err != nil {
		return err
	}
	if wait.asked {
		return c.awaitUndo(ctx, id, wait.limit.duration(), stays("the revert stays recorded and goes on", id))
	}
	return c.show(recorded{id, "revert"}, func() error {
		c.printf("the revert of task %s is recorded; '%s wait %s' waits for its end\n", short(id), program, short(id))
		return nil
	})
}
