package main

import (
	"io"
	"os"
	"testing"

	"vdsm-agent/internal/manual"

	"github.com/alecthomas/kong"
)

// TestManual: docs/man/vdsm-agentctl.1 is what the help says. `make generate` writes it.
func TestManual(t *testing.T) {
	p := process{env: func(string) string { return "" }, stdout: io.Discard, stderr: os.Stderr}
	k, err := grammar(p, &commands{}, kong.Description(description))
	if err != nil {
		t.Fatal(err)
	}
	manual.Page{Section: 1, Title: "command-line client of vdsm-agentd", App: k.Model, After: []manual.Part{
		{Head: "ENVIRONMENT", Text: `**VDSM_AGENT_SOCKET**
: The daemon's socket, for **--socket**.

**VDSM_AGENT_CONNECT**, **VDSM_AGENT_CERT**, **VDSM_AGENT_KEY**, **VDSM_AGENT_CA**
: For **--connect**, **--cert**, **--key**, **--ca**.

**NO_COLOR**
: If set, nothing is printed in colours.
`},
		{Head: "EXAMPLES", Text: `Copy a volume, follow it, and cancel it:

    vdsm-agentctl Volume copy -f copy.json
    vdsm-agentctl watch
    vdsm-agentctl stop 3f2a --wait

What would be undone, without doing it:

    vdsm-agentctl stop 3f2a --dry-run

The tasks of another host:

    vdsm-agentctl --connect host.example.com:54321 --cert c.pem --key k.pem --ca ca.pem tasks
`},
		{Head: "SEE ALSO", Text: "**vdsm-agentd**(8), **vdsm-agent.conf**(5)"},
	}}.Keep(t, "../../docs/man", *update)
}
