// Command daemonbench measures the daemon from outside, as a client does: how long a stop of a running copy takes from its
// answer to the final state, and how much memory the daemon has, idle and during a copy. `make bench` runs it.
//
//	daemonbench [-stops N] [-data MIB] AGENTD DIR
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vdsm-agent/rpc/wire"
	"vdsm-agent/test/benchkit"
)

func main() {
	stops := flag.Int("stops", 50, "stops to measure")
	data := flag.Int64("data", 2048, "MiB of data in the disk that is copied")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: daemonbench [-stops N] [-data MIB] AGENTD DIR")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *stops, *data); err != nil {
		fmt.Fprintln(os.Stderr, "daemonbench:", err)
		os.Exit(1)
	}
}

// bench is a daemon under measurement.
type bench struct {
	*benchkit.Daemon
	ctx context.Context
}

func run(agentd, dir string, stops int, data int64) (err error) {
	b := &bench{ctx: context.Background()}
	if b.Daemon, err = benchkit.Start(b.ctx, agentd, filepath.Join(dir, "state"), "[agent]", "log_level = warn"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Stop()) }()
	idle, err := b.Resident()
	if err != nil {
		return err
	}
	disk, err := b.Import(b.ctx, filepath.Join(dir, "disk.raw"), data)
	if err != nil {
		return err
	}
	var times []float64
	var busy float64
	for len(times) < stops {
		took, during, err := b.stopOnce(disk)
		if err != nil {
			return err
		}
		busy = max(busy, during)
		if took > 0 {
			times = append(times, benchkit.Millis(took))
		}
	}
	fmt.Printf("stop of a running copy of %d MiB, answer to final state, %d stops: median %.0f ms, worst %.0f ms (at most 300)\n",
		data, stops, benchkit.Median(times), benchkit.Quantile(times, 1))
	fmt.Printf("resident memory of the daemon: idle %.1f MiB (at most 24), during copies %.1f MiB (at most 40)\n", idle, busy)
	return nil
}

// stopOnce starts a copy, stops it when some of it is copied, and returns how long that took; 0 if the copy was faster. during
// is the daemon's memory just before, in MiB.
func (b *bench) stopOnce(disk benchkit.Volume) (took time.Duration, during float64, err error) {
	task, err := b.Copy(b.ctx, disk, "COW")
	if err != nil {
		return 0, 0, err
	}
	var d wire.Details
	for d.Progress == nil || d.Progress.Percent < 20 {
		if err := b.Call(b.ctx, "Task.getDetails", map[string]string{"taskID": task}, &d); err != nil || !d.Ended.IsZero() {
			return 0, 0, err
		}
	}
	if during, err = b.Resident(); err != nil {
		return 0, 0, err
	}
	if err := b.Call(b.ctx, "Task.stop", map[string]string{"taskID": task}, nil); err != nil {
		return 0, during, nil //nolint:nilerr // the copy was faster: once more
	}
	answered := time.Now()
	if err := b.Call(b.ctx, "Task.wait", map[string]string{"taskID": task}, nil); err != nil {
		return 0, 0, err
	}
	took = time.Since(answered)
	return took, during, b.Clear(b.ctx, task)
}
