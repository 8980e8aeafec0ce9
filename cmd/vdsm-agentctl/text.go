package main

import (
	"fmt"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
)

// table is an empty table as wide as the terminal; on anything else nothing is cut.
func (c *cli) table(columns ...show.Column) *show.Table {
	t := &show.Table{Columns: columns, Style: c.style}
	if c.terminal {
		t.Width = c.width
	}
	return t
}

// field prints a line "Name:     value"; nothing for an empty value.
func (c *cli) field(name, value string) {
	if value != "" {
		c.printf("%s %s\n", c.style.Paint(show.Bold, fmt.Sprintf("%-16s", name+":")), clean(value))
	}
}

// items prints one field of several values, one a line.
func (c *cli) items(name string, values []string) {
	for i, v := range values {
		if i > 0 {
			name = ""
			c.printf("%-16s %s\n", name, clean(v))
			continue
		}
		c.field(name, v)
	}
}

// clean makes text from the daemon fit for a terminal.
func clean(s string) string { return show.Clean(s) }

// count is "1 task is …" or "3 tasks are …".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func yesNo(b bool, no string) string {
	if b {
		return "yes"
	}
	return strings.TrimSuffix("no, "+no, ", ")
}
