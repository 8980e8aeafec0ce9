package main

import (
	"context"

	"vdsm-agent/rpc/wire"
)

// metricsCommand prints the daemon's figures.
type metricsCommand struct{}

// Help is the end of the command's help text.
func (metricsCommand) Help() string {
	return "In Prometheus' text format, as they can also be read on the socket that section [metrics] of the configuration names; for instance for the directory of text " +
		"files of a node exporter. docs/monitoring.md says what each means."
}

func (metricsCommand) Run(ctx context.Context, c *cli) error {
	var m wire.Metrics
	if err := c.daemon.call(ctx, "Host.getMetrics", nil, &m); err != nil {
		return err
	}
	return c.show(m, func() error { c.printf("%s", m.Text); return nil })
}
