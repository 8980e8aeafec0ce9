package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How much one call in the kernel does at most: a stop waits for its end.
const (
	clonePiece  = 1 << 30  // shares extents, moves nothing
	kernelPiece = 16 << 20 // the file server copies
	zeroPiece   = 1 << 30  // drops or converts extents, writes nothing
	cloneSlice  = 64 << 30 // a clone of this much is repeated in well under a second
	zeroBlock   = 64 << 10 // zeros of this size in the data become holes
)

// rawCopy is the keeper's command to copy a raw source to a raw destination.
type rawCopy struct {
	From         int64 `json:"from"` // all before it is there
	Done         int64 `json:"done"` // bytes of data before From
	Capacity     int64 `json:"capacity"`
	Blank        bool  `json:"blank"`        // the destination reads as zeros
	Preallocated bool  `json:"preallocated"` // its blocks stay its own, and allocated
	MinSlice     int64 `json:"minSlice"`
	// LimitedTime is about how long a slice takes when there is a limit.
	LimitedTime time.Duration `json:"limitedTime"`
	Method      string        `json:"method"` // the best that is tried: clone, kernel or direct; each falls back to the next
}

// The ways to copy.
const (
	methodClone  = "clone"  // FICLONERANGE: the destination shares the source's blocks
	methodKernel = "kernel" // copy_file_range, where that means that a file server copies
	methodDirect = "direct" // read and write around the page cache
)

// copier is a rawCopy that runs.
type copier struct {
	rawCopy
	src, dst                *os.File // for the kernel's calls, and sync
	read, write             *os.File // for read and write; O_DIRECT where it is accepted
	readDirect, writeDirect bool
	size                    int64 // the source's
	m                       *mover
}

func (c rawCopy) run(dst *os.File, source string, h hello, pace *pacer, out *answers) (err error) {
	src, err := os.Open(source)
	if err != nil {
		return err
	}
	defer src.Close()
	k := &copier{rawCopy: c, src: src, dst: dst, size: h.Sources[0].Size, readDirect: h.SourceDirect, writeDirect: h.DestDirect}
	if k.read, err = reopen(source, os.O_RDONLY, k.readDirect); err != nil {
		return err
	}
	defer k.read.Close()
	if k.write, err = reopen(dst.Name(), os.O_RDWR, k.writeDirect); err != nil {
		return err
	}
	defer k.write.Close()
	// The whole length from the start: a write that extends a file is slow and excludes all others.
	if end := (max(c.Capacity, k.size) + blockSize - 1) &^ (blockSize - 1); h.DestSize < end {
		if err := dst.Truncate(end); err != nil {
			return err
		}
	}
	pace.span = c.LimitedTime
	total, err := dataIn(src, c.From, k.size)
	if err != nil {
		return err
	}
	total += c.Done
	if k.m, err = newMover(syncOf(dst), out, pace, c.Done, total, sliceLimit(total, c.MinSlice)); err != nil {
		return err
	}
	err = k.copy()
	return errors.Join(err, k.m.end())
}

func reopen(path string, flags int, direct bool) (*os.File, error) {
	if direct {
		flags |= unix.O_DIRECT
	}
	return os.OpenFile(path, flags, 0)
}

// copy hands all work to the mover.
func (c *copier) copy() error {
	from := c.From
	if c.Method == methodClone && !c.Preallocated {
		var err error
		if from, err = c.clone(from); err != nil {
			return err
		}
	}
	kernel := c.Method == methodKernel || c.Method == methodClone && isRemote(c.src)
	at := from
	err := eachData(c.src, from, c.size, func(start, end int64) error {
		if err := c.zeros(at, start); err != nil {
			return err
		}
		for at = start; at < end; {
			n := min(chunk, end-at)
			if kernel {
				n = min(kernelPiece, end-at)
			}
			piece := at
			at += n
			err := c.m.do(at, n, func(buf []byte) error {
				if kernel {
					return c.byKernel(piece, n, buf)
				}
				return c.byHand(piece, n, buf)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.zeros(at, c.Capacity)
}

// clone shares whole blocks from from on, holes included, as far as the file system lets it, and returns how far that is.
func (c *copier) clone(from int64) (int64, error) {
	whole := c.size &^ (blockSize - 1)
	usual, pace := c.m.limit, c.m.pace
	defer func() { c.m.limit, c.m.pace = usual, pace }()
	c.m.limit, c.m.pace = cloneSlice, nil
	for at := from; at < whole; {
		n := min(clonePiece, whole-at)
		err := unix.IoctlFileCloneRange(int(c.dst.Fd()), &unix.FileCloneRange{
			Src_fd: int64(c.src.Fd()), Src_offset: uint64(at), Src_length: uint64(n), Dest_offset: uint64(at)})
		switch {
		case err == nil:
		case errors.Is(err, unix.EINTR):
			continue
		case cannotClone(err):
			return at, nil
		default:
			return at, os.NewSyscallError("FICLONERANGE", err)
		}
		data, err := dataIn(c.src, at, at+n)
		if err != nil {
			return at, err
		}
		at += n
		if err := c.m.do(at, data, func([]byte) error { return nil }); err != nil {
			return at, err
		}
	}
	return max(from, whole), nil
}

// byKernel copies by copy_file_range; where that is refused, by hand.
func (c *copier) byKernel(at, n int64, buf []byte) error {
	for end := at + n; at < end; {
		in, out := at, at
		done, err := unix.CopyFileRange(int(c.src.Fd()), &in, int(c.dst.Fd()), &out, int(end-at), 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || done == 0:
			return c.byHandIn(at, end, buf)
		}
		at += int64(done)
	}
	return nil
}

// byHandIn is byHand for any length.
func (c *copier) byHandIn(at, end int64, buf []byte) error {
	for ; at < end; at += chunk {
		if err := c.byHand(at, min(chunk, end-at), buf); err != nil {
			return err
		}
	}
	return nil
}

// byHand copies at most a chunk through buf. Behind the source's end zeros follow to the end of the block.
func (c *copier) byHand(at, n int64, buf []byte) error {
	b := buf[:(n+blockSize-1)&^(blockSize-1)]
	got, err := readFull(c.read, b, at)
	if err != nil {
		return err
	}
	if at+int64(got) < min(c.size, at+int64(len(b))) {
		return fmt.Errorf("%s ends at %d and had %d bytes", c.src.Name(), at+int64(got), c.size)
	}
	clear(b[got:])
	if !c.Blank {
		return c.put(b, at)
	}
	for len(b) > 0 { // runs of blocks with data; zeros are there already
		skip := zeroRun(b)
		b, at = b[skip:], at+int64(skip)
		run := 0
		for run < len(b) && zeroRun(b[run:]) == 0 {
			run += min(zeroBlock, len(b)-run)
		}
		if run == 0 {
			break
		}
		if err := c.put(b[:run], at); err != nil {
			return err
		}
		b, at = b[run:], at+int64(run)
	}
	return nil
}

// readFull reads until b is full or the file ends. It asks O_DIRECT for nothing behind a part of a block, which is the end.
func readFull(f *os.File, b []byte, at int64) (got int, err error) {
	for got < len(b) {
		n, err := unix.Pread(int(f.Fd()), b[got:], at+int64(got))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return got, &os.PathError{Op: "read", Path: f.Name(), Err: err}
		}
		if got += n; n == 0 || got%blockSize != 0 {
			break
		}
	}
	return got, nil
}

func (c *copier) put(b []byte, at int64) error {
	if _, err := c.write.WriteAt(b, at); err != nil {
		return err
	}
	c.settle(at, int64(len(b)))
	return nil
}

// settle keeps the page cache small where O_DIRECT was refused, so that neither a sync nor other programs feel the copy. It
// is a hint: where it is not taken the data is right all the same.
func (c *copier) settle(at, n int64) {
	if !c.writeDirect {
		_ = unix.SyncFileRange(int(c.write.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE)
	}
	if !c.readDirect {
		_ = unix.Fadvise(int(c.read.Fd()), at, n, unix.FADV_DONTNEED)
	}
}

// zeros makes [from, to) of the destination read as zeros, if it does not yet.
func (c *copier) zeros(from, to int64) error {
	if c.Blank {
		return nil
	}
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if c.Preallocated {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	for at := from; at < to; {
		n := min(zeroPiece, to-at)
		piece := at
		at += n
		if err := c.m.do(at, 0, func(buf []byte) error { return zeroRange(c.dst, c.write, mode, piece, n, buf, c.m.wait) }); err != nil {
			return err
		}
	}
	return nil
}

// zeroRange is fallocate, or where that is not supported writes zeros, and calls wait before each part.
func zeroRange(dst, write *os.File, mode uint32, at, n int64, buf []byte, wait func(bytes int64)) error {
	for {
		switch err := unix.Fallocate(int(dst.Fd()), mode, at, n); err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP, unix.ENOSYS:
			clear(buf)
			for end := at + n; at < end; at += chunk {
				wait(min(chunk, end-at))
				if _, err := write.WriteAt(buf[:min(chunk, (end-at+blockSize-1)&^(blockSize-1))], at); err != nil {
					return err
				}
			}
			return nil
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
}

var noData [zeroBlock]byte

// zeroRun is how many of b's first bytes are zeros, in blocks of zeroBlock (the last may be shorter).
func zeroRun(b []byte) int {
	n := 0
	for n < len(b) {
		block := min(zeroBlock, len(b)-n)
		if !bytes.Equal(b[n:n+block], noData[:block]) {
			break
		}
		n += block
	}
	return n
}

func (c rawCopy) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // a plain struct always marshals
	}
	return string(b)
}

// The file systems whose server copies when it is asked to (statfs f_type).
const (
	nfsMagic  = 0x6969
	cifsMagic = 0xff534d42
	smb2Magic = 0xfe534d42
	cephMagic = 0x00c36400
)

func isRemote(f *os.File) bool {
	var s unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &s) != nil {
		return false // reading and writing works anywhere
	}
	switch uint32(s.Type) {
	case nfsMagic, cifsMagic, smb2Magic, cephMagic:
		return true
	}
	return false
}

// cannotClone says whether FICLONERANGE answers that it does not do such a thing with such files.
func cannotClone(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains([]syscall.Errno{
		unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EPERM, unix.ETXTBSY,
	}, errno)
}
