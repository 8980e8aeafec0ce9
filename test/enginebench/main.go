// Command enginebench measures what the engine adds to the store: submits and whole lives of tasks that do nothing, and stops of
// tasks that wait, each against one synced SQLite transaction per request on the same disk at the same time. Each figure is taken
// at the engine in this process, where the bounds hold, and once more over the socket of a real daemon, for information.
// `make bench` runs it.
//
//	enginebench [-rounds N] [-data MIB] AGENTD DIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"

	"vdsm-agent/tasks/store"
)

// who asks, in the rows of both sides.
const who = "root (pid 4711)"

// clients is how many ask at the same time, where many do.
const clients = 16

func main() {
	rounds := flag.Int("rounds", 15, "how often both sides are measured")
	stops := flag.Int("stops", 200, "stops to measure, without a copy and with one")
	data := flag.Int64("data", 2048, "MiB of data in the disk that is copied meanwhile")
	profile := flag.String("profile", "", "write a CPU profile of the engine's rounds")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: enginebench [-rounds N] [-stops N] [-data MIB] AGENTD DIR")
		os.Exit(2)
	}
	b := &bench{ctx: context.Background(), agentd: flag.Arg(0), dir: flag.Arg(1), rounds: *rounds, stops: *stops, data: *data}
	if err := b.run(*profile); err != nil {
		fmt.Fprintln(os.Stderr, "enginebench:", err)
		os.Exit(1)
	}
}

type bench struct {
	ctx           context.Context
	agentd, dir   string
	rounds, stops int
	data          int64
	base          *baseline
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

func (b *bench) run(profile string) (err error) {
	local, err := openEngine(b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.close()) }()
	row, err := rowOf(local)
	if err != nil {
		return err
	}
	if b.base, err = openBaseline(filepath.Join(b.dir, "baseline.db"), row); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.base.close()) }()
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if err := b.rates("engine", local, true); err != nil {
		return err
	}
	if profile != "" {
		return nil
	}
	remote, err := openSocket(b.ctx, b.agentd, filepath.Join(b.dir, "enginebench"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.close()) }()
	if err := b.rates("socket", remote, false); err != nil {
		return err
	}
	const alone, beside = "nothing beside", "a copy beside"
	if err := errors.Join(b.stopsOf("engine", alone, local, true), b.stopsOf("socket", alone, remote, false)); err != nil {
		return err
	}
	return b.besideCopies(remote.Daemon, func() error {
		return errors.Join(b.stopsOf("engine", beside, local, true), b.stopsOf("socket", beside, remote, false))
	})
}

// rowOf is the row that a submit writes.
func rowOf(e *engine) (store.Record, error) {
	id, err := e.submit(0, held)
	if err != nil {
		return store.Record{}, err
	}
	return e.store.Get(id)
}
