package main

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// clearCommand accepts ended tasks.
type clearCommand struct {
	IDs      []string `arg:"" optional:"" name:"id" predictor:"ended" help:"The tasks, or the beginnings of their ids."`
	Finished bool     `help:"All that finished or were undone, but those of engines: an engine clears its own."`
}

// Help is the end of the command's help text.
func (clearCommand) Help() string {
	return "What a delete had moved to the trash is then removed for good, by a task of its own."
}

func (cc *clearCommand) Run(ctx context.Context, c *cli) error {
	if cc.Finished == (len(cc.IDs) > 0) {
		return misuse("clear takes either tasks or --finished; see '%s clear --help'", program)
	}
	var ids []string
	left := 0
	if cc.Finished {
		var all []wire.Task
		for _, state := range []tasks.State{tasks.Finished, tasks.Recovered} { // a failed one needs a person's look
			found, err := c.list(ctx, filter{State: string(state)})
			if err != nil {
				return err
			}
			all = append(all, found...)
		}
		for _, t := range all {
			if t.Tag == tasks.TagSPM {
				left++
				continue
			}
			ids = append(ids, t.ID)
		}
	}
	for _, prefix := range cc.IDs {
		id, err := c.resolve(ctx, prefix)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	cleared := []string{}
	var refused error
	for _, id := range ids {
		err := c.daemon.call(ctx, "Task.clear", map[string]string{"taskID": id}, nil)
		if cc.Finished && isCode(err, code.UnknownTask) {
			continue // somebody else cleared it meanwhile
		}
		if err != nil {
			refused = err
			break
		}
		cleared = append(cleared, id)
	}
	err := c.show(map[string][]string{"cleared": cleared}, func() error {
		if len(cleared) > 0 || refused == nil {
			c.printf("%s cleared\n", count(len(cleared), "task", "tasks"))
		}
		if left > 0 {
			c.printf("%s to the engine\n", count(left, "finished task is left", "finished tasks are left"))
		}
		return nil
	})
	if refused != nil {
		return refused
	}
	return err
}
