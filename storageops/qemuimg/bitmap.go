package qemuimg

import (
	"context"
	"strconv"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// AddBitmap adds an empty bitmap. granularity is in bytes, a power of two; 0 = QEMU's choice. Disabled it records nothing
// until it is enabled. One of that name that is there already is an error.
func AddBitmap(ctx context.Context, st Starter, img Image, name string, granularity int64, disabled bool) error {
	args := []string{"--add"}
	if disabled {
		args = append(args, "--disable")
	}
	if granularity > 0 {
		args = append(args, "-g", strconv.FormatInt(granularity, 10))
	}
	return bitmap(ctx, st, img, name, "added to", args...)
}

// MergeBitmap adds what source's bitmap of the name from marks to img's bitmap of the name into, which is there.
func MergeBitmap(ctx context.Context, st Starter, img Image, into string, source Image, from string) error {
	if err := source.Check(); err != nil {
		return err
	}
	return bitmap(ctx, st, img, into, "merged in", "--merge", from, "-F", source.Format, "-b", source.Path)
}

// EnableBitmap lets a bitmap record writes.
func EnableBitmap(ctx context.Context, st Starter, img Image, name string) error {
	return bitmap(ctx, st, img, name, "enabled in", "--enable")
}

// RemoveBitmap removes a bitmap, also one that is in use (inconsistent). One that is not there is an error.
func RemoveBitmap(ctx context.Context, st Starter, img Image, name string) error {
	return bitmap(ctx, st, img, name, "removed from", "--remove")
}

// ClearBitmap forgets what a bitmap recorded.
func ClearBitmap(ctx context.Context, st Starter, img Image, name string) error {
	return bitmap(ctx, st, img, name, "cleared in", "--clear")
}

func bitmap(ctx context.Context, st Starter, img Image, name, done string, args ...string) error {
	if err := img.Check(); err != nil {
		return err
	}
	args = append(append([]string{"bitmap"}, args...), "--", img.Alone().Node().Argument(), name)
	return Failure(code.Storage, run(ctx, st, proc.Limits{}, nil, args...), "the bitmap "+name+" cannot be "+done+" "+img.Path)
}
