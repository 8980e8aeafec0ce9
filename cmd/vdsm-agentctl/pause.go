package main

import "context"

// pauseCommand lets a task rest.
type pauseCommand struct {
	ID string `arg:"" predictor:"open" help:"The task, or the beginning of its id."`
}

// Help is the end of the command's help text.
func (pauseCommand) Help() string {
	return "Only a task that goes in slices, such as a copy, can be paused. It keeps its locks, gives its slot to others, and stays paused " +
		"when the daemon is restarted. At most one slice is done again later. A paused task can be stopped."
}

func (p *pauseCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, p.ID)
	if err != nil {
		return err
	}
	if err := c.daemon.call(ctx, "Task.pause", map[string]string{"taskID": id}, nil); err != nil {
		return err
	}
	return c.show(recorded{id, "pause"}, func() error {
		c.printf("task %s is paused; '%s resume %s' lets it go on\n", short(id), program, short(id))
		return nil
	})
}
