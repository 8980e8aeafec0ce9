package storageops

import (
	"context"
	"os"
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/sanlock"
	"vdsm-agent/tasks"
)

// images is what the verbs do with the files of images; qemuimg and copy say what each answers.
//
// All of it is done by workers, which it hands to the task engine (Attach) before they do anything. It returns when they are
// gone; when the engine ends them, with an error. ctx ending does the same.
type images interface {
	// Importable refuses what can be seen from outside to be no file that could be imported (1000).
	Importable(path string) error
	// External looks at an endpoint outside of all domains: a regular file, also one that is not there yet (false) in a directory that
	// is, or the socket of an NBD server. Anything else, a symbolic link, and what lies in a domain, is refused (1000).
	External(path string) (there bool, err error)
	// CreateExternal is Create for such a file, which is on stable storage then.
	CreateExternal(ctx context.Context, w work, c qemuimg.CreateSpec) error
	// Verify, Info and Measure only read.
	Verify(ctx context.Context, w work, img qemuimg.Image, want qemuimg.Expect) (qemuimg.Info, error)
	Info(ctx context.Context, w work, img qemuimg.Image) (qemuimg.Info, error)
	Measure(ctx context.Context, w work, img qemuimg.Image, target string) (qemuimg.Size, error)

	// Create makes the file, or empties the one that is there. Neither the file nor its name is on stable storage
	// then: storageDomain.SetMode follows. One that dies leaves a file that is not whole.
	Create(ctx context.Context, w work, c qemuimg.CreateSpec) error
	// AddBitmap is on stable storage when it returns: qemu-img flushes before it ends. One that dies has added it or
	// not, or has left clusters that nothing refers to. A bitmap that is there already is an error.
	AddBitmap(ctx context.Context, w work, img qemuimg.Image, name string, granularity int64) error
	// RemoveBitmap is the same the other way round; also one that is in use (inconsistent) is removed. One that is not there is an
	// error.
	RemoveBitmap(ctx context.Context, w work, img qemuimg.Image, name string) error
	// Amend changes the version of a qcow2 image. One that dies has done it or not, or has left clusters that nothing refers to.
	Amend(ctx context.Context, w work, img qemuimg.Image, compat string) error
	// Grow and Shrink change the size that a guest sees, whole or not at all; storageDomain.SetMode puts that on stable storage.
	Grow(ctx context.Context, w work, img qemuimg.Image, capacity int64) error
	Shrink(ctx context.Context, w work, img qemuimg.Image, capacity int64) error
	// MergeBitmap adds what the bitmap of that name in another image marks; it may be repeated.
	MergeBitmap(ctx context.Context, w work, img qemuimg.Image, name string, source qemuimg.Image) error
	// Rebase writes the name of the backing file, and its format, into the image's header. It is there or not, and may be repeated;
	// storageDomain.SetMode puts it on stable storage.
	Rebase(ctx context.Context, w work, img qemuimg.Image, backing, format string) error
	// Commit writes what img holds itself into the layer below, and nothing else. One that dies has written any part of it, and a guest
	// reads through img what it always has; it may be repeated. storageDomain.SetMode of the layer puts it on stable storage.
	Commit(ctx context.Context, w work, img qemuimg.Image) error
	// Allocate reserves the blocks of a preallocated volume: of a raw one behind the first 4096 bytes, which make the file's
	// length, of a qcow2 one behind its own tables. A raw file grows with it, piece by piece. It may be repeated at any time, and goes on from last, its last checkpoint.
	Allocate(ctx context.Context, w work, img qemuimg.Image, capacity int64, last *copy.FillState) error
	// Copy writes the destination slice by slice. What a checkpoint covers is on stable storage before the checkpoint
	// is recorded; what follows it may be there in any part. It goes on from last, its last checkpoint, and repeats at most
	// what follows that; where the destination cannot be relied on it starts over, by spec.Recreate.
	Copy(ctx context.Context, w work, spec copy.Spec, last *copy.State) error
	// Leasable refuses volumes with a sanlock area on a host that cannot make one.
	Leasable() error
	// FormatLease writes a sanlock area into a file that is there. One that dies leaves any part of it, and is repeated; neither the
	// file's length nor its name is on stable storage then: storageDomain.SetMode follows.
	FormatLease(ctx context.Context, w work, a domain.Area) error
	// Zero overwrites what is allocated, for good; otherwise as Allocate.
	Zero(ctx context.Context, w work, path string, last *copy.FillState) error
	// Sparsify frees what img holds itself and reads as zeros, and a guest reads the same at any moment; otherwise as Allocate.
	// storageDomain.SetMode puts on stable storage what is written when the image is closed.
	Sparsify(ctx context.Context, w work, img qemuimg.Image, last *copy.FillState) error
}

// work is what the operations on images need of the step that they are a part of: a *tasks.Scope, or one whose checkpoints
// mean something else.
type work interface {
	TaskID() string
	Attach(w tasks.Worker)
	Checkpoint(state any) error
	Progress(done, total int64)
	Limit() int64
}

// silent is a part of a step that is repeated as a whole: what it reports is not the step's.
type silent struct{ work }

func (silent) Checkpoint(any) error  { return nil }
func (silent) Progress(int64, int64) {}

// imageFiles are images as files, with qemu-img and the agent's own workers.
type imageFiles struct {
	workers *proc.Manager
	leases  *localLeases
}

// workEnv is how the workers of copies and qemu-img come under the task engine.
type workEnv struct {
	work
	imageFiles
}

func (i imageFiles) env(w work) workEnv { return workEnv{w, i} }

// Start starts a worker for the task. From here on the engine ends it, and waits until it is gone. It has the task's leases for as
// long as it lives, whatever becomes of the agent; their descriptors follow spec.Files.
func (e workEnv) Start(ctx context.Context, spec proc.Spec) (*proc.Worker, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	spec.Task = e.TaskID()
	leases, err := e.leases.files(spec.Task)
	if err != nil {
		return nil, err
	}
	defer closeAll(leases)
	spec.Files = slices.Concat(spec.Files, leases)
	w, err := e.workers.Start(spec)
	if err == nil {
		e.Attach(w)
	}
	return w, err
}

func (imageFiles) Importable(path string) error {
	switch fi, err := os.Stat(path); {
	case err != nil:
		return code.Errorf(code.InvalidParameter, "the file to import cannot be read: %w", err)
	case !fi.Mode().IsRegular():
		return code.Errorf(code.InvalidParameter, "%s is not a regular file and cannot be imported", path)
	}
	return nil
}

func (i imageFiles) Verify(ctx context.Context, w work, img qemuimg.Image, want qemuimg.Expect) (qemuimg.Info, error) {
	return qemuimg.VerifyUntrusted(ctx, i.env(w), img.Path, img.Format, want)
}

func (i imageFiles) Info(ctx context.Context, w work, img qemuimg.Image) (qemuimg.Info, error) {
	if img.Format == qemuimg.QCOW2 { // what its header names is not opened
		if _, err := qemuimg.ReadBacking(img.Path); err != nil {
			return qemuimg.Info{}, err
		}
	}
	return qemuimg.ReadInfo(ctx, i.env(w), img)
}

func (i imageFiles) Measure(ctx context.Context, w work, img qemuimg.Image, target string) (qemuimg.Size, error) {
	return qemuimg.Measure(ctx, i.env(w), img, target)
}

func (i imageFiles) Create(ctx context.Context, w work, c qemuimg.CreateSpec) error {
	return qemuimg.Create(ctx, i.env(w), c)
}

func (i imageFiles) AddBitmap(ctx context.Context, w work, img qemuimg.Image, name string, granularity int64) error {
	return qemuimg.AddBitmap(ctx, i.env(w), img, name, granularity, false)
}

func (i imageFiles) Grow(ctx context.Context, w work, img qemuimg.Image, capacity int64) error {
	return qemuimg.Grow(ctx, i.env(w), img, capacity)
}

func (i imageFiles) Shrink(ctx context.Context, w work, img qemuimg.Image, capacity int64) error {
	return qemuimg.Shrink(ctx, i.env(w), img, capacity)
}

func (i imageFiles) RemoveBitmap(ctx context.Context, w work, img qemuimg.Image, name string) error {
	return qemuimg.RemoveBitmap(ctx, i.env(w), img, name)
}

func (i imageFiles) Amend(ctx context.Context, w work, img qemuimg.Image, compat string) error {
	return qemuimg.Amend(ctx, i.env(w), img, compat)
}

func (i imageFiles) MergeBitmap(ctx context.Context, w work, img qemuimg.Image, name string, source qemuimg.Image) error {
	return qemuimg.MergeBitmap(ctx, i.env(w), img, name, source, name)
}

func (i imageFiles) Rebase(ctx context.Context, w work, img qemuimg.Image, backing, format string) error {
	return qemuimg.Rebase(ctx, i.env(w), img, backing, format)
}

func (i imageFiles) Commit(ctx context.Context, w work, img qemuimg.Image) error {
	const whole = 1000 // only the part is known
	return qemuimg.Commit(ctx, i.env(w), img, w.Limit(), func(part float64) { w.Progress(int64(part*whole), whole) })
}

func (i imageFiles) Allocate(ctx context.Context, w work, img qemuimg.Image, capacity int64, last *copy.FillState) error {
	start := int64(4096)
	if img.Format == qemuimg.QCOW2 {
		found, err := qemuimg.Check(ctx, i.env(w), img)
		if err != nil {
			return err
		}
		start = found.EndOffset
	}
	if start >= capacity {
		return nil
	}
	return copy.Allocate(ctx, i.env(w), img.Path, start, capacity, last)
}

func (i imageFiles) Copy(ctx context.Context, w work, spec copy.Spec, last *copy.State) error {
	return copy.Run(ctx, i.env(w), spec, last)
}

func (imageFiles) Leasable() error { return sanlock.Installed() }

func (i imageFiles) FormatLease(ctx context.Context, w work, a domain.Area) error {
	return sanlock.Format(ctx, i.env(w), a)
}

func (i imageFiles) Zero(ctx context.Context, w work, path string, last *copy.FillState) error {
	return copy.Zero(ctx, i.env(w), path, last)
}

func (i imageFiles) Sparsify(ctx context.Context, w work, img qemuimg.Image, last *copy.FillState) error {
	return copy.Sparsify(ctx, i.env(w), img, last)
}
