package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// contractCommand prints the cancel matrix.
type contractCommand struct {
	Verb string `arg:"" optional:"" predictor:"contract" help:"Only this verb, for example Volume.copy."`
}

func (cc *contractCommand) Run(ctx context.Context, c *cli) error {
	var matrix wire.Contracts
	if err := c.daemon.call(ctx, "Host.getCancelContract", nil, &matrix); err != nil {
		return err
	}
	if cc.Verb == "" {
		return c.show(matrix, func() error { return c.matrix(matrix.Verbs) })
	}
	row, ok := matrix.Verbs[cc.Verb]
	if !ok {
		return misuse("there is no verb %q that runs as a task; '%s contract' lists them", cc.Verb, program)
	}
	return c.show(row, func() error {
		c.field("Verb", cc.Verb)
		c.field("Stop until", row.CancellableUntil)
		c.field("No return at", row.PointOfNoReturn)
		c.field("Decided by", row.DecidedBy)
		c.field("Undo", row.Undo)
		c.field("Remainder", row.Remainder)
		c.field("Revert", row.Revert)
		c.field("Bound", boundText(row.BoundSeconds))
		c.field("In a flow", inFlow(row))
		return nil
	})
}

// matrix prints all verbs, 120 columns wide.
func (c *cli) matrix(verbs map[string]wire.Contract) error {
	table := c.table(show.Column{Head: "VERB", Wrap: 22}, show.Column{Head: "CAN BE STOPPED UNTIL", Wrap: 22},
		show.Column{Head: "UNDO AFTER A STOP", Wrap: 38}, show.Column{Head: "REVERT UNTIL CLEAR", Wrap: 22}, show.Column{Head: "BOUND", Right: true, Wrap: 8})
	table.Width = 0
	for i, name := range slices.Sorted(maps.Keys(verbs)) {
		row := verbs[name]
		undo, until := row.Undo, row.CancellableUntil
		if row.Remainder != "" {
			undo += "; remains: " + row.Remainder
		}
		if row.DecidedBy != "" {
			until += " (decided by " + row.DecidedBy + ")"
		}
		if i > 0 {
			table.Add("", "", "", "", "")
		}
		table.Add(name, until, undo, row.Revert, boundText(row.BoundSeconds))
	}
	return table.Write(c.stdout)
}

func boundText(seconds float64) string { return fmt.Sprintf("%g s", seconds) }

func inFlow(row wire.Contract) string {
	if row.Forward {
		return "refused once its flow is cancelled"
	}
	return "goes on when its flow is cancelled, as a clean-up"
}
