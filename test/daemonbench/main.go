// Command daemonbench measures the daemon from outside, as a client does: how long a stop of a running copy takes from its
// answer to the final state, and how much memory the daemon has, idle and during a copy. `make bench` runs it.
//
//	daemonbench [-stops N] [-data MIB] AGENTD DIR
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/wire"

	"github.com/google/uuid"
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
	ctx    context.Context
	pid    int
	rpc    *client.Client
	domain string
}

func run(agentd, dir string, stops int, data int64) error {
	ctx := context.Background()
	state := filepath.Join(dir, "state")
	cmd := exec.CommandContext(ctx, agentd, "--state-dir", state, "--log-level", "warn")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt) // if it has ended there is nothing to end
		_ = cmd.Wait()
	}()
	b := &bench{ctx: ctx, pid: cmd.Process.Pid}
	if err := b.connect(filepath.Join(state, "api.sock")); err != nil {
		return err
	}
	defer func() { _ = b.rpc.Close() }() // the figures are taken
	idle, err := b.memory("VmRSS")
	if err != nil {
		return err
	}
	image, volume, err := b.importDisk(filepath.Join(dir, "disk.raw"), data)
	if err != nil {
		return err
	}
	var times []time.Duration
	var busy int64
	for len(times) < stops {
		took, during, err := b.stopOnce(image, volume)
		if err != nil {
			return err
		}
		busy = max(busy, during)
		if took > 0 {
			times = append(times, took)
		}
	}
	slices.Sort(times)
	fmt.Printf("stop of a running copy of %d MiB, answer to final state, %d stops: median %.0f ms, worst %.0f ms (at most 300)\n",
		data, stops, ms(times[len(times)/2]), ms(times[len(times)-1]))
	fmt.Printf("resident memory of the daemon: idle %.1f MiB (at most 24), during copies %.1f MiB (at most 40)\n", mib(idle), mib(busy))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
func mib(kib int64) float64      { return float64(kib) / 1024 }

// connect waits until the daemon answers.
func (b *bench) connect(socket string) error {
	deadline := time.Now().Add(time.Minute)
	for {
		c, err := client.Dial(b.ctx, socket)
		if err == nil {
			var domains []string
			if err = c.Call(b.ctx, "Host.getStorageDomains", nil, &domains); err == nil && len(domains) == 1 {
				b.rpc, b.domain = c, domains[0]
				return nil
			}
			_ = c.Close() // it does not answer
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the daemon does not answer: %w", err)
		}
	}
}

func (b *bench) importDisk(path string, data int64) (image, volume string, err error) {
	if err := makeDisk(path, data); err != nil {
		return "", "", err
	}
	image, volume = uuid.NewString(), uuid.NewString()
	var task string
	err = b.rpc.Call(b.ctx, "Volume.import", map[string]any{"storagedomainID": b.domain, "imageID": image, "volumeID": volume, "path": path, "format": "raw"}, &task)
	if err != nil {
		return "", "", err
	}
	return image, volume, b.rpc.Call(b.ctx, "Task.wait", map[string]any{"taskID": task}, nil)
}

// makeDisk writes data MiB of random bytes over a file of twice the size.
func makeDisk(path string, data int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const piece = 32 << 20
	for at := int64(0); at < data<<20; at += piece {
		if _, err := io.Copy(io.NewOffsetWriter(f, 2*at), io.LimitReader(rand.Reader, piece)); err != nil {
			return err
		}
	}
	if err := f.Truncate(data << 21); err != nil {
		return err
	}
	return f.Sync()
}

// stopOnce starts a copy, stops it when some of it is copied, and returns how long that took; 0 if the copy was faster. during
// is the daemon's memory just before, in KiB.
func (b *bench) stopOnce(image, volume string) (took time.Duration, during int64, err error) {
	var task string
	err = b.rpc.Call(b.ctx, "Volume.copy", map[string]any{
		"storagedomainID": b.domain, "storagepoolID": uuid.Nil.String(), "imageID": image, "volumeID": volume, "dstSdUUID": b.domain,
		"dstImgUUID": uuid.NewString(), "dstVolUUID": uuid.NewString(), "volFormat": "COW", "preallocate": "SPARSE",
	}, &task)
	if err != nil {
		return 0, 0, err
	}
	var d wire.Details
	for d.Progress == nil || d.Progress.Percent < 20 {
		if err := b.rpc.Call(b.ctx, "Task.getDetails", map[string]string{"taskID": task}, &d); err != nil || !d.Ended.IsZero() {
			return 0, 0, err
		}
	}
	if during, err = b.memory("VmRSS"); err != nil {
		return 0, 0, err
	}
	if err := b.rpc.Call(b.ctx, "Task.stop", map[string]string{"taskID": task}, nil); err != nil {
		return 0, during, nil //nolint:nilerr // the copy was faster: once more
	}
	answered := time.Now()
	if err := b.rpc.Call(b.ctx, "Task.wait", map[string]string{"taskID": task}, nil); err != nil {
		return 0, 0, err
	}
	took = time.Since(answered)
	return took, during, b.settle(task)
}

// settle clears the task and waits until what it left was reclaimed, so that the next one finds the disk quiet.
func (b *bench) settle(task string) error {
	if err := b.rpc.Call(b.ctx, "Task.clear", map[string]string{"taskID": task}, nil); err != nil {
		return err
	}
	for {
		var trash []any
		if err := b.rpc.Call(b.ctx, "Trash.list", nil, &trash); err != nil || len(trash) == 0 {
			return err
		}
	}
}

// memory reads a line of the daemon's status, in KiB.
func (b *bench) memory(line string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(l, line+":"); ok {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", line)
}
