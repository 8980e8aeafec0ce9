package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"vdsm-agent/test/benchkit"

	"github.com/google/uuid"
)

// jobs compares SDM.copy_data of the whole chain into a volume that is there with the same copy by hand.
func (b *bench) jobs(rounds int, data int64) error {
	times, err := benchkit.ByTurns(rounds, b.plainFill, b.fill)
	if err != nil {
		return err
	}
	fmt.Printf("SDM.copy_data of a chain of %d volumes with %d MiB, %d rounds: plain %.2f s, ours %.2f s, ratio %.3f (goal 1.05), %s\n",
		len(formats), data, rounds, benchkit.Median(times.Base), benchkit.Median(times.Ours), times.Ratio(), benchkit.AtMost(times.Ratio(), 1.10))
	return nil
}

// fill copies what a guest reads of the chain into a new volume, and deletes that.
func (b *bench) fill() (seconds float64, err error) {
	v := benchkit.Volume{Image: uuid.NewString(), ID: uuid.NewString()}
	task, err := b.Task(b.ctx, "Volume.create", map[string]any{
		"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image, "volumeID": v.ID,
		"size": strconv.FormatInt(b.capacity, 10), "volFormat": "COW", "preallocate": "SPARSE",
	})
	if err == nil {
		err = errors.Join(b.Clear(b.ctx, task), cold())
	}
	if err != nil {
		return 0, err
	}
	job := uuid.NewString()
	end := func(v benchkit.Volume) map[string]any {
		return map[string]any{"endpoint_type": "div", "sd_id": b.Domain, "img_id": v.Image, "vol_id": v.ID, "generation": 0}
	}
	begun := time.Now()
	err = b.Call(b.ctx, "SDM.copy_data", map[string]any{"job_id": job, "source": end(b.volumes[len(b.volumes)-1]), "destination": end(v)}, nil)
	if err == nil {
		err = b.Ended(b.ctx, job)
	}
	seconds = time.Since(begun).Seconds()
	if err != nil {
		return 0, err
	}
	task, err = b.Task(b.ctx, "Image.delete", map[string]any{
		"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image, "postZero": false, "force": false,
	})
	if err == nil {
		err = b.Clear(b.ctx, task)
	}
	return seconds, err
}

// plainFill does so with qemu-img alone, around the page cache, and syncs it.
func (b *bench) plainFill() (seconds float64, err error) {
	copied := filepath.Join(b.dir, "filled")
	last := len(b.paths) - 1
	defer func() { err = errors.Join(err, command("rm", "-f", copied)) }()
	err = errors.Join(command("qemu-img", "create", "-q", "-f", "qcow2", copied, strconv.FormatInt(b.capacity, 10)), cold())
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = command("ionice", "-c", "3", "qemu-img", "convert", "-n", "-p", "-f", formats[last], "-O", "qcow2", "-t", "none", "-T", "none", "-W", b.paths[last], copied)
	if err == nil {
		err = command("sync", copied)
	}
	return time.Since(begun).Seconds(), err
}
