package main

import (
	"context"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// configCommand is about the daemon's configuration.
type configCommand struct {
	Show configShow `cmd:"" help:"Show every key of the daemon's configuration, its value in force, and where that comes from."`
}

type configShow struct {
	Changed bool `help:"Only keys that have not their default."`
}

// Help is the end of the command's help text.
func (configShow) Help() string {
	return "What a key means, vdsm-agent.conf(5) says. When the files were changed and are refused, what was in force before stays, and the exit code is 1."
}

func (s *configShow) Run(ctx context.Context, c *cli) error {
	var all wire.Configuration
	if err := c.daemon.call(ctx, "Host.getConfiguration", nil, &all); err != nil {
		return err
	}
	if s.Changed {
		changed := []wire.Setting{}
		for _, one := range all.Settings {
			if one.Origin != "default" || one.Pending != nil {
				changed = append(changed, one)
			}
		}
		all.Settings = changed
	}
	if err := c.show(all, func() error { return c.settings(all) }); err != nil {
		return err
	}
	if len(all.Refused) > 0 {
		return fail(exitRefused, "the files as they are now are refused: %s", first(all.Refused))
	}
	return nil
}

func (c *cli) settings(all wire.Configuration) error {
	table := c.table(show.Column{Head: "KEY"}, show.Column{Head: "VALUE"}, show.Column{Head: "FROM"}, show.Column{Head: "AFTER A RESTART"})
	for _, one := range all.Settings {
		pending := ""
		if p := one.Pending; p != nil {
			pending = orDash(p.Value) + " (" + p.Origin + ")"
		}
		table.AddCells(show.Cell{Text: one.Section + "." + one.Key}, show.Cell{Text: orDash(one.Value)}, show.Cell{Text: one.Origin},
			show.Cell{Text: pending, Colour: show.Warn})
	}
	if err := table.Write(c.stdout); err != nil {
		return err
	}
	for _, problem := range all.Refused {
		c.printf("%s %s\n", c.style.Paint(show.Bad, "refused:"), clean(problem))
	}
	return nil
}

func orDash(value string) string {
	if value == "" {
		return "-"
	}
	return value
}
