// Command chainbench measures what a client sees of whole copies: Image.move of a chain of three volumes against the three plain
// `qemu-img convert` that copy the same, by turns and with cold caches; the job SDM.copy_data of that chain against one such convert; and how much a copy does again after
// its daemon was killed near the end. It needs root, to drop the caches. `make bench` runs it.
//
//	chainbench [-rounds N] [-data MIB] AGENTD DIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"vdsm-agent/test/benchkit"

	"github.com/google/uuid"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often a chain is moved")
	data := flag.Int64("data", 4096, "MiB of data in the chain")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: chainbench [-rounds N] [-data MIB] AGENTD DIR")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *rounds, *data); err != nil {
		fmt.Fprintln(os.Stderr, "chainbench:", err)
		os.Exit(1)
	}
}

// bench is a daemon with two domains, and a chain in the first one.
type bench struct {
	*benchkit.Daemon
	ctx      context.Context
	dir      string // the directory of everything
	other    string // id of the second domain
	image    string
	volumes  []benchkit.Volume // base first
	paths    []string          // of their files
	restart  func() error
	capacity int64
}

func run(agentd, dir string, rounds int, data int64) (err error) {
	dir = filepath.Join(dir, "chain")
	root := filepath.Join(dir, "other")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	b := &bench{ctx: context.Background(), dir: dir, other: uuid.NewString(), image: uuid.NewString(), capacity: data << 20}
	b.restart = func() error {
		last := b.Daemon
		b.Daemon, err = benchkit.Start(b.ctx, agentd, filepath.Join(dir, "state"), "[storage]", "roots = "+root)
		if err == nil && last != nil {
			b.Domain = last.Domain // the other one may be the first by now
		}
		return err
	}
	if err := b.restart(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Stop()) }()
	err = b.Call(b.ctx, "StorageDomain.create", map[string]any{
		"storagedomainID": b.other, "domainType": "LOCALFS", "typeArgs": root, "name": "other", "domainClass": "Data", "version": "5",
	}, nil)
	if err != nil {
		return err
	}
	if err := b.makeChain(data); err != nil {
		return err
	}
	if err := b.moves(rounds, data); err != nil {
		return err
	}
	if err := b.jobs(rounds, data); err != nil {
		return err
	}
	return b.killed(data)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// cold syncs and drops the caches, and then loads the program again.
func cold() error {
	if err := command("sync"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	return command("qemu-img", "--version")
}
