package main

import (
	"context"
	"strconv"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// historyCommand lists cleared tasks.
type historyCommand struct {
	Limit int `short:"n" placeholder:"N" default:"20" help:"How many tasks to show at most (${default})."`
}

// Help is the end of the command's help text.
func (historyCommand) Help() string {
	return "Cleared tasks are kept for 30 days, unless history_for and history_rows in section [tasks] of the daemon's configuration say otherwise. " +
		"'" + program + " task ID --log' shows what happened to one."
}

// pastPage is what Host.getTaskHistory takes.
type pastPage struct {
	Limit int    `json:"limit"`
	After string `json:"after,omitempty"`
}

func (h *historyCommand) Run(ctx context.Context, c *cli) error {
	if h.Limit < 1 {
		return misuse("--limit must be 1 or more; see '%s history --help'", program)
	}
	past, err := c.past(ctx, h.Limit+1) // one more, to know whether there is one
	if err != nil {
		return err
	}
	more := len(past) > h.Limit
	past = past[:min(len(past), h.Limit)]
	return c.show(past, func() error {
		if len(past) == 0 {
			c.printf("no task was cleared yet\n")
		}
		table := c.table(show.Column{Head: "TASK"}, show.Column{Head: "VERB"}, show.Column{Head: "ENDED"}, show.Column{Head: "CLEARED"},
			show.Column{Head: "CODE", Right: true}, show.Column{Head: "MESSAGE"})
		for _, t := range past {
			table.Add(t.ID, t.Method, show.Time(t.Ended), show.Time(t.Cleared), strconv.Itoa(t.Code), t.Message)
		}
		if err := table.Write(c.stdout); err != nil {
			return err
		}
		if more {
			c.printf("there are older ones; --limit %d shows more\n", 10*h.Limit)
		}
		return nil
	})
}

// past reads the newest tasks of the history, limit at most, in pages.
func (c *cli) past(ctx context.Context, limit int) ([]wire.PastTask, error) {
	all := []wire.PastTask{}
	for after := ""; len(all) < limit; {
		var page wire.HistoryPage
		if err := c.daemon.call(ctx, "Host.getTaskHistory", pastPage{min(limit-len(all), pageSize), after}, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Tasks...)
		if page.Next == "" {
			break
		}
		after = page.Next
	}
	return all, nil
}
