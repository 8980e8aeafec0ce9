package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vdsm-agent/test/benchkit"

	"github.com/google/uuid"
)

// formats are those of the chain, base first.
var formats = []string{"raw", "qcow2", "qcow2"}

// makeChain makes a raw base with half of the data, and two overlays with a quarter each. They are written directly, since no guest runs.
func (b *bench) makeChain(data int64) error {
	for i, format := range formats {
		v := benchkit.Volume{Image: b.image, ID: uuid.NewString()}
		params := map[string]any{
			"storagedomainID": b.Domain, "storagepoolID": uuid.Nil.String(), "imageID": b.image, "volumeID": v.ID, "size": strconv.FormatInt(b.capacity, 10),
			"volFormat": map[string]string{"raw": "RAW", "qcow2": "COW"}[format], "preallocate": "SPARSE",
		}
		share, from := data/2, int64(0)
		if i > 0 {
			params["srcVolUUID"] = b.volumes[i-1].ID
			share, from = data/4, data/4*int64(i)
		}
		task, err := b.Task(b.ctx, "Volume.create", params)
		if err == nil {
			err = b.Clear(b.ctx, task)
		}
		if err != nil {
			return err
		}
		var at struct{ Path string }
		err = b.Call(b.ctx, "Image.prepare", map[string]any{"storagedomainID": b.Domain, "imageID": b.image, "volumeID": v.ID}, &at)
		if err != nil {
			return err
		}
		b.volumes, b.paths = append(b.volumes, v), append(b.paths, at.Path)
		args := []string{"-f", format, "-t", "none"}
		for piece := int64(0); piece < share; piece += 64 {
			args = append(args, "-c", fmt.Sprintf("write -q -P %d %dM %dM", i+1+int(piece/64)%200, from+piece, min(64, share-piece)))
		}
		if err := command("qemu-io", append(args, at.Path)...); err != nil {
			return err
		}
	}
	return nil
}

// moves compares Image.move with the same copies by hand.
func (b *bench) moves(rounds int, data int64) error {
	times, err := benchkit.ByTurns(rounds, b.plain, b.move)
	if err != nil {
		return err
	}
	fmt.Printf("Image.move of a chain of %d volumes with %d MiB, %d rounds: plain %.2f s, ours %.2f s, ratio %.3f (goal 1.05), %s\n",
		len(formats), data, rounds, benchkit.Median(times.Base), benchkit.Median(times.Ours), times.Ratio(), benchkit.AtMost(times.Ratio(), 1.10))
	return nil
}

// move copies the image to the other domain, and takes that back.
func (b *bench) move() (seconds float64, err error) {
	if err := cold(); err != nil {
		return 0, err
	}
	begun := time.Now()
	task, err := b.Task(b.ctx, "Image.move", map[string]any{"storagepoolID": uuid.Nil.String(), "storagedomainID": b.Domain, "dstSdUUID": b.other, "imageID": b.image, "operation": "COPY"})
	seconds = time.Since(begun).Seconds()
	if err != nil {
		return 0, err
	}
	if err := b.Call(b.ctx, "Task.revert", map[string]any{"taskID": task, "wait": 60}, nil); err != nil {
		return 0, err
	}
	return seconds, b.Clear(b.ctx, task)
}

// plain copies the chain with qemu-img alone, around the page cache, and syncs it.
func (b *bench) plain() (seconds float64, err error) {
	dir := filepath.Join(b.dir, "plain")
	if err := errors.Join(os.MkdirAll(dir, 0o755), cold()); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	begun := time.Now()
	for i, format := range formats {
		copied := filepath.Join(dir, b.volumes[i].ID)
		args := []string{"-c", "3", "qemu-img", "convert", "-p", "-f", format, "-O", format, "-t", "none", "-T", "none", "-W"}
		if i > 0 {
			args = append(args, "-B", b.volumes[i-1].ID, "-F", formats[i-1])
		}
		if err := command("ionice", append(args, b.paths[i], copied)...); err != nil {
			return 0, err
		}
		if err := command("sync", copied); err != nil {
			return 0, err
		}
	}
	return time.Since(begun).Seconds(), nil
}
