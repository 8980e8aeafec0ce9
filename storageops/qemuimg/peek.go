package qemuimg

import (
	"context"
	"errors"
	"io"

	"vdsm-agent/internal/code"
)

// Header is what the header of a qcow2 image says, before anything else is believed of it.
type Header struct {
	VirtualSize   int64  // bytes
	Backing       string // "" = none
	BackingFormat string // "" = the header does not say
	Refused       string // why such an image is never opened, for a sentence; "" = it may be
	Corrupt       bool   // QEMU marked it corrupt
}

// ErrNotQCOW2 means that a file does not begin as a qcow2 image does.
var ErrNotQCOW2 = errNotQCOW2

// Peek reads the header of a qcow2 image, and nothing that it names. ErrNotQCOW2: it is none. Any other error says what is wrong
// with the header, without the file's name.
func Peek(r io.ReaderAt) (Header, error) {
	h, err := readHeader(r)
	if err != nil {
		return Header{}, err
	}
	out := Header{Backing: h.backing, BackingFormat: h.backingFormat, Corrupt: h.corrupt}
	if h.size > 1<<62 {
		return out, errors.New("its virtual size cannot be")
	}
	out.VirtualSize = int64(h.size)
	switch {
	case h.dataFile:
		out.Refused = "it keeps its data in another file"
	case h.encryption != 0:
		out.Refused = "it is encrypted"
	case h.unknown != 0:
		out.Refused = "it needs features that are not known here"
	}
	return out, nil
}

// CheckUntrusted is Check within the limits of VerifyUntrusted, for an image that may have been made to hurt. Its header is looked at
// first; an image whose header is refused is an error (484), and qemu-img does not see it.
func CheckUntrusted(ctx context.Context, st Starter, img Image, want Expect) (CheckResult, error) {
	if err := verifyHeader(img, want); err != nil {
		return CheckResult{}, err
	}
	found, err := check(ctx, st, img, untrusted)
	return found, code.Or(code.ImageVerification, err, "the image "+img.Path+" cannot be checked")
}
