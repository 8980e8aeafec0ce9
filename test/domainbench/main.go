// Command domainbench measures the storage verbs that move no data: a thin volume is created, beside what qemu-img and the syncs of that
// take; an empty volume of 64 TiB is copied; a chain of 200 volumes is listed, prepared and checked; 1,000 volumes are listed.
// `make bench` runs it.
//
//	domainbench AGENTD CTL DIR
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"vdsm-agent/test/benchkit"

	"github.com/google/uuid"
)

// Bounds.
const (
	mostCreate = 1.5  // of qemu-img create and the syncs
	mostEmpty  = 2.0  // s
	mostChain  = 3.0  // s
	mostList   = 50.0 // ms
)

// How much there is.
const (
	creates = 21
	empty   = 64 << 40
	chained = 200
	many    = 1000
	lists   = 21
	size    = 1 << 30 // of the other volumes
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: domainbench AGENTD CTL DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "domainbench:", err)
		os.Exit(1)
	}
}

// bench is a daemon with one domain.
type bench struct {
	*benchkit.Daemon
	ctx   context.Context
	ctl   string // the command-line client
	plain string // directory for what qemu-img makes
}

func run(agentd, ctl, dir string) (err error) {
	dir = filepath.Join(dir, "domain")
	b := &bench{ctx: context.Background(), ctl: ctl, plain: filepath.Join(dir, "plain")}
	if err := os.MkdirAll(b.plain, 0o755); err != nil {
		return err
	}
	b.Daemon, err = benchkit.Start(b.ctx, agentd, filepath.Join(dir, "state"), "[agent]", "log_level = warn", "[tasks]", "queue_limit = 0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Stop()) }()
	for _, measure := range []func() error{b.creates, b.emptyCopy, b.longChain, b.manyVolumes} {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

// create creates a volume and waits for its end.
func (b *bench) create(v benchkit.Volume, parent, format string, capacity int64) error {
	params := map[string]any{
		"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image, "volumeID": v.ID, "size": fmt.Sprint(capacity),
		"volFormat": format, "preallocate": "SPARSE",
	}
	if parent != "" {
		params["srcVolUUID"] = parent
	}
	_, err := b.Task(b.ctx, "Volume.create", params)
	return err
}

func newVolume() benchkit.Volume {
	return benchkit.Volume{Image: uuid.NewString(), ID: uuid.NewString()}
}

// creates compares the creation of a thin volume with that of its file and its metadata by hand.
func (b *bench) creates() error {
	pair, err := benchkit.ByTurns(creates, timed(b.createPlain), timed(func() error { return b.create(newVolume(), "", "COW", size) }))
	if err != nil {
		return err
	}
	fmt.Printf("Volume.create of a thin qcow2, %d times: qemu-img create with its syncs %.1f ms, ours %.1f ms, ratio %.2f, %s\n", creates,
		1000*benchkit.Median(pair.Base), 1000*benchkit.Median(pair.Ours), pair.Ratio(), benchkit.AtMost(pair.Ratio(), mostCreate))
	return nil
}

// createPlain makes what a volume is and puts it to stable storage: its file, its metadata, the directory, and the one above that.
func (b *bench) createPlain() error {
	dir := filepath.Join(b.plain, uuid.NewString())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	image, meta := filepath.Join(dir, "volume"), filepath.Join(dir, "volume.meta")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(size)).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img create: %w: %s", err, out)
	}
	if err := os.WriteFile(meta, make([]byte, 512), 0o644); err != nil {
		return err
	}
	for _, path := range []string{image, meta, dir, b.plain} {
		if err := sync(path); err != nil {
			return err
		}
	}
	return nil
}

func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// emptyCopy copies a volume that is as large as one can be and holds nothing.
func (b *bench) emptyCopy() error {
	v := newVolume()
	if err := b.create(v, "", "COW", empty); err != nil {
		return err
	}
	took, err := timed(func() error {
		task, err := b.Copy(b.ctx, v, "COW")
		if err != nil {
			return err
		}
		return b.Ended(b.ctx, task)
	})()
	if err != nil {
		return err
	}
	fmt.Printf("copy of an empty volume of 64 TiB: %.2f s (%s)\n", took, benchkit.AtMost(took, mostEmpty))
	return nil
}

// longChain lists a long chain with what each volume is, prepares its leaf, and checks the domain.
func (b *bench) longChain() error {
	v, parent := newVolume(), ""
	for range chained {
		v.ID = uuid.NewString()
		if err := b.create(v, parent, "COW", size); err != nil {
			return err
		}
		parent = v.ID
	}
	params := map[string]string{"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image}
	list, err := timed(func() error {
		var volumes []string
		if err := b.Call(b.ctx, "Image.getVolumes", params, &volumes); err != nil {
			return err
		}
		if len(volumes) != chained {
			return fmt.Errorf("the chain has %d volumes", len(volumes))
		}
		for _, id := range volumes {
			params["volumeID"] = id
			if err := b.Call(b.ctx, "Volume.getInfo", params, nil); err != nil {
				return err
			}
		}
		return nil
	})()
	if err != nil {
		return err
	}
	params["volumeID"] = v.ID
	var leaf struct{ Path string }
	prepare, err := timed(func() error { return b.Call(b.ctx, "Image.prepare", params, &leaf) })()
	if err != nil {
		return err
	}
	check, err := timed(func() error { return b.check(filepath.Join(leaf.Path, "../../..")) })()
	if err != nil {
		return err
	}
	all := list + prepare + check
	fmt.Printf("a chain of %d volumes: listed with all its volumes %.2f s, prepared %.2f s, checked %.2f s, in all %.2f s (%s)\n",
		chained, list, prepare, check, all, benchkit.AtMost(all, mostChain))
	return nil
}

// check runs the check of the domain in a directory, which finds nothing.
func (b *bench) check(domain string) error {
	if out, err := exec.Command(b.ctl, "domain", "check", domain).CombinedOutput(); err != nil {
		return fmt.Errorf("domain check: %w: %s", err, out)
	}
	return nil
}

// manyVolumes lists a domain with very many volumes.
func (b *bench) manyVolumes() error {
	tasks := make([]string, many)
	for i := range tasks {
		v := newVolume()
		err := b.Call(b.ctx, "Volume.create", map[string]any{
			"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image, "volumeID": v.ID, "size": fmt.Sprint(size),
			"volFormat": "RAW", "preallocate": "SPARSE",
		}, &tasks[i])
		if err != nil {
			return err
		}
	}
	for _, task := range tasks {
		if err := b.Ended(b.ctx, task); err != nil {
			return err
		}
	}
	var times []float64
	for range lists {
		took, err := timed(func() error {
			var volumes []string
			err := b.Call(b.ctx, "StorageDomain.getVolumes", map[string]string{"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String()}, &volumes)
			if err == nil && len(volumes) < many {
				err = fmt.Errorf("the domain has %d volumes", len(volumes))
			}
			return err
		})()
		if err != nil {
			return err
		}
		times = append(times, 1000*took)
	}
	fmt.Printf("the volumes of a domain with more than %d listed, %d times: %.1f ms (%s)\n",
		many, lists, benchkit.Median(times), benchkit.AtMost(benchkit.Median(times), mostList))
	return nil
}

// timed makes of a function one that says how many seconds it takes.
func timed(do func() error) func() (float64, error) {
	return func() (float64, error) {
		begun := time.Now()
		err := do()
		return time.Since(begun).Seconds(), err
	}
}
