package qemuimg

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// CreateSpec is an image to be made.
type CreateSpec struct {
	Path     string // absolute; its directory is there
	Format   string // Raw or QCOW2
	Capacity int64  // bytes, > 0
	// Backing is the name that the header gets, BackingFormat its format: a bare name, in the directory of Path, which need
	// not be there yet (the file is not opened). Only for QCOW2.
	Backing, BackingFormat string
}

// Create makes an image that reads as zeros, or as its backing file. A file of that name is emptied: look before. Nothing
// is preallocated: for that copy.Allocate follows. The file is synced neither here nor is its directory's entry.
func Create(ctx context.Context, st Starter, c CreateSpec) error {
	if err := (Image{Path: c.Path, Format: c.Format}).Check(); err != nil {
		return err
	}
	if c.Capacity <= 0 {
		return code.Errorf(code.InvalidParameter, "the capacity %d of %s is not a positive number of bytes", c.Capacity, c.Path)
	}
	args := []string{"create", "-q", "-f", c.Format}
	if c.Format == QCOW2 {
		args = append(args, "-o", "compat=1.1")
	}
	if c.Backing != "" {
		if c.Format == Raw {
			return code.Errorf(code.IncorrectFormat, "%s is to be raw and cannot have the backing file %s", c.Path, c.Backing)
		}
		if c.BackingFormat != Raw && c.BackingFormat != QCOW2 {
			return code.Errorf(code.IncorrectFormat, "the format %q of the backing file %s is not known; give raw or qcow2",
				c.BackingFormat, c.Backing)
		}
		if filepath.IsAbs(c.Backing) || strings.Contains(c.Backing, ":") {
			return code.Errorf(code.InvalidParameter, "the backing file %q of %s is not a bare volume name", c.Backing, c.Path)
		}
		args = append(args, "-u", "-b", c.Backing, "-F", c.BackingFormat)
	}
	args = append(args, c.Path, strconv.FormatInt(c.Capacity, 10))
	return Failure(code.VolumeCreation, run(ctx, st, proc.Limits{}, nil, args...), "the image "+c.Path+" cannot be made")
}

// RoundCapacity rounds a size up to the multiple of 4096 that a capacity has. A source of another size is copied as if
// zeros followed it.
func RoundCapacity(bytes int64) int64 { return (bytes + 4095) &^ 4095 }
