package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/tasks/store"
)

// storeCommand looks at the store itself; it needs no daemon.
type storeCommand struct {
	Check storeCheck `cmd:"" help:"Read the whole store and report damage; nothing is changed, and a running daemon is not disturbed."`
}

// storeFile is the store's name in the daemon's state directory.
const storeFile = "tasks.db"

type storeCheck struct {
	File     string `arg:"" optional:"" predictor:"file" help:"The store's file."`
	StateDir string `predictor:"file" placeholder:"DIR" default:"/var/lib/vdsm-agent" help:"The daemon's state directory (${default}), if no file is given."`
}

// Help is the end of the command's help text.
func (storeCheck) Help() string { return "Exit code 0 when the store is sound, 1 when not." }

func (s *storeCheck) Run(_ context.Context, c *cli) error {
	path := s.File
	if path == "" {
		path = filepath.Join(s.StateDir, storeFile)
	}
	report, err := store.Check(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return misuse("there is no store %s; name its file or the daemon's --state-dir", path)
	case err != nil:
		return fail(exitRefused, "the store cannot be checked: %s", err)
	}
	if err := c.show(report, func() error { return c.storeReport(report) }); err != nil {
		return err
	}
	if n := len(report.Problems); n > 0 {
		return fail(exitRefused, "%s has %s; stop the daemon and keep a copy of the file before anything else", path, count(n, "problem", "problems"))
	}
	return nil
}

func (c *cli) storeReport(r store.Report) error {
	c.field("Store", r.Path)
	c.field("Schema", fmt.Sprint(r.Schema))
	var states []string
	for _, s := range slices.Sorted(maps.Keys(r.States)) {
		states = append(states, fmt.Sprintf("%d %s", r.States[s], s))
	}
	c.field("Tasks", strings.TrimSuffix(fmt.Sprintf("%d (%s)", r.Live, strings.Join(states, ", ")), " ()"))
	c.field("History", fmt.Sprint(r.History))
	c.field("Set aside", fmt.Sprint(len(r.SetAside)))
	for _, a := range r.SetAside {
		c.printf("  %s  %s  %s\n", clean(a.ID), show.Time(a.At), clean(a.Reason))
	}
	for _, p := range r.Problems {
		c.printf("%s %s\n", c.style.Paint(show.Bad, "problem:"), clean(p))
	}
	if len(r.Problems) == 0 {
		c.printf("the store is sound\n")
	}
	return nil
}
