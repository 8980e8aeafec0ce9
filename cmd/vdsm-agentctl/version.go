package main

import (
	"context"

	"vdsm-agent/internal/version"
)

// versionCommand prints the client's own version.
type versionCommand struct{}

func (versionCommand) Run(_ context.Context, c *cli) error {
	v := version.Get()
	return c.show(v, func() error {
		c.printf("%s %s\n", program, v)
		return nil
	})
}
