package main

import (
	"context"
	"strconv"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// flowCommand is about all tasks of one action of an engine, which have its correlation id in common.
type flowCommand struct {
	List    flowList    `cmd:"" help:"List the flows that have tasks or are cancelled."`
	Show    flowShow    `cmd:"" help:"Show the tasks of a flow."`
	Cancel  flowCancel  `cmd:"" help:"Stop all tasks of a flow and refuse new ones."`
	Release flowRelease `cmd:"" help:"Take new tasks of a cancelled flow again."`
}

type flowList struct{}

// flows are all flows, read in pages.
func (c *cli) flows(ctx context.Context) ([]wire.Flow, error) {
	all := []wire.Flow{}
	params := map[string]any{"limit": pageSize}
	for {
		var page wire.FlowPage
		if err := c.daemon.call(ctx, "Flow.list", params, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Flows...)
		if page.Next == "" {
			return all, nil
		}
		params["after"] = page.Next
	}
}

func (flowList) Run(ctx context.Context, c *cli) error {
	all, err := c.flows(ctx)
	if err != nil {
		return err
	}
	return c.show(all, func() error {
		if len(all) == 0 {
			c.printf("no flows\n")
			return nil
		}
		table := c.table(show.Column{Head: "TASKS", Right: true}, show.Column{Head: "CANCELLED"}, show.Column{Head: "FLOW"})
		for _, f := range all {
			table.Add(strconv.Itoa(f.Tasks), yesNo(f.Fenced, ""), f.FlowID)
		}
		return table.Write(c.stdout)
	})
}

type flowShow struct {
	Flow string `arg:"" predictor:"flow" help:"The flow's whole id."`
}

func (f *flowShow) Run(ctx context.Context, c *cli) error {
	var status wire.FlowStatus
	if err := c.daemon.call(ctx, "Flow.getStatus", flowParams{FlowID: f.Flow}, &status); err != nil {
		return err
	}
	return c.show(status, func() error {
		if status.Fenced {
			c.printf("cancelled %s; '%s flow release %s' takes new tasks again\n", show.Relative(time.Now(), status.FencedAt), program, clean(f.Flow))
		}
		list, err := c.list(ctx, filter{Flow: f.Flow})
		if err != nil {
			return err
		}
		if len(list) == 0 {
			c.printf("no tasks\n")
		}
		return c.taskTable(list)
	})
}

// flowParams are the parameters of the verbs of a flow.
type flowParams struct {
	FlowID string `json:"flowID"`
	Revert bool   `json:"revert,omitempty"`
}

type flowRelease struct {
	Flow string `arg:"" predictor:"flow" help:"The flow's whole id."`
}

func (f *flowRelease) Run(ctx context.Context, c *cli) error {
	if err := c.daemon.call(ctx, "Flow.release", flowParams{FlowID: f.Flow}, nil); err != nil {
		return err
	}
	return c.show(map[string]string{"released": f.Flow}, func() error {
		c.printf("flow %s takes new tasks again\n", clean(f.Flow))
		return nil
	})
}
