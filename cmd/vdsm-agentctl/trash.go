package main

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
)

// trashCommand is about what deletes, moves and reverts have put aside.
type trashCommand struct {
	List    trashList    `cmd:"" help:"List what is in the trash, by the task that put it there."`
	Restore trashRestore `cmd:"" help:"Put back what a task moved to the trash, by reverting the task."`
	Empty   trashEmpty   `cmd:"" help:"Remove for good what a task, or every task of a domain, moved to the trash."`
}

// trashEntry is what one task put into a domain's trash.
type trashEntry struct {
	TaskID   string    `json:"taskID"`
	DomainID string    `json:"storagedomainID"`
	Bytes    int64     `json:"bytes"`
	Deadline time.Time `json:"deadline,omitzero"` // it is removed then even if nobody clears the task
	Items    []string  `json:"items"`
}

type trashList struct {
	Domain string `placeholder:"D" predictor:"domain" help:"Only of this storage domain."`
}

func (t *trashList) Run(ctx context.Context, c *cli) error {
	entries, err := c.trash(ctx, t.Domain)
	if err != nil {
		return err
	}
	return c.show(entries, func() error {
		if len(entries) == 0 {
			c.printf("the trash is empty\n")
			return nil
		}
		now := time.Now()
		table := c.table(show.Column{Head: "TASK"}, show.Column{Head: "DOMAIN"}, show.Column{Head: "SIZE", Right: true},
			show.Column{Head: "REMOVED"}, show.Column{Head: "ITEM"})
		for _, e := range entries {
			table.Add(short(e.TaskID), short(e.DomainID), show.Size(e.Bytes), show.Relative(now, e.Deadline), first(e.Items))
			for _, item := range e.Items[min(1, len(e.Items)):] {
				table.Add("", "", "", "", item)
			}
		}
		return table.Write(c.stdout)
	})
}

type trashRestore struct {
	Task string  `arg:"" predictor:"trash" help:"The task that moved it there, or the beginning of its id."`
	Wait waiting `placeholder:"S" help:"Wait until it is back, so many seconds at most if given (--wait=30)."`
}

func (t *trashRestore) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, t.Task)
	if err != nil {
		return err
	}
	return c.revert(ctx, id, t.Wait)
}

type trashEmpty struct {
	Task   string `arg:"" optional:"" predictor:"trash" help:"The task that moved it there, or the beginning of its id."`
	Domain string `placeholder:"D" predictor:"domain" help:"All of this storage domain."`
}

func (t *trashEmpty) Run(ctx context.Context, c *cli) error {
	params := map[string]string{}
	switch {
	case (t.Task == "") == (t.Domain == ""):
		return misuse("trash empty takes either a task or --domain; see '%s trash empty --help'", program)
	case t.Domain != "":
		params["storagedomainID"] = t.Domain
	default:
		entries, err := c.trash(ctx, "")
		if err != nil {
			return err
		}
		var all []candidate
		for _, e := range entries {
			all = append(all, candidate{e.TaskID, e.TaskID})
		}
		if params["taskID"], err = choose(t.Task, all, "trash list"); err != nil {
			return err
		}
	}
	var started started
	if err := c.daemon.call(ctx, "Trash.empty", params, &started); err != nil {
		return err
	}
	return c.show(started, func() error {
		if len(started) == 0 {
			c.printf("the trash is empty\n")
		}
		for _, id := range started {
			c.printf("task %s removes it; '%s watch %s' shows how far it is\n", id, program, short(id))
		}
		return nil
	})
}

// started are the tasks that a verb made: it answers one id, or a list.
type started []string

// UnmarshalJSON takes both.
func (s *started) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*s = started{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

func (c *cli) trash(ctx context.Context, domain string) ([]trashEntry, error) {
	params := map[string]string{}
	if domain != "" {
		params["storagedomainID"] = domain
	}
	entries := []trashEntry{}
	err := c.daemon.call(ctx, "Trash.list", params, &entries)
	return entries, err
}

func first(items []string) string {
	if len(items) == 0 {
		return ""
	}
	return items[0]
}
