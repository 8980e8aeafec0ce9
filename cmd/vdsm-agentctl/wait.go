package main

import "context"

// waitCommand waits for the end of a task, also across restarts of the daemon.
type waitCommand struct {
	ID      string  `arg:"" predictor:"open" help:"The task, or the beginning of its id."`
	Timeout seconds `placeholder:"S" help:"Wait so many seconds at most (exit code 4); without it there is no limit."`
}

// Help is the end of the command's help text.
func (waitCommand) Help() string {
	return "Exit code 0 when the task finished, 5 when it ended otherwise."
}

func (w *waitCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, w.ID)
	if err != nil {
		return err
	}
	status, err := c.await(ctx, id, w.Timeout.duration(), stays("the waiting has ended, not the task", id))
	if err != nil {
		return err
	}
	err = c.show(status, func() error {
		if status.TaskResult == resultSuccess {
			c.printf("task %s has finished%s\n", short(id), told(status.Message))
		}
		return nil
	})
	if err == nil && status.TaskResult != resultSuccess {
		err = unsuccessful(id, status.Message)
	}
	return err
}
