// Command vdsm-agentctl is the command-line client of vdsm-agentd. It holds no logic of tasks: every answer is the daemon's,
// and everything that it changes it asks the daemon for. Only "store check", "domain check", "doctor" and
// "import-vdsm-tasks" work without one: they read.
//
// One command is one file; run.go parses and reports, session.go talks to the daemon, tasklist.go and ended.go are what several
// commands share. What only makes text is in internal/show, what only makes parameters in internal/verbargs. The package is
// longer than others of the project because it is one command after the other; none knows another.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width, height = 0, 0 // not a terminal
	}
	os.Exit(run(ctx, process{
		args: os.Args[1:], env: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		terminal: term.IsTerminal(int(os.Stdout.Fd())), notes: term.IsTerminal(int(os.Stderr.Fd())), width: width, height: height,
		dial: dial,
	}))
}

func dial(ctx context.Context, to target) (connection, error) {
	c, err := to.dial(ctx)
	if err != nil {
		return nil, err // not c, which would be a connection that is not nil
	}
	return c, nil
}
