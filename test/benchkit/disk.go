package benchkit

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"
)

// Volume is a volume in the daemon's domain.
type Volume struct{ Image, ID string }

// Import makes a file of twice so many MiB, half of them random bytes, at path, and imports it.
func (d *Daemon) Import(ctx context.Context, path string, mib int64) (Volume, error) {
	v := Volume{uuid.NewString(), uuid.NewString()}
	if err := makeDisk(path, mib); err != nil {
		return v, err
	}
	_, err := d.Task(ctx, "Volume.import", map[string]any{
		"storagedomainID": d.Domain, "imageID": v.Image, "volumeID": v.ID, "path": path, "format": "raw",
	})
	return v, err
}

func makeDisk(path string, mib int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := int64(0); at < mib<<20; {
		piece := min(32<<20, mib<<20-at)
		if _, err := io.Copy(io.NewOffsetWriter(f, 2*at), io.LimitReader(rand.Reader, piece)); err != nil {
			return err
		}
		at += piece
	}
	if err := f.Truncate(mib << 21); err != nil {
		return err
	}
	return f.Sync()
}

// Copy submits a copy of a volume to a new image, in format RAW or COW, and returns the task.
func (d *Daemon) Copy(ctx context.Context, v Volume, format string) (task string, err error) {
	err = d.Call(ctx, "Volume.copy", map[string]any{
		"storagedomainID": d.Domain, "storagepoolID": uuid.Nil.String(), "imageID": v.Image, "volumeID": v.ID, "dstSdUUID": d.Domain,
		"dstImgUUID": uuid.NewString(), "dstVolUUID": uuid.NewString(), "volFormat": format, "preallocate": "SPARSE",
	}, &task)
	return task, err
}

// Task submits a verb, waits for its end, and returns the task.
func (d *Daemon) Task(ctx context.Context, verb string, params map[string]any) (task string, err error) {
	if err := d.Call(ctx, verb, params, &task); err != nil {
		return "", err
	}
	return task, d.Ended(ctx, task)
}

// Ended waits until a task has finished; one that ends in another way is an error.
func (d *Daemon) Ended(ctx context.Context, task string) error {
	var status struct{ TaskResult, Message string }
	if err := d.Call(ctx, "Task.wait", map[string]string{"taskID": task}, &status); err != nil {
		return err
	}
	if status.TaskResult != "success" {
		return fmt.Errorf("task %s ended with %s: %s", task, status.TaskResult, status.Message)
	}
	return nil
}

// Clear clears a task that has ended, and waits until what it left was reclaimed, so that what comes next finds the disk
// quiet.
func (d *Daemon) Clear(ctx context.Context, task string) error {
	if err := d.Call(ctx, "Task.clear", map[string]string{"taskID": task}, nil); err != nil {
		return err
	}
	for {
		var trash []any
		if err := d.Call(ctx, "Trash.list", nil, &trash); err != nil || len(trash) == 0 {
			return err
		}
	}
}
