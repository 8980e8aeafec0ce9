// Command enginebench measures what the engine adds to the store: submits and whole lives of tasks that do nothing, and stops of
// tasks that wait, each against one synced SQLite transaction per request on the same disk at the same time. Each figure is taken
// at the engine in this process, where the bounds hold, and once more over the socket of a real daemon, for information.
// `make bench` runs it.
//
//	enginebench [-rounds N] [-stops N] [-data MIB] AGENTD DIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// who asks, in the rows of both sides.
const who = "root (pid 4711)"

// clients is how many ask at the same time, where many do.
const clients = 16

func main() {
	rounds := flag.Int("rounds", 15, "how often both sides are measured")
	stops := flag.Int("stops", 200, "stops to measure, without a copy and with one")
	data := flag.Int64("data", 2048, "MiB of data in the disk that is copied meanwhile")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: enginebench [-rounds N] [-stops N] [-data MIB] AGENTD DIR")
		os.Exit(2)
	}
	b := &bench{ctx: context.Background(), agentd: flag.Arg(0), dir: flag.Arg(1), rounds: *rounds, stops: *stops, data: *data}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "enginebench:", err)
		os.Exit(1)
	}
}

type bench struct {
	ctx           context.Context
	agentd, dir   string
	rounds, stops int
	data          int64
}

// side is something that takes tasks. client says which of the clients asks.
type side interface {
	submit(client int, params string) (id string, err error)
	wait(client int, id string) error
	stop(client int, id string) error
	close() error
}

// The tasks: the holder keeps the lock that all others want; a life wants nothing.
const (
	holder = `{"steps":[{"name":"hold","pace":360000000000000}],"locks":["bench"]}`
	held   = `{"steps":[{"name":"nothing"}],"locks":["bench"]}`
	life   = `{"steps":[{"name":"nothing"}]}`
)

func (b *bench) run() error {
	for _, f := range figures {
		if err := errors.Join(b.rate("engine", b.openEngine, f, true), b.rate("socket", b.openSocket, f, false)); err != nil {
			return err
		}
	}
	return b.allStops()
}

// fresh calls f with a side and a baseline in a directory of their own. The queue of the side is held.
func (b *bench) fresh(open func(dir string) (side, error), f func(side, *baseline) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "engine-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.submit(0, holder); err != nil {
		return err
	}
	base, err := openBaseline(filepath.Join(dir, "baseline.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.close()) }()
	return f(s, base)
}
