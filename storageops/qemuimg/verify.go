package qemuimg

import (
	"context"
	"errors"
	"os"
	"syscall"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/nbd"
)

// Expect is what the caller knows of an image from elsewhere (its metadata). Nothing else is accepted.
type Expect struct {
	Backing       string // the exact name in the header; "" = there must be none
	BackingFormat string // compared only if Backing is set and the header names one
}

// untrusted are the limits of a run over an image that may have been made to hurt. Measured: check of a sound image with
// 1 TiB allocated needs 40 MB and 1 s of CPU.
var untrusted = proc.Limits{AddressSpace: 1 << 30, CPUSeconds: 30}

// VerifyUntrusted proves that the file at path is a sound image of the given format that refers to no other file but the
// expected one, and returns what it says of itself. qemu-img looks at it only after its header was found harmless.
//
//   - Not a regular file, not of that format, a backing file, data file, encryption or feature that is not expected,
//     structures that are damaged or beyond the end of the file, or a check that needs more than 1 GiB of memory or 30 s of
//     CPU: code 484, naming what.
//   - A raw file of any content is sound. Its virtual size is its length rounded up to 512; a volume made for it has
//     RoundCapacity of that, and what follows the source's end reads as zeros. A qcow2 header in it means nothing.
//
// It holds for the file as it was: whoever can still write it can break it afterwards.
func VerifyUntrusted(ctx context.Context, st Starter, path, format string, want Expect) (Info, error) {
	img := Image{Path: path, Format: format}
	if err := img.Check(); err != nil {
		return Info{}, err
	}
	if !nbd.IsAddress(path) { // a server has no header to show
		if err := verifyHeader(img, want); err != nil {
			return Info{}, err
		}
	}
	info, err := readInfo(ctx, st, img, untrusted)
	if err != nil {
		return Info{}, err
	}
	if info.Backing != want.Backing || info.DataFile != "" || info.Encrypted || info.Format != format {
		return Info{}, code.Errorf(code.ImageVerification, "%s is read differently by qemu-img than its header says; it was "+
			"changed meanwhile, or made to mislead", path)
	}
	if format == Raw {
		return info, nil
	}
	found, err := check(ctx, st, img, untrusted)
	if err != nil {
		return Info{}, err
	}
	if found.Found == Corrupt {
		return Info{}, code.Errorf(code.ImageVerification, "%s is damaged or cut short: %d corruptions and %d errors; copy it "+
			"again from where it came", path, found.Corruptions, found.Errors)
	}
	return info, nil
}

// verifyHeader opens path itself, refuses all but regular files, and reads a qcow2 header.
func verifyHeader(img Image, want Expect) error {
	refuse := func(format string, args ...any) error {
		return code.Errorf(code.ImageVerification, "%s is refused: "+format, append([]any{img.Path}, args...)...)
	}
	f, err := os.OpenFile(img.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us
	if err != nil {
		return refuse("it cannot be opened: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return refuse("it cannot be looked at: %w", err)
	}
	if !st.Mode().IsRegular() {
		return refuse("it is not a regular file (%s)", st.Mode().Type())
	}
	if img.Format == Raw {
		if st.Size() == 0 {
			return refuse("it is empty")
		}
		return nil
	}
	h, err := readHeader(f)
	switch {
	case errors.Is(err, errNotQCOW2):
		return refuse("%w; give its true format", err)
	case err != nil:
		return refuse("its qcow2 header is not sound: %w", err)
	case h.dataFile:
		return refuse("it keeps its data in another file (%q)", h.dataFileName)
	case h.encryption != 0:
		return refuse("it is encrypted (method %d)", h.encryption)
	case h.unknown != 0:
		return refuse("it needs features that are not known here (%#x)", h.unknown)
	case h.corrupt:
		return refuse("it is marked corrupt; repair it with qemu-img check -r all")
	case h.backing != want.Backing && want.Backing == "":
		return refuse("it has the backing file %q and must have none", h.backing)
	case h.backing != want.Backing:
		return refuse("its backing file is %q and must be %q", h.backing, want.Backing)
	case want.Backing != "" && h.backingFormat != "" && h.backingFormat != want.BackingFormat:
		return refuse("the format of its backing file is %q and must be %q", h.backingFormat, want.BackingFormat)
	}
	return nil
}
