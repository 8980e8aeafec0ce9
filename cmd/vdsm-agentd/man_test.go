package main

import (
	"flag"
	"testing"

	"vdsm-agent/internal/manual"
)

var update = flag.Bool("update", false, "write the manual page")

// TestManual: docs/man/vdsm-agentd.8 is what the help says. `make generate` writes it.
func TestManual(t *testing.T) {
	manual.Page{Section: 8, Title: "daemon that runs storage operations as durable, cancellable tasks", App: grammar(&flags{}).Model, After: []manual.Part{
		{Head: "SIGNALS", Text: `**SIGTERM**, **SIGINT**
: End in order: running tasks make a checkpoint, their processes end, and after the next start they go on. Nothing is cancelled.

**SIGHUP**
: The configuration is read again, as when one of its files has changed. One that is wrong is refused in the log, and all stays as it was.

**SIGKILL**, a crash, a loss of power
: The same, but that at most one slice of each copy is done again.
`},
		{Head: "EXIT STATUS", Text: "0 ended as asked, 1 could not start or had to end, 2 wrong flags, 78 wrong configuration."},
		{Head: "FILES", Text: `*/etc/vdsm-agent/vdsm-agent.conf*
: The configuration, with those in */etc/vdsm-agent/conf.d*; see **vdsm-agent.conf**(5).

*/run/vdsm-agent/api.sock*
: The socket.

*/var/lib/vdsm-agent*
: The tasks, with all that is needed to undo them or to go on with them, and the agent's own storage domain.
`},
		{Head: "SEE ALSO", Text: "**vdsm-agentctl**(1), **vdsm-agent.conf**(5)"},
	}}.Keep(t, "../../docs/man", *update)
}
