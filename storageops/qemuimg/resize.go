package qemuimg

import (
	"context"
	"strconv"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Grow makes the virtual disk of img capacity bytes long, in place; what is new reads as zeros, whatever a layer below holds there:
// give the whole chain. An image that has that size already stays as it is. The new size is synced by whoever needs it.
//
//   - A raw image may be in use by a guest meanwhile: nothing but the file's length changes.
//   - A qcow2 image that somebody has open, or with a bitmap that was not closed, is refused.
//   - One that is ended has changed the size or not. Of a qcow2 image the bitmaps may then be marked as not closed.
func Grow(ctx context.Context, st Starter, img Image, capacity int64) error {
	return resize(ctx, st, img, capacity)
}

// Shrink is Grow the other way: what lies behind capacity is gone.
func Shrink(ctx context.Context, st Starter, img Image, capacity int64) error {
	return resize(ctx, st, img, capacity, "--shrink")
}

func resize(ctx context.Context, st Starter, img Image, capacity int64, options ...string) error {
	if err := img.Check(); err != nil {
		return err
	}
	node := img.Node()
	if img.Format == Raw {
		node = Node{"driver": Raw, "file": Node{"driver": "file", "filename": img.Path, "locking": "off"}}
	}
	args := append(append([]string{"resize", "-q"}, options...), node.Argument(), strconv.FormatInt(capacity, 10))
	return Failure(code.Storage, run(ctx, st, proc.Limits{}, nil, args...), "the size of "+img.Path+" cannot be changed")
}
