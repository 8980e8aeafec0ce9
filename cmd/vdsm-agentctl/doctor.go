package main

import (
	"context"
	"errors"

	"vdsm-agent/agent/config"
	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/doctor"
)

// doctorCommand looks at the host.
type doctorCommand struct {
	Config   string `predictor:"file" placeholder:"FILE" help:"The daemon's configuration file (/etc/vdsm-agent/vdsm-agent.conf, which may be absent)."`
	StateDir string `predictor:"file" placeholder:"DIR" help:"The daemon's state directory, if it was started with another one than its configuration says."`
}

// Help is the end of the command's help text.
func (doctorCommand) Help() string {
	return "It looks at qemu-img, cgroups, the store and the room for it, the storage domains, the socket, certificates and their dates, the clock, and libvirt; it only reads, " +
		"and needs no daemon, though it says when none runs. Exit code 0 when there is no error and no warning, 5 when there is."
}

var doctorColours = map[doctor.Severity]show.Colour{doctor.Error: show.Bad, doctor.Warning: show.Warn, doctor.Note: show.Dim}

func (d *doctorCommand) Run(ctx context.Context, c *cli) error {
	if err := localOnly(c); err != nil {
		return err
	}
	flags := config.Flags{File: d.Config, StateDir: d.StateDir}
	if c.Socket != defaultSocket {
		flags.Socket = c.Socket
	}
	c.daemon.patience = 0 // one that is starting is told of
	found := doctor.Look(ctx, doctor.Options{
		Flags: flags, Call: c.daemon.call,
		Unreachable: func(err error) bool { var silent *unreachable; return errors.As(err, &silent) },
	})
	if err := c.show(found, func() error { return c.findingsOfDoctor(found) }); err != nil {
		return err
	}
	if worst := doctor.Worst(found); worst == doctor.Error || worst == doctor.Warning {
		return fail(exitNoSuccess, "something is not as it should be; see above")
	}
	return nil
}

func (c *cli) findingsOfDoctor(found []doctor.Finding) error {
	table := c.table(show.Column{Head: "CHECK"}, show.Column{Head: "SEVERITY"}, show.Column{Head: "FOUND"})
	for _, f := range found {
		table.AddCells(show.Cell{Text: f.Check}, show.Cell{Text: string(f.Severity), Colour: doctorColours[f.Severity]}, show.Cell{Text: f.Message})
	}
	table.Width = 0 // nothing of it is to be cut
	if err := table.Write(c.stdout); err != nil {
		return err
	}
	for _, f := range found {
		if f.Mend != "" {
			c.printf("\n%s %s\n  What to do: %s\n", c.style.Paint(show.Bold, f.Check+":"), clean(f.Message), clean(f.Mend))
		}
	}
	return nil
}
