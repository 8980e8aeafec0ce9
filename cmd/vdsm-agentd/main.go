// Command vdsm-agentd is the daemon: it runs storage operations as durable tasks and answers on a unix socket. Here are only
// its flags; agent.Run does the rest. Its workers are the same binary with a hidden first argument.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"vdsm-agent/agent"
	"vdsm-agent/agent/config"
	"vdsm-agent/internal/version"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/systemd"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"
	"golang.org/x/term"
)

type flags struct {
	StateDir string           `help:"Directory of the agent's state; the socket is then api.sock in it." placeholder:"DIR"`
	Config   string           `help:"Configuration file (default ${config}, which may be absent)." placeholder:"FILE"`
	Socket   string           `help:"Unix socket to listen on (default ${socket})." placeholder:"PATH"`
	LogLevel string           `help:"debug, info, warn or error." placeholder:"L"`
	Check    bool             `name:"check-config" help:"Read the configuration, say what is wrong with it, and exit."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == copy.WorkerCommand {
		os.Exit(copy.WorkerMain(os.Args[2:]))
	}
	var f flags
	if _, err := grammar(&f).Parse(os.Args[1:]); err != nil {
		fail(misused, err)
	}
	c, err := config.Load(config.Flags{StateDir: f.StateDir, File: f.Config, Socket: f.Socket, LogLevel: f.LogLevel})
	if err != nil {
		fail(misconfigured, err)
	}
	if f.Check {
		fmt.Println("the configuration is good")
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := agent.Run(ctx, c, logger()); err != nil {
		fail(failed, err)
	}
}

func grammar(f *flags) *kong.Kong {
	return kong.Must(f, kong.Name("vdsm-agentd"), kong.Description("Run storage operations as durable, cancellable tasks."),
		kong.Vars{"config": config.DefaultFile, "socket": config.DefaultSocket, "version": "vdsm-agentd " + version.Get().String()})
}

// garbage is how much of it, in percent of what is in use, may be there before it is collected. Half of the usual: with very many
// tasks the daemon has a third less memory, for little time, since a task that has ended only lies there.
const garbage = 50

// The exit codes. A defect in Go's own words ends with 2 too, after which a restart is right; after a wrong configuration it is not.
const (
	failed        = 1
	misused       = 2
	misconfigured = 78 // EX_CONFIG of sysexits.h
)

// fail ends the program with a line for each thing that is wrong.
func fail(status int, err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "vdsm-agentd: %s\n", strings.TrimSuffix(line, "\n"))
	}
	os.Exit(status)
}

// logger writes to journald under systemd, lines for a person on a terminal, JSON elsewhere. Which levels, agent.Run says.
func logger() zerolog.Logger {
	var out io.Writer = os.Stderr
	if j := systemd.NewJournal(os.Stderr); j != nil {
		out = j
	} else if term.IsTerminal(int(os.Stderr.Fd())) {
		out = zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(out).With().Timestamp().Logger()
}
