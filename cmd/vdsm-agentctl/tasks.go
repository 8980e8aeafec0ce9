package main

import (
	"context"
	"slices"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// tasksCommand lists tasks: those that work or wait, unless more is asked for.
type tasksCommand struct {
	All   bool   `short:"a" help:"Also tasks that have ended."`
	Flow  string `placeholder:"F" predictor:"flow" help:"Only tasks of this flow (the engine's correlation id)."`
	State string `placeholder:"S" predictor:"state" help:"Only tasks in this state, for example running or failed."`
}

func (t *tasksCommand) Run(ctx context.Context, c *cli) error {
	if err := checkState(t.State); err != nil {
		return err
	}
	all, err := c.list(ctx, filter{State: t.State, Flow: t.Flow})
	if err != nil {
		return err
	}
	hidden, failed := 0, 0
	listed := all
	if !t.All && t.State == "" {
		listed = slices.DeleteFunc(slices.Clone(all), final)
		for _, task := range all {
			if tasks.State(task.State) == tasks.Failed {
				failed++
			}
		}
		hidden = len(all) - len(listed)
	}
	return c.show(listed, func() error {
		if len(listed) == 0 {
			c.printf("no tasks\n")
		}
		if err := c.taskTable(listed); err != nil {
			return err
		}
		switch {
		case failed > 0:
			c.printf("%s (%d failed); --all shows them\n", count(hidden, "ended task is hidden", "ended tasks are hidden"), failed)
		case hidden > 0:
			c.printf("%s; --all shows them\n", count(hidden, "ended task is hidden", "ended tasks are hidden"))
		}
		return nil
	})
}

func (c *cli) taskTable(list []wire.Task) error {
	now := time.Now()
	table := c.table(show.Column{Head: "TASK"}, show.Column{Head: "VERB"}, show.Column{Head: "STATE"}, show.Column{Head: "PROGRESS"},
		show.Column{Head: "SUBMITTED"}, show.Column{Head: "MESSAGE"})
	for _, t := range list {
		table.AddCells(show.Cell{Text: short(t.ID)}, show.Cell{Text: t.Method}, stateCell(t), show.Cell{Text: progressText(t.Progress)},
			show.Cell{Text: show.Relative(now, t.Created)}, show.Cell{Text: t.Message})
	}
	return table.Write(c.stdout)
}
