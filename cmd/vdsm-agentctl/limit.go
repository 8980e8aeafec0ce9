package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
)

// limitCommand limits how fast a task moves data.
type limitCommand struct {
	ID   string `arg:"" predictor:"open" help:"The task, or the beginning of its id."`
	Rate rate   `arg:"" help:"Bytes per second, such as 50M or 1.5G (K, M, G and T count in 1024s), or none."`
}

// Help is the end of the command's help text.
func (limitCommand) Help() string {
	return "Only a task that goes in slices, such as a copy, can be limited. The limit is kept when the daemon is restarted."
}

func (l *limitCommand) Run(ctx context.Context, c *cli) error {
	id, err := c.resolve(ctx, l.ID)
	if err != nil {
		return err
	}
	limit := limited{id, int64(l.Rate)}
	if err := c.daemon.call(ctx, "Task.setLimits", limit, nil); err != nil {
		return err
	}
	return c.show(limit, func() error {
		what := "has no limit any more"
		if limit.BytesPerSecond > 0 {
			what = "moves " + show.Rate(float64(limit.BytesPerSecond)) + " at most"
		}
		c.printf("task %s %s, from its next slice on\n", short(id), what)
		return nil
	})
}

// limited is what Task.setLimits takes, and what --json prints.
type limited struct {
	TaskID         string `json:"taskID"`
	BytesPerSecond int64  `json:"bytesPerSecond"`
}

// rate is a number of bytes per second on the command line; none is 0.
type rate int64

// UnmarshalText reads a number with a unit, as sizes are printed ("50 MiB/s") or shorter ("50M"), or "none".
func (r *rate) UnmarshalText(text []byte) error {
	word := strings.ToLower(string(text))
	if word == "none" {
		*r = 0
		return nil
	}
	word = strings.TrimSuffix(word, "/s")
	number, factor := word, 1.0
	for i, unit := range "kmgt" {
		for _, suffix := range []string{string(unit), string(unit) + "ib"} {
			if before, found := strings.CutSuffix(word, suffix); found {
				number, factor = before, float64(int64(1)<<(10*(i+1)))
			}
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if n *= factor; err != nil || math.IsNaN(n) || n < 1 || n > math.MaxInt64/2 {
		return fmt.Errorf("%q is not a rate; give bytes per second such as 50M or 1.5G, or none", text)
	}
	*r = rate(n)
	return nil
}
