package main

import (
	"fmt"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/storageops/domaincheck"
)

var severityColours = map[domaincheck.Severity]show.Colour{domaincheck.Error: show.Bad, domaincheck.Warning: show.Warn, domaincheck.Note: show.Dim}

// domainReport prints what a check has found: a line for each finding, then what can be done about each class.
func (c *cli) domainReport(r *domaincheck.Report, a *agentView) error {
	c.domainHead(r, a)
	if len(r.Findings) == 0 {
		c.printf("\neverything is as it should be\n")
		return nil
	}
	if err := c.findings(r); err != nil {
		return err
	}
	c.repairable(r, a, fmt.Sprintf("%s domain check %s --repair", program, r.Path))
	return nil
}

// findings prints a line for each finding, and what can be done about each class.
func (c *cli) findings(r *domaincheck.Report) error {
	c.printf("\n")
	table := c.table(show.Column{Head: "SEVERITY"}, show.Column{Head: "CLASS"}, show.Column{Head: "REPAIR"}, show.Column{Head: "FOUND"})
	for _, f := range r.Findings {
		what := f.Message
		if f.Task != "" && f.Severity == domaincheck.Note && !strings.Contains(what, f.Task) {
			what = fmt.Sprintf("Task %s is at work with it: %s", short(f.Task), what)
		}
		table.AddCells(show.Cell{Text: string(f.Severity), Colour: severityColours[f.Severity]}, show.Cell{Text: string(f.Class)},
			show.Cell{Text: string(f.Repair)}, show.Cell{Text: what})
	}
	if err := table.Write(c.stdout); err != nil {
		return err
	}
	c.meanings(r)
	return nil
}

func (c *cli) domainHead(r *domaincheck.Report, a *agentView) {
	c.field("Domain", r.UUID)
	c.field("Name", r.Name)
	c.field("Path", r.Path)
	if r.Type != "" {
		c.field("Type", fmt.Sprintf("%s, version %d", r.Type, r.Version))
	}
	looked := fmt.Sprintf("%s, %s", count(r.Images, "image", "images"), count(r.Volumes, "volume", "volumes"))
	if !r.Deep {
		looked += "; 'domain check --deep' also lets qemu-img check the images"
	}
	c.field("Looked at", looked)
	c.field("Agent", map[string]string{
		"serving": "is running and has this domain; " + count(len(a.images), "image is", "images are") + " at work with",
		"other":   "is running and does not have this domain", "none": "none is running here",
	}[a.said()])
}

// meanings says once for each class what it means and what can be done.
func (c *cli) meanings(r *domaincheck.Report) {
	var classes []domaincheck.Class
	for _, f := range r.Findings {
		if !slices.Contains(classes, f.Class) && f.Severity != domaincheck.Note {
			classes = append(classes, f.Class)
		}
	}
	for _, k := range domaincheck.Kinds {
		if slices.Contains(classes, k.Class) {
			c.printf("\n%s\n  %s\n  What to do: %s\n", c.style.Paint(show.Bold, string(k.Class)), k.Means, k.Remedy)
		}
	}
}

// repairable says what could be repaired, and by which command.
func (c *cli) repairable(r *domaincheck.Report, a *agentView, command string) {
	n := len(fixable(r))
	switch {
	case n == 0:
	case a.serves:
		c.printf("\n%s can be repaired, each with a way back: '%s' asks before each\n", count(n, "finding", "findings"), command)
	default:
		c.printf("\n%s could be repaired, by the daemon that has this domain\n", count(n, "finding", "findings"))
	}
}

// fixable are the findings for which a repair is offered.
func fixable(r *domaincheck.Report) (out []domaincheck.Finding) {
	for _, f := range r.Findings {
		if f.Repair != "" {
			out = append(out, f)
		}
	}
	return out
}
