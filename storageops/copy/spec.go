package copy

import (
	"cmp"
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/nbd"
	"vdsm-agent/storageops/qemuimg"
)

// Env is what a copy needs of the step that it runs in.
type Env interface {
	qemuimg.Starter
	// Checkpoint records state, which marshals to JSON. It is durable when nil is returned. It is never called twice at the
	// same time, but not always by the goroutine that called Run.
	Checkpoint(state any) error
	// Progress tells how many of total bytes of data are copied. It is cheap and may be called at any rate, by any goroutine.
	Progress(done, total int64)
	// Limit is how many bytes per second may be written, 0 = any number. It is asked before each slice, may change from one to
	// the next, and must be cheap. What the file system does without moving data (clones, holes, allocation) is not limited;
	// zeros that qemu-img writes count as data.
	Limit() int64
}

// Layer is one file of a chain.
type Layer = qemuimg.Layer

// Source is what is read; its path may be an nbd.Address. Nobody may write it, or a layer below it, meanwhile.
type Source struct {
	Path, Format string
	Backing      []Layer // the layers below it, nearest first
}

// Dest is what is written; its path may be an nbd.Address, of a server that stays when its client leaves. It is there, is at least as large as the source, and nobody else writes it.
type Dest struct {
	Path, Format string
	// Backing are the layers below it, nearest first. With Source.Backing too the source is copied as an overlay: only what
	// it holds itself. Without, the source's chain is flattened into the destination.
	Backing []Layer
	// New says that it was made for this copy and nobody wrote to it, so it is all zeros or all its backing. If it is not
	// said, the destination is looked through, and zeros are written where the source has them unless it was found blank.
	New bool
	// Preallocated says that its blocks stay allocated (raw only): zeros do not make holes and blocks are not shared.
	Preallocated bool
}

// Spec is a copy. It is the same at each run of the same copy.
type Spec struct {
	Source   Source
	Dest     Dest
	Capacity int64 // bytes; the virtual size of the destination, and the length of a raw one in the end
	// Whole is the data of all copies that are made with this one, in bytes: slices are a share of it. 0: of this copy's own data.
	Whole   int64
	Bitmaps bool // copy the source's persistent bitmaps too, but not those that are inconsistent; qcow2 to qcow2 only
	// Recreate makes the destination anew, as if just created for this copy, in its old place. It is called when a copy has
	// to start over, and is idempotent. nil: such a copy fails instead.
	Recreate func(ctx context.Context) error

	floor int64         // in place of minSlice, for tests
	span  time.Duration // in place of limitedTime, for tests
}

// minSlice is the least data in a slice, if there is more of it.
func (s *Spec) minSlice() int64 { return sliceLimit(s.Whole, cmp.Or(s.floor, minSlice)) }

// limitedTime is how long a slice takes when there is a limit.
func (s *Spec) limitedTime() time.Duration { return cmp.Or(s.span, limitedTime) }

func (s *Spec) source() qemuimg.Image {
	return qemuimg.Image{Path: s.Source.Path, Format: s.Source.Format, Backing: s.Source.Backing}
}

func (s *Spec) dest() qemuimg.Image {
	return qemuimg.Image{Path: s.Dest.Path, Format: s.Dest.Format, Backing: s.Dest.Backing}
}

// overlay says whether only what the source holds itself is copied.
func (s *Spec) overlay() bool { return len(s.Source.Backing) > 0 && len(s.Dest.Backing) > 0 }

// rawToRaw says whether our own worker copies, not qemu-img.
func (s *Spec) rawToRaw() bool {
	return s.Source.Format == qemuimg.Raw && s.Dest.Format == qemuimg.Raw && !nbd.IsAddress(s.Source.Path) && !s.shown()
}

// shown says whether the destination is what an NBD server shows: its length is the server's affair.
func (s *Spec) shown() bool { return nbd.IsAddress(s.Dest.Path) }

func (s *Spec) check() error {
	if err := s.source().Check(); err != nil {
		return err
	}
	if err := s.dest().Check(); err != nil {
		return err
	}
	switch {
	case s.Capacity <= 0:
		return code.Errorf(code.InvalidParameter, "the capacity %d of %s is not a positive number of bytes", s.Capacity, s.Dest.Path)
	case s.Dest.Preallocated && s.Dest.Format != qemuimg.Raw:
		return code.Errorf(code.InvalidParameter, "%s is not raw, so its blocks cannot be kept allocated", s.Dest.Path)
	case s.Bitmaps && (s.Source.Format != qemuimg.QCOW2 || s.Dest.Format != qemuimg.QCOW2):
		return code.Errorf(code.IncorrectFormat, "bitmaps can only be copied from qcow2 to qcow2, not from %s to %s",
			s.Source.Path, s.Dest.Path)
	}
	return nil
}

// State is a checkpoint: all that a later Run needs.
type State struct {
	Next     int64 `json:"next"`  // in the virtual disk: all before it is in the destination, on stable storage
	Done     int64 `json:"done"`  // bytes of data before Next
	Total    int64 `json:"total"` // bytes of data in all
	Complete bool  `json:"complete,omitempty"`
	// Blank: the destination read as zeros, or was all its backing, before the first write.
	Blank bool `json:"blank"`
	// Over: what the destination holds cannot be relied on; it is made anew before anything else.
	Over bool `json:"over,omitempty"`
	// Sources are the source and the layers below it as they were at the first checkpoint.
	Sources []Fingerprint `json:"sources,omitempty"`
}

// Fingerprint tells whether a file was written since. Not the inode or ctime: both differ when a file system is mounted
// anew or a hard link is made, and the data does not.
type Fingerprint struct {
	Size  int64 `json:"size"`
	Mtime int64 `json:"mtime"` // nanoseconds since 1970; 0 of what a server shows, which does not tell
}
