package qemuimg

import (
	"context"
	"encoding/json"
	"errors"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Soundness is what a check of an image finds.
type Soundness int

// The findings, the best first.
const (
	NotCheckable Soundness = iota // raw: there is no structure to check
	Clean
	Leaks   // clusters are allocated that nothing refers to: space is lost, data is whole
	Corrupt // what it holds cannot be relied on
)

func (s Soundness) String() string {
	return [...]string{"not checkable", "clean", "leaks", "corrupt"}[s]
}

// CheckResult is what a check found.
type CheckResult struct {
	Found       Soundness
	Leaks       int64 // clusters that are still leaked
	LeaksFixed  int64
	Corruptions int64
	Errors      int64 // places that could not be checked; counted as Corrupt
	EndOffset   int64 // the first byte of the file behind all clusters in use
}

type checkJSON struct {
	Leaks       int64 `json:"leaks"`
	LeaksFixed  int64 `json:"leaks-fixed"`
	Corruptions int64 `json:"corruptions"`
	Errors      int64 `json:"check-errors"`
	EndOffset   int64 `json:"image-end-offset"`
}

// Check looks at the structure of img alone and changes nothing. A file that ends early by a cluster or more is Corrupt; a
// last cluster that is cut short is legal and is not noticed. An image that cannot be opened is an error (484).
func Check(ctx context.Context, st Starter, img Image) (CheckResult, error) {
	return check(ctx, st, img, proc.Limits{})
}

// RepairLeaks is Check that also gives leaked clusters back. It touches only their reference counts and may be ended and
// repeated at any time.
func RepairLeaks(ctx context.Context, st Starter, img Image) (CheckResult, error) {
	return check(ctx, st, img, proc.Limits{}, "-r", "leaks")
}

// The exit statuses of `qemu-img check`.
const (
	exitCorrupt      = 2
	exitLeaks        = 3
	exitNotCheckable = 63
)

func check(ctx context.Context, st Starter, img Image, limits proc.Limits, options ...string) (CheckResult, error) {
	if err := img.Check(); err != nil {
		return CheckResult{}, err
	}
	args := append([]string{"check", "--output=json"}, options...)
	args = append(args, img.share()...)
	out, err := output(ctx, st, limits, append(args, img.Alone().Node().Argument())...)
	var exit *proc.ExitError
	if errors.As(err, &exit) {
		switch exit.Code {
		case exitNotCheckable:
			return CheckResult{Found: NotCheckable}, nil
		case exitCorrupt, exitLeaks:
			err = nil
		}
	}
	if err != nil {
		return CheckResult{}, Failure(code.ImageVerification, err, "the image "+img.Path+" cannot be checked")
	}
	var j checkJSON
	if err := json.Unmarshal(out, &j); err != nil {
		return CheckResult{}, code.Errorf(code.General, "what qemu-img found in %s cannot be understood: %w", img.Path, err)
	}
	r := CheckResult{Found: Clean, Leaks: j.Leaks, LeaksFixed: j.LeaksFixed, Corruptions: j.Corruptions, Errors: j.Errors,
		EndOffset: j.EndOffset}
	switch {
	case r.Corruptions > 0 || r.Errors > 0 || exit != nil && exit.Code == exitCorrupt:
		r.Found = Corrupt
	case r.Leaks > 0:
		r.Found = Leaks
	}
	return r, nil
}
