package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

type flowCancel struct {
	Flow   string  `arg:"" predictor:"flow" help:"The flow's whole id."`
	Revert bool    `help:"Also undo its tasks that have finished, last finished first."`
	Wait   waiting `placeholder:"S" help:"Wait until every task has ended, so many seconds at most if given (--wait=30)."`
}

// Help is the end of the command's help text.
func (flowCancel) Help() string {
	return "Exit code 0 when every task was stopped (or reverted, or had ended), 1 when one could not be. " +
		"With --wait: 5 when one ended otherwise than undone, 4 after S seconds; the cancel stays recorded."
}

// Run cancels the flow. Whatever is waited for after the answer, the cancel is on stable storage.
func (f *flowCancel) Run(ctx context.Context, c *cli) error {
	var result wire.FlowCancel
	if err := c.daemon.call(ctx, "Flow.cancel", flowParams{f.Flow, f.Revert}, &result); err != nil {
		return err
	}
	refused := 0
	for _, t := range result.Tasks {
		if flowRefused(t) {
			refused++
		}
	}
	notUndone := 0
	if f.Wait.asked {
		var err error
		if notUndone, err = f.await(ctx, c, result.Tasks); err != nil {
			return err
		}
	}
	err := c.show(result, func() error { return c.flowTable(result) })
	switch {
	case err != nil:
		return err
	case notUndone > 0:
		return fail(exitNoSuccess, "%s otherwise than undone; '%s flow show %s' shows the flow", count(notUndone, "task ended", "tasks ended"), program, f.Flow)
	case refused > 0:
		return fail(exitRefused, "%s; the flow takes no new ones", count(refused, "task could not be stopped or reverted", "tasks could not be stopped or reverted"))
	}
	return nil
}

// await waits until every task that was not at its end has reached it, and writes the end into all. It returns how many of
// them were not undone.
func (f *flowCancel) await(ctx context.Context, c *cli, all map[string]wire.FlowTask) (notUndone int, err error) {
	begun := time.Now()
	ends := map[string]tasks.State{resultSuccess: tasks.Finished, resultUndone: tasks.Recovered, "cleanFailure": tasks.Failed}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		t := all[id]
		if tasks.State(t.After).Final() {
			continue
		}
		limit := f.Wait.limit.duration()
		if limit > 0 {
			limit = max(limit-time.Since(begun), time.Millisecond) // 0 would be no limit
		}
		status, err := c.await(ctx, id, limit, "the cancel stays recorded and goes on; '"+program+" flow show "+f.Flow+"' shows how far it is")
		switch {
		case isGone(err):
			continue // cleared by whoever the flow belongs to
		case err != nil:
			return 0, err
		}
		t.After, t.Code, t.Message = string(ends[status.TaskResult]), status.Code, status.Message
		all[id] = t
		if status.TaskResult != resultUndone {
			notUndone++
		}
	}
	return notUndone, nil
}

// flowRefused says whether the stop or the revert of this task was. Its code is then that of the refusal.
func flowRefused(t wire.FlowTask) bool {
	switch code.Code(t.Code) {
	case code.TaskState, code.NotRevertible, code.TaskNotFinished, code.TaskPersist:
		return t.Before == t.After && tasks.State(t.After) != tasks.Recovered && tasks.State(t.After) != tasks.Failed
	}
	return false
}

func (c *cli) flowTable(result wire.FlowCancel) error {
	c.printf("flow %s is cancelled and takes no new tasks\n", clean(result.FlowID))
	table := c.table(show.Column{Head: "TASK"}, show.Column{Head: "VERB"}, show.Column{Head: "BEFORE"}, show.Column{Head: "AFTER"},
		show.Column{Head: "CODE", Right: true}, show.Column{Head: "MESSAGE"})
	for _, id := range slices.Sorted(maps.Keys(result.Tasks)) {
		t := result.Tasks[id]
		table.Add(short(id), t.Verb, t.Before, t.After, strconv.Itoa(t.Code), t.Message)
	}
	return table.Write(c.stdout)
}
