package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// watchCommand shows progress until the end.
type watchCommand struct {
	ID     string `arg:"" optional:"" predictor:"open" help:"The task, or the beginning of its id; without it all tasks, until none is left that works or waits."`
	Follow bool   `short:"f" help:"Go on when none is left, and show what comes; without a task only."`
}

// Help is the end of the command's help text.
func (watchCommand) Help() string {
	return "On a terminal a table with a bar for each task, which a task leaves when it has ended; else a line at each whole 10 % and each change of state. " +
		"A paused task is watched until it is resumed and has ended. Ctrl-C ends the watch, not the task. Exit code 5 when a task did not succeed."
}

const watchEvery = 500 * time.Millisecond

// screen is where a watch is shown.
type screen interface {
	update(t wire.Task) // at each look at a task; the last time with its final state
	cleared(id string)  // it is known no more
	looked(open int)    // all tasks were looked at, and so many have not ended
	close()             // leaves what is shown as it is
}

func (w *watchCommand) Run(ctx context.Context, c *cli) error {
	if w.ID != "" && w.Follow {
		return misuse("--follow is for the watch of all tasks; see '%s watch --help'", program)
	}
	id := ""
	if w.ID != "" {
		var err error
		if id, err = c.resolve(ctx, w.ID); err != nil {
			return err
		}
	}
	watch := &watch{cli: c, only: id, endless: w.Follow, open: map[string]bool{}, screen: c.screen(id == "")}
	err := watch.run(ctx)
	watch.screen.close()
	switch {
	case errors.Is(err, context.Canceled) && id != "":
		return fail(exitInterrupted, "the watch has ended, not the task; '%s stop %s' stops the task", program, short(id))
	case errors.Is(err, context.Canceled):
		return fail(exitInterrupted, "the watch has ended, not the tasks; '%s stop ID' stops one", program)
	}
	return err
}

func (c *cli) screen(all bool) screen {
	if c.terminal && !c.JSON {
		return newBars(c, all)
	}
	return &lines{cli: c, shown: map[string]string{}}
}

// watch looks at tasks again and again.
type watch struct {
	*cli
	only    string          // this task; "" = all
	endless bool            // also when none is left
	open    map[string]bool // tasks that had not ended at the last look
	screen  screen
	seen    bool // there was a task to watch
	ended   int
	failed  []wire.Task
}

func (w *watch) run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		if err := w.look(ctx); err != nil {
			return err
		}
		w.screen.looked(len(w.open))
		if len(w.open) == 0 && !w.endless {
			return w.verdict()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *watch) verdict() error {
	switch {
	case !w.seen && !w.JSON:
		w.printf("no task works or waits\n")
	case len(w.failed) > 0 && w.only != "":
		return unsuccessful(w.only, w.failed[0].Message)
	case len(w.failed) > 0:
		return fail(exitNoSuccess, "%d of %s did not succeed; '%s tasks --all' shows which", len(w.failed), count(w.ended, "task", "tasks"), program)
	}
	return nil
}

// look shows every watched task once.
func (w *watch) look(ctx context.Context) error {
	seen := map[string]bool{}
	if w.only == "" {
		working, err := w.working(ctx)
		if err != nil {
			return err
		}
		for _, t := range working {
			if !seen[t.ID] { // a task that moved while it was asked for comes twice
				seen[t.ID] = true
				w.show(t)
			}
		}
	} else {
		w.open[w.only] = true
	}
	for _, id := range slices.Sorted(maps.Keys(w.open)) {
		if seen[id] {
			continue
		}
		var d wire.Details
		err := w.daemon.follow(ctx, "Task.getDetails", func() any { return map[string]string{"taskID": id} }, &d)
		switch {
		case isCode(err, code.UnknownTask) && w.only != "":
			return &goneError{id}
		case isCode(err, code.UnknownTask):
			delete(w.open, id)
			w.screen.cleared(id)
		case err != nil:
			return err
		default:
			w.show(d.Task)
		}
	}
	return nil
}

func (w *watch) show(t wire.Task) {
	w.seen = true
	w.screen.update(t)
	if !final(t) {
		w.open[t.ID] = true
		return
	}
	delete(w.open, t.ID)
	w.ended++
	if tasks.State(t.State) != tasks.Finished {
		w.failed = append(w.failed, t)
	}
}

// working lists the tasks that have not ended. It asks for one state after the other, in the order in which tasks pass
// them, so that a task that moves meanwhile is not missed, and the ended ones, which can be very many, do not travel.
func (w *watch) working(ctx context.Context) ([]wire.Task, error) {
	var out []wire.Task
	for _, state := range stateWords {
		if state.Final() {
			continue
		}
		var page wire.TaskPage
		params := func() any { return filter{State: string(state), Limit: pageSize} }
		if err := w.daemon.follow(ctx, "Host.getAllTasks", params, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Tasks...)
	}
	return out, nil
}

// sentence is a task in one line: what it is, its state, how far it is.
func sentence(t wire.Task) string {
	text := fmt.Sprintf("%s %s %s", short(t.ID), t.Method, stateCell(t).Text)
	if t.Message != "" && t.Message != t.State {
		text += ": " + t.Message
	}
	if !final(t) && t.Progress != nil {
		text += ", " + longProgress(t.Progress)
	}
	return clean(text)
}
