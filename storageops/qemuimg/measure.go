package qemuimg

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Size is what an image would need on the file system, in bytes.
type Size struct {
	Required       int64 `json:"required"`        // for what it holds now
	FullyAllocated int64 `json:"fully-allocated"` // if every block of it were written
	Bitmaps        int64 `json:"bitmaps"`         // for its bitmaps, not in the others
}

// Measure tells what a copy of img in the format target would need. With img.Backing the chain is counted as flattened
// into it, without it img alone is.
func Measure(ctx context.Context, st Starter, img Image, target string) (Size, error) {
	if err := img.Check(); err != nil {
		return Size{}, err
	}
	args := append([]string{"measure", "--output=json", "-O", target}, img.share()...)
	out, err := output(ctx, st, proc.Limits{}, append(args, img.Node().Argument())...)
	if err != nil {
		return Size{}, Failure(code.ImageVerification, err, img.Path+" cannot be measured")
	}
	var s Size
	if err := json.Unmarshal(out, &s); err != nil {
		return Size{}, code.Errorf(code.General, "what qemu-img measured of %s cannot be understood: %w", img.Path, err)
	}
	return s, nil
}
