package copy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

// secret writes a pattern with holes between, of a length that is no multiple of a block, and returns its length.
func secret(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 3 * mib, 5*mib + 4096, 200 * mib} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("secret!!"), mib/8+1), at); err != nil {
			t.Fatal(err)
		}
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func mustBeZero(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, mib)
	got := int64(0)
	for {
		n, err := f.Read(buf)
		if bytes.Count(buf[:n], []byte{0}) != n {
			t.Fatalf("there is data behind %d", got)
		}
		if got += int64(n); err != nil {
			break
		}
	}
	if got != size {
		t.Fatalf("it has %d bytes, not %d", got, size)
	}
}

func TestZeroOverwritesAllThatIsAllocated(t *testing.T) {
	for _, dir := range []string{t.TempDir(), qemuimgtest.RAM(t)} {
		e := newEnv(t)
		path := filepath.Join(dir, "a,b")
		size := secret(t, path)
		before := allocated(t, path)
		if err := Zero(t.Context(), e, path, nil); err != nil {
			t.Fatal(err)
		}
		mustBeZero(t, path, size)
		if got := allocated(t, path); got < before || got > before+8*mib {
			t.Fatalf("%d bytes are allocated; before it were %d", got, before)
		}
		if l := e.fills[len(e.fills)-1]; l.Next != size {
			t.Fatalf("the last checkpoint is %+v", l)
		}
	}
}

func TestZeroGoesOnWhereItWas(t *testing.T) {
	e, path := newEnv(t), filepath.Join(t.TempDir(), "f")
	e.Stop = (*proc.Worker).Kill
	size := secret(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	e.atProgress = func(done, total int64) { cancel(errStopped) }
	if err := Zero(ctx, e, path, nil); !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	e.atProgress = nil
	e.MustBeGone()
	if err := Zero(t.Context(), e, path, &FillState{Next: 4 * mib, Done: 2 * mib}); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 8)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 3*mib); err != nil || string(head) != "secret!!" {
		t.Fatalf("what is before the checkpoint was written again: %q, %v", head, err)
	}
	if err := Zero(t.Context(), e, path, nil); err != nil {
		t.Fatal(err)
	}
	mustBeZero(t, path, size)
}

func TestAllocate(t *testing.T) {
	ram := t.TempDir()
	qemuimgtest.Command(t, "mount", "-t", "ramfs", "none", ram) // cannot allocate
	t.Cleanup(func() { qemuimgtest.Command(t, "umount", ram) })
	for _, dir := range []string{t.TempDir(), qemuimgtest.RAM(t), ram} {
		e := newEnv(t)
		img := e.image(filepath.Join(dir, "v"), qemuimg.Raw, 33*mib)
		if err := Allocate(t.Context(), e, img.Path, 4096, 33*mib, nil); err != nil {
			t.Fatal(err)
		}
		mustBeZero(t, img.Path, 33*mib)
		if got := allocated(t, img.Path); dir != ram && got < 33*mib-4096 {
			t.Fatalf("%d bytes are allocated", got)
		}
		cow := e.image(filepath.Join(dir, "c"), qemuimg.QCOW2, 33*mib)
		check, err := qemuimg.Check(t.Context(), e, cow)
		if err != nil {
			t.Fatal(err)
		}
		if err := Allocate(t.Context(), e, cow.Path, check.EndOffset, 33*mib, &FillState{Next: 1 * mib}); err != nil {
			t.Fatal(err)
		}
		if r, err := qemuimg.Check(t.Context(), e, cow); err != nil || r.Found != qemuimg.Clean {
			t.Fatal(r, err)
		}
	}
}

func TestAllocateOnAFullFileSystem(t *testing.T) {
	e := newEnv(t)
	dir, _ := qemuimgtest.Mount(t, "ext4", 20)
	img := e.image(filepath.Join(dir, "v"), qemuimg.Raw, 100*mib)
	if err := Allocate(t.Context(), e, img.Path, 4096, 100*mib, nil); code.Of(err) != code.NoSpaceLeftOnDomain {
		t.Fatal(err)
	}
	e.MustBeGone()
}
