// Command manybench measures a daemon that has very many uncleared tasks: how long it takes from its start until it accepts work,
// how much memory it has, and how fast it answers about them. The tasks are written into its store, as copies of records that the
// same daemon made: a copy of a volume that finished, one that was stopped, one whose undo failed; and some that wait behind one
// that runs. `make bench` runs it.
//
//	manybench [-tasks N] AGENTD DIR
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"vdsm-agent/test/benchkit"
)

func main() {
	n := flag.Int("tasks", 100_000, "uncleared tasks")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: manybench [-tasks N] AGENTD DIR")
		os.Exit(2)
	}
	b := &bench{ctx: context.Background(), agentd: flag.Arg(0), state: filepath.Join(flag.Arg(1), "many")}
	if err := b.run(*n); err != nil {
		fmt.Fprintln(os.Stderr, "manybench:", err)
		os.Exit(1)
	}
}

type bench struct {
	ctx           context.Context
	agentd, state string
	ids           []string // of the tasks that have ended
	bytes         int      // of the last ones' records
}

// The bounds.
const (
	mostStart    = 2   // s
	mostResident = 250 // MiB
	mostStatus   = 1   // ms, p99
	mostPage     = 5   // ms, median
	starts       = 5   // how often the daemon is started
	statuses     = 10_000
	pages        = 200
	pageSize     = 100
)

// performed is how many tasks are there for the samples: the import of a disk, and its copies.
const performed = 3

// waiting is how many tasks wait behind one that runs.
const waiting = 400

func (b *bench) run(n int) error {
	samples, err := b.samples()
	if err != nil {
		return err
	}
	if err := b.fill(samples, n-waiting-1-performed); err != nil {
		return err
	}
	fmt.Printf("%d uncleared tasks, %d of them waiting, records of %d bytes on average\n", n, waiting, b.bytes/len(b.ids))
	return b.measure()
}

// start starts the daemon once more on what there is.
func (b *bench) start() (*benchkit.Daemon, error) {
	return benchkit.Start(b.ctx, b.agentd, b.state, "[debug]", "mock_verb = true")
}
