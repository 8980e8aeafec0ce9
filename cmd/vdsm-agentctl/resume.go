package main

import "context"

// resumeCommand lets a paused task go on.
type resumeCommand struct {
	ID string `arg:"" predictor:"open" help:"The task, or the beginning of its id."`
}

func (r *resumeCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, r.ID)
	if err != nil {
		return err
	}
	if err := c.daemon.call(ctx, "Task.resume", map[string]string{"taskID": id}, nil); err != nil {
		return err
	}
	return c.show(recorded{id, "resume"}, func() error {
		c.printf("task %s goes on when a slot of its class is free; '%s watch %s' shows it\n", short(id), program, short(id))
		return nil
	})
}
