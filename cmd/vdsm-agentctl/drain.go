package main

import (
	"context"

	"vdsm-agent/rpc/wire"
)

// drainCommand keeps new tasks out and waits for those that are there.
type drainCommand struct {
	End    bool `xor:"what" help:"Let new tasks in again."`
	NoWait bool `xor:"what" help:"Do not wait for the tasks that have not ended."`
}

// Help is the end of the command's help text.
func (drainCommand) Help() string {
	return "It returns when every task has ended, so that the host can be updated or restarted with nothing under way; tasks that nobody resumes or stops are waited for, too. " +
		"New ones are refused until 'drain --end', or until the daemon ends: Ctrl-C ends only the waiting. For a restart of the daemon alone there is no need to drain: tasks go on after it."
}

func (d *drainCommand) Run(ctx context.Context, c *cli) error {
	if d.End {
		if err := c.daemon.call(ctx, "Host.undrain", nil, nil); err != nil {
			return err
		}
		return c.show(map[string]bool{"drained": false}, func() error { c.printf("new tasks are let in again\n"); return nil })
	}
	if err := c.daemon.call(ctx, "Host.drain", nil, nil); err != nil {
		return err
	}
	left, err := c.open(ctx)
	for told := len(left) + 1; err == nil && len(left) > 0 && !d.NoWait; left, err = c.open(ctx) {
		if len(left) < told {
			c.note("no new tasks are let in; waiting for %s, the first is %s (%s)", count(len(left), "task", "tasks"), short(left[0].ID), clean(left[0].Method))
			told = len(left)
		}
		_, err := c.await(ctx, left[0].ID, 0, "the waiting has ended; no new tasks are let in until '"+program+" drain --end'")
		if err != nil && !isGone(err) {
			return err
		}
	}
	if err != nil {
		return err
	}
	return c.show(map[string]any{"drained": true, "tasks": left}, func() error {
		if len(left) > 0 {
			c.printf("no new tasks are let in; %s not ended\n", count(len(left), "task has", "tasks have"))
			return nil
		}
		c.printf("drained: no task is under way, and no new ones are let in until '%s drain --end', or until the daemon ends\n", program)
		return nil
	})
}

// open are the tasks that have not ended.
func (c *cli) open(ctx context.Context) ([]wire.Task, error) {
	all, err := c.list(ctx, filter{})
	left := []wire.Task{}
	for _, t := range all {
		if !final(t) {
			left = append(left, t)
		}
	}
	return left, err
}
