package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// taskCommand shows one task, or its audit trail.
type taskCommand struct {
	ID  string `arg:"" predictor:"task" help:"The task, or the beginning of its id."`
	Log bool   `help:"Show who asked for what, and what happened, instead; also of a cleared task, by its whole id."`
}

func (t *taskCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, t.ID)
	if err != nil {
		return err
	}
	if t.Log {
		return c.trail(ctx, id)
	}
	d, err := c.details(ctx, id)
	if err != nil {
		return err
	}
	return c.show(d, func() error { return c.describe(d) })
}

func (c *cli) details(ctx context.Context, id string) (wire.Details, error) {
	var d wire.Details
	err := c.daemon.call(ctx, "Task.getDetails", map[string]string{"taskID": id}, &d)
	return d, err
}

func (c *cli) trail(ctx context.Context, id string) error {
	entries := []wire.LogEntry{}
	if err := c.daemon.call(ctx, "Task.getLog", map[string]string{"taskID": id}, &entries); err != nil {
		return err
	}
	return c.show(entries, func() error {
		table := c.table(show.Column{Head: "TIME"}, show.Column{Head: "WHO"}, show.Column{Head: "WHAT"})
		table.Width = 0 // a trail is read for its details
		for _, e := range entries {
			table.Add(show.Time(e.At), e.Who, e.What)
		}
		return table.Write(c.stdout)
	})
}

// describe prints all that is visible of a task; what does not apply is left out.
func (c *cli) describe(d wire.Details) error {
	c.field("Task", d.ID)
	c.field("Verb", fmt.Sprintf("%s (%s)", d.Method, d.Verb))
	state := stateCell(d.Task)
	c.printf("%s %s\n", c.style.Paint(show.Bold, fmt.Sprintf("%-16s", "State:")), c.style.Paint(state.Colour, clean(state.Text)))
	c.field("Message", d.Message)
	if d.Code != 0 {
		c.field("Code", fmt.Sprint(d.Code))
	}
	if d.Progress != nil {
		c.field("Progress", show.Bar(d.Progress.Done, d.Progress.Total, 30)+" "+longProgress(d.Progress))
	}
	c.field("Parameters", compact(d.Params))
	c.field("Flow", d.Flow)
	c.field("Tag", d.Tag)
	c.field("Submitted", show.Time(d.Created)+by(d.Who))
	c.fieldTime("Started", d.Started)
	c.fieldTime("Checkpoint", d.LastCheckpoint)
	c.fieldTime("Ended", d.Ended)
	c.asked("Stop asked", d.Stop)
	c.asked("Revert asked", d.Revert)
	if !final(d.Task) {
		c.asked("Paused", d.Pause)
		if d.RevertAtEnd != nil {
			c.field("At its end", "will be reverted; asked for "+show.Time(d.RevertAtEnd.At)+by(d.RevertAtEnd.Who))
		}
		c.field("Limit", show.Rate(float64(d.BytesPerSecond)))
		c.field("Can be stopped", yesNo(d.Cancelable, d.NotCancelable))
	}
	if d.Cancelable {
		c.field("Ends within", boundText(d.CancelWithin)+" of a stop")
	}
	c.pointOfNoReturn(d)
	if d.StopLost {
		c.field("Stop", "came too late; "+d.DecidedBy+" had finished")
	}
	if d.State == string(tasks.Finished) || d.State == string(tasks.Failed) {
		c.field("Can be reverted", yesNo(d.Revertible, "")+until(d))
	}
	c.items("Locks", locks(d.Locks))
	c.items("Waits for", d.WaitsFor)
	c.items("Waits behind", d.WaitsBehind)
	c.field("Processes", strings.Trim(strings.ReplaceAll(fmt.Sprint(d.Pids), " ", ", "), "[]"))
	if d.Stuck {
		c.field("Stuck since", show.Time(d.StuckSince))
		c.items("Held by", d.StuckHolders)
	}
	c.items("Residue", d.Residue)
	c.items("Remainder", d.Remainder)
	c.field("Deferred to", d.Deferred)
	if len(d.Steps) > 0 {
		c.printf("\n")
	}
	return c.steps(d.Steps)
}

func (c *cli) steps(steps []wire.Step) error {
	table := c.table(show.Column{Head: "STEP"}, show.Column{Head: "STATE"}, show.Column{Head: "STARTED"}, show.Column{Head: "ENDED"}, show.Column{Head: "ERROR"})
	table.Width = 0 // an error is read to its end
	for _, s := range steps {
		table.AddCells(show.Cell{Text: s.Name}, show.Cell{Text: s.State, Colour: stepColour(s.State)},
			show.Cell{Text: show.Time(s.Started)}, show.Cell{Text: show.Time(s.Ended)}, show.Cell{Text: s.Error})
	}
	return table.Write(c.stdout)
}

func stepColour(state string) show.Colour {
	switch state {
	case "done":
		return show.Good
	case "undone":
		return show.Warn
	case "undo-failed":
		return show.Bad
	case "waiting":
		return show.Dim
	}
	return show.Plain
}

func (c *cli) fieldTime(name string, t time.Time) {
	if !t.IsZero() {
		c.field(name, show.Time(t))
	}
}

func (c *cli) asked(name string, a *wire.Asked) {
	if a != nil {
		c.field(name, show.Time(a.At)+by(a.Who))
	}
}

func (c *cli) pointOfNoReturn(d wire.Details) {
	text := "step " + d.PointOfNoReturn
	switch {
	case d.PointOfNoReturn == "":
		return
	case d.Passed:
		text += ", passed"
	default:
		text += ", not passed"
	}
	if d.DecidedBy != "" {
		text += "; decided by " + d.DecidedBy
	}
	c.field("No return at", text)
}

// longProgress is all that is known of a progress: "48 %  3.8 GiB of 8.0 GiB  210.0 MiB/s  20 s left".
func longProgress(p *wire.Progress) string {
	parts := []string{
		fmt.Sprintf("%d %%", show.Percent(p.Done, p.Total)),
		fmt.Sprintf("%s of %s", show.Size(p.Done), show.Size(p.Total)),
	}
	if rate := show.Rate(p.Rate); rate != "" {
		parts = append(parts, rate, show.Span(time.Duration(p.Left*float64(time.Second)))+" left")
	}
	return strings.Join(parts, "  ")
}

func locks(all []wire.Lock) []string {
	var out []string
	for _, l := range all {
		mode := "shared"
		if l.Exclusive {
			mode = "exclusive"
		}
		out = append(out, fmt.Sprintf("%s (%s)", l.Key, mode))
	}
	return out
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return " by " + who
}

// until says how long a finished task can be reverted, if that ends.
func until(d wire.Details) string {
	if !d.Revertible || d.Expires.IsZero() {
		return ""
	}
	return ", until " + show.Time(d.Expires) + " if it is not cleared before"
}

// compact is JSON without what an empty object would add.
func compact(raw json.RawMessage) string {
	if text := string(raw); text != "{}" && text != "null" {
		return text
	}
	return ""
}
