package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// queueCommand shows how busy the scheduler is, and changes its limits.
type queueCommand struct {
	Set newLimits `placeholder:"NAME=N,..." help:"Change limits: of the classes copy, merge, vm, light and migrate how many tasks run at a time, of queue how many may wait (none = any number)."`
}

// Help is the end of the command's help text.
func (queueCommand) Help() string {
	return "RUNNING tasks have a slot of their class; READY ones have their locks and wait for a slot. What is set lasts until the daemon ends; " +
		"copy_limit, merge_limit, vm_limit, light_limit, migrate_limit and queue_limit in section [tasks] of its configuration last. Tasks that run or wait already are left alone."
}

// queueShown is what --json prints.
type queueShown struct {
	wire.Queue
	Tasks []wire.Task `json:"tasks"` // those that wait, oldest first
}

func (q *queueCommand) Run(ctx context.Context, c *cli) error {
	if len(q.Set) > 0 {
		if err := c.daemon.call(ctx, "Host.setLimits", q.Set, nil); err != nil {
			return err
		}
	}
	var now queueShown
	if err := c.daemon.call(ctx, "Host.getQueue", nil, &now.Queue); err != nil {
		return err
	}
	var err error
	if now.Tasks, err = c.list(ctx, filter{State: string(tasks.Queued)}); err != nil {
		return err
	}
	return c.show(now, func() error {
		if len(q.Set) > 0 {
			c.printf("the limits are changed until the daemon ends; to keep them, set %s in section [tasks] of its configuration\n", q.Set.keys())
		}
		return c.queue(now)
	})
}

func (c *cli) queue(now queueShown) error {
	if d := now.Drained; d != nil {
		c.printf("%s by %s since %s; '%s drain --end' lets new tasks in\n", c.style.Paint(show.Warn, "drained"), clean(d.Who), show.Time(d.Since), program)
	}
	table := c.table(show.Column{Head: "CLASS"}, show.Column{Head: "LIMIT", Right: true}, show.Column{Head: "RUNNING", Right: true}, show.Column{Head: "READY", Right: true})
	for _, class := range tasks.Classes {
		load := now.Classes[string(class)]
		table.Add(string(class), orNone(load.Limit), strconv.Itoa(load.Running), strconv.Itoa(load.Ready))
	}
	if err := table.Write(c.stdout); err != nil {
		return err
	}
	most := "any number may"
	if now.Limit > 0 {
		most = fmt.Sprintf("%d may", now.Limit)
	}
	c.printf("%s; %s\n", count(now.Waiting, "task waits", "tasks wait"), most)
	if len(now.Tasks) > 0 {
		c.printf("\n")
	}
	waiting := c.table(show.Column{Head: "TASK"}, show.Column{Head: "VERB"}, show.Column{Head: "SUBMITTED"}, show.Column{Head: "WAITS FOR"})
	for _, t := range now.Tasks {
		waiting.Add(short(t.ID), t.Method, show.Relative(time.Now(), t.Created), waitsFor(t.Message))
	}
	return waiting.Write(c.stdout)
}

// waitsFor is the message of a queued task without what the table says already; a revert that waits says that it is one.
func waitsFor(message string) string {
	if message == "waiting" {
		return "nothing, it is about to begin"
	}
	return strings.TrimPrefix(message, "waiting for ")
}

func orNone(limit int) string {
	if limit == 0 {
		return "none"
	}
	return strconv.Itoa(limit)
}

// newLimits are the limits that --set changes, by the name of the class, or queue.
type newLimits map[string]int

// UnmarshalText reads "copy=2,queue=none".
func (n *newLimits) UnmarshalText(text []byte) error {
	names := []string{}
	for _, class := range tasks.Classes {
		names = append(names, string(class))
	}
	names = append(names, "queue")
	if *n == nil {
		*n = newLimits{}
	}
	for part := range strings.SplitSeq(string(text), ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return fmt.Errorf("%q is not a limit; write NAME=N, such as copy=2", part)
		}
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no limit %q; choose of %s", name, strings.Join(names, ", "))
		}
		if _, twice := (*n)[name]; twice {
			return fmt.Errorf("%s is given twice", name)
		}
		limit, err := strconv.Atoi(value)
		if value == "none" {
			limit, err = 0, nil
		}
		if err != nil || limit < 0 {
			return fmt.Errorf("%s=%s: give a number of tasks, or none", name, value)
		}
		(*n)[name] = limit
	}
	return nil
}

// keys are the lines of the configuration that make the limits stay.
func (n newLimits) keys() string {
	var lines []string
	for name, limit := range n {
		lines = append(lines, fmt.Sprintf("%s_limit = %d", name, limit))
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}
