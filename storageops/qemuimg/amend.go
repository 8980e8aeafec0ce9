package qemuimg

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// The versions of the qcow2 format.
const (
	Compat010 = "0.10"
	Compat11  = "1.1"
)

// Amend changes the version of a qcow2 image, which is opened with the layers below it: what it says to be zeros has no word in the
// older version, and may only be dropped where there is nothing below. The older one has no bitmaps either; QEMU drops them.
// One that dies leaves the old version or the new one, and clusters that nothing refers to. It may be repeated.
func Amend(ctx context.Context, st Starter, img Image, compat string) error {
	if err := img.Check(); err != nil {
		return err
	}
	if img.Format != QCOW2 || compat != Compat010 && compat != Compat11 {
		return code.Errorf(code.InvalidParameter, "%s (%s) cannot be amended to version %q; give a qcow2 image and 0.10 or 1.1", img.Path, img.Format, compat)
	}
	err := run(ctx, st, proc.Limits{}, nil, "amend", "-o", "compat="+compat, img.Node().Argument())
	return Failure(code.Storage, err, "the image "+img.Path+" cannot be amended to version "+compat)
}
