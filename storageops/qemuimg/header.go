package qemuimg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"vdsm-agent/internal/code"
)

// header is what the first cluster of a qcow2 file says, read by ourselves: qemu-img opens the files that a header names
// before it prints what they are.
type header struct {
	version       uint32
	size          uint64 // of the virtual disk, in bytes
	backing       string
	backingFormat string
	dataFile      bool // an external data file is needed
	dataFileName  string
	encryption    uint32 // 0 = none
	unknown       uint64 // incompatible features that are none of the known ones
	corrupt       bool
}

// Layout of the header, from QEMU's docs/interop/qcow2.txt.
const (
	qcowMagic       = 0x514649fb // "QFI\xfb"
	headerV2        = 72
	headerV3        = 104
	maxBackingName  = 1023
	maxExtensions   = 64 << 10 // what of the header area is looked at; extensions beyond are refused
	extEnd          = 0
	extBackingFmt   = 0xe2792aca
	extDataFile     = 0x44415441
	featureDirty    = 1 << 0
	featureCorrupt  = 1 << 1
	featureDataFile = 1 << 2
	featureZstd     = 1 << 3
	featureSubclust = 1 << 4
)

var errNotQCOW2 = errors.New("it does not begin as a qcow2 image does")

// readHeader reads the header and its extensions. Errors say what is wrong, without the file's name.
func readHeader(r io.ReaderAt) (header, error) {
	var h header
	fixed := make([]byte, headerV3)
	n, err := r.ReadAt(fixed, 0)
	if err != nil && err != io.EOF {
		return h, err
	}
	be := binary.BigEndian
	if n < headerV2 || be.Uint32(fixed) != qcowMagic {
		return h, errNotQCOW2
	}
	h.version = be.Uint32(fixed[4:])
	h.size = be.Uint64(fixed[24:])
	h.encryption = be.Uint32(fixed[32:])
	length := int64(headerV2)
	switch h.version {
	case 2:
	case 3:
		if n < headerV3 {
			return h, errors.New("its header is cut short")
		}
		length = int64(be.Uint32(fixed[100:]))
		if length < headerV3 || length%8 != 0 || length > maxExtensions {
			return h, fmt.Errorf("its header length is %d", length)
		}
		f := be.Uint64(fixed[72:])
		h.corrupt = f&featureCorrupt != 0
		h.dataFile = f&featureDataFile != 0
		h.unknown = f &^ (featureDirty | featureCorrupt | featureDataFile | featureZstd | featureSubclust)
	default:
		return h, fmt.Errorf("its version is %d", h.version)
	}
	end := int64(maxExtensions)
	if at, size := be.Uint64(fixed[8:]), be.Uint32(fixed[16:]); at != 0 {
		if size == 0 || size > maxBackingName || at < uint64(length) || at > maxExtensions {
			return h, fmt.Errorf("its backing file name is at %d and has %d bytes", at, size)
		}
		name := make([]byte, size)
		if _, err := r.ReadAt(name, int64(at)); err != nil {
			return h, fmt.Errorf("its backing file name cannot be read: %w", err)
		}
		h.backing, end = string(name), int64(at)
	}
	return h, h.readExtensions(r, length, end)
}

// readExtensions reads the header extensions between at and end.
func (h *header) readExtensions(r io.ReaderAt, at, end int64) error {
	for head := make([]byte, 8); at+8 <= end; {
		if _, err := r.ReadAt(head, at); err == io.EOF {
			return nil // a file that ends here has no more of them
		} else if err != nil {
			return err
		}
		kind, size := binary.BigEndian.Uint32(head), int64(binary.BigEndian.Uint32(head[4:]))
		at += 8
		if kind == extEnd {
			return nil
		}
		if size > end-at {
			return fmt.Errorf("a header extension of %d bytes at %d does not fit", size, at)
		}
		if kind == extBackingFmt || kind == extDataFile {
			value := make([]byte, size)
			if _, err := r.ReadAt(value, at); err != nil {
				return err
			}
			if kind == extBackingFmt {
				h.backingFormat = string(value)
			} else {
				h.dataFileName, h.dataFile = string(value), true
			}
		}
		at += (size + 7) &^ 7
	}
	return nil
}

// ReadBacking reads the name of a qcow2 image's backing file from its header, "" if it has none. Nothing else is opened. An image that
// keeps its data in another file, or is not sound, is refused (484).
func ReadBacking(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us
	if err != nil {
		return "", code.Errorf(code.ImageVerification, "%s cannot be opened: %w", path, err)
	}
	defer f.Close()
	h, err := readHeader(f)
	if err != nil {
		return "", code.Errorf(code.ImageVerification, "%s is refused: %w", path, err)
	}
	if h.dataFile {
		return "", code.Errorf(code.ImageVerification, "%s is refused: it keeps its data in another file (%q)", path, h.dataFileName)
	}
	return h.backing, nil
}
