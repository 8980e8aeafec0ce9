package copy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

// full is a base with data everywhere, some of which is zeros.
func (e *env) full(dir string) Layer {
	e.t.Helper()
	base := e.image(filepath.Join(dir, "base"), qemuimg.Raw, manyCapacity)
	qemuimgtest.IO(e.t, base, "write -q -P 99 0 80M", "write -q -P 0 70M 2M")
	return Layer{Path: base.Path, Format: base.Format}
}

// zeroed is an image that holds zeros of several kinds, and what a guest reads of it.
func (e *env) zeroed(path, format, clusters string, backing ...Layer) (img qemuimg.Image, was string) {
	e.t.Helper()
	img = e.image(path, format, manyCapacity, backing...)
	if clusters != "" {
		qemuimgtest.Command(e.t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size="+clusters, "-b", backing[0].Path, "-F", backing[0].Format, path)
	}
	qemuimgtest.IO(e.t, img,
		"write -q -P 1 0 4M", "write -q -P 0 4M 8M", "write -q -P 2 12M 64k", // zeros between data
		"write -q -P 0 20M 20M", "write -q -P 3 20M 4k", "write -q -P 3 25M 4k", // a little data among zeros
		"write -q -P 0 50M 1M", "write -q -z 50M 512k", // zeros without a cluster, or with one that is not needed
		"write -q -P 4 60M 60k", "write -q -P 0 61M 100k", // no whole clusters
		"write -q -P 0 78M 2M") // to the end
	was = path + ".was"
	e.readAs(img, was)
	return img, was
}

// readAs writes what a guest reads into a file.
func (e *env) readAs(img qemuimg.Image, path string) {
	e.t.Helper()
	qemuimgtest.Command(e.t, "qemu-img", "convert", "-O", "raw", img.Node().Argument(), path)
}

// own is how much of its disk an image holds itself.
func (e *env) own(img qemuimg.Image) (n int64) {
	e.t.Helper()
	err := qemuimg.Map(e.t.Context(), e, img, func(x qemuimg.Extent) error {
		if x.Depth == 0 && x.Present {
			n += x.Length
		}
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// mustRead proves that the image reads as it did, and is sound.
func (e *env) mustRead(img qemuimg.Image, was string) {
	e.t.Helper()
	same, err := qemuimg.Compare(context.Background(), e, img, qemuimg.Image{Path: was, Format: qemuimg.Raw})
	if err != nil || !same {
		e.t.Fatalf("a guest reads something else than before (%v)", err)
	}
	if r, err := qemuimg.Check(context.Background(), e, img); err != nil || r.Found > qemuimg.Clean {
		e.t.Fatalf("it is %v: %+v, %v", r.Found, r, err)
	}
	e.MustBeGone()
}

// left is what of the zeroed image cannot be freed: data, with what is around it in its blocks, and a qcow2 image's tables.
const left = 4*mib + 6*128<<10 + mib

func TestSparsify(t *testing.T) {
	disk, ram := t.TempDir(), qemuimgtest.RAM(t)
	for _, c := range []struct {
		name, dir, format string
		overlay           bool
		clusters          string
		most              int64 // that may be allocated then
	}{
		{"raw", disk, qemuimg.Raw, false, "", left},
		{"raw in memory", ram, qemuimg.Raw, false, "", left},
		{"qcow2", ram, qemuimg.QCOW2, false, "", left},
		{"an overlay", disk, qemuimg.QCOW2, true, "", left},
		{"an overlay of large clusters", ram, qemuimg.QCOW2, true, "2M", left + 20*mib},
		{"an overlay of small clusters", ram, qemuimg.QCOW2, true, "4k", left},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, dir := newEnv(t), c.dir
			var backing []Layer
			path := filepath.Join(dir, c.name+" a,b=c d")
			if c.overlay {
				backing = append(backing, e.full(dir))
			}
			img, was := e.zeroed(path, c.format, c.clusters, backing...)
			before, own := allocated(t, path), e.own(img)
			if err := Sparsify(t.Context(), e, img, nil); err != nil {
				t.Fatal(err)
			}
			e.mustRead(img, was)
			if got := e.own(img); c.format == qemuimg.QCOW2 && got != own {
				t.Errorf("it holds %d bytes of its disk itself, and has held %d", got, own)
			}
			if got := allocated(t, path); got > c.most || before < left+20*mib {
				t.Errorf("%d bytes are allocated of %d, and %d at most should be", got, before, c.most)
			}
			if l := e.fills[len(e.fills)-1]; l.Next != manyCapacity {
				t.Errorf("the last checkpoint is %+v", l)
			}
			if err := Sparsify(t.Context(), e, img, &e.fills[len(e.fills)-1]); err != nil { // once more, at its end
				t.Error(err)
			}
		})
	}
}

// TestSparsifyKeepsBitmaps: they are there as before, and mark no less.
func TestSparsifyKeepsBitmaps(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	img, was := e.zeroed(filepath.Join(dir, "v"), qemuimg.QCOW2, "")
	if err := qemuimg.AddBitmap(t.Context(), e, img, "b", 0, false); err != nil {
		t.Fatal(err)
	}
	if err := Sparsify(t.Context(), e, img, nil); err != nil {
		t.Fatal(err)
	}
	e.mustRead(img, was)
	info, err := qemuimg.ReadInfo(t.Context(), e, img)
	if err != nil || len(info.Bitmaps) != 1 || info.Bitmaps[0].InUse || !info.Bitmaps[0].Enabled {
		t.Errorf("%+v, %v", info.Bitmaps, err)
	}
}

// TestSparsifyIsEnded asks or kills its workers at each of its first records, and goes on: a guest reads the same at each moment.
func TestSparsifyIsEnded(t *testing.T) {
	for name, stop := range map[string]func(*proc.Worker){"asked": (*proc.Worker).Terminate, "killed": (*proc.Worker).Kill} {
		for _, format := range []string{qemuimg.Raw, qemuimg.QCOW2} {
			t.Run(name+" "+format, func(t *testing.T) {
				e, dir := newEnv(t), qemuimgtest.RAM(t)
				var backing []Layer
				if format == qemuimg.QCOW2 {
					backing = append(backing, e.full(dir))
				}
				img, was := e.zeroed(filepath.Join(dir, "v"), format, "", backing...)
				e.Stop = stop
				e.limit.Store(1 << 40) // small slices
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				e.atProgress = func(int64, int64) { cancel(errStopped) }
				if err := Sparsify(ctx, e, img, nil); !errors.Is(err, errStopped) {
					t.Fatal(err)
				}
				e.MustBeGone()
				e.atProgress = nil
				same, err := qemuimg.Compare(t.Context(), e, img, qemuimg.Image{Path: was, Format: qemuimg.Raw})
				if err != nil || !same {
					t.Fatalf("ended in the middle, and a guest reads something else (%v)", err)
				}
				if err := Sparsify(t.Context(), e, img, &e.fills[len(e.fills)-1]); err != nil {
					t.Fatal(err)
				}
				e.mustRead(img, was)
				if got := allocated(t, img.Path); got > left {
					t.Errorf("%d bytes are allocated", got)
				}
			})
		}
	}
}

// TestSparsifyRefuses: an image that a guest has open, or that is damaged, is left alone, and the error says why.
func TestSparsifyRefuses(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	img, was := e.zeroed(filepath.Join(dir, "v"), qemuimg.Raw, "")
	before := allocated(t, img.Path)
	w, err := e.Start(t.Context(), proc.Spec{Argv: []string{"sh", "-c", `qemu-system-x86_64 -nodefaults -display none -S -daemonize -drive format=raw,if=virtio,file="$0" && touch "$0.up" && exec sleep 600`, img.Path}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := os.Stat(img.Path + ".up"); err != nil; _, err = os.Stat(img.Path + ".up") { // the guest has the image by then
		if t.Context().Err() != nil {
			t.Fatal("the guest does not start")
		}
	}
	err = Sparsify(t.Context(), e, img, nil)
	if err == nil || !strings.Contains(fmt.Sprint(err), "has it open") {
		t.Errorf("with a guest it answers %v", err)
	}
	w.Kill()
	_ = w.Wait()
	e.mustRead(img, was)
	if got := allocated(t, img.Path); got != before {
		t.Errorf("%d bytes are allocated of %d", got, before)
	}
	if err := os.WriteFile(img.Path+".cow", []byte("this is no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sparsify(t.Context(), e, qemuimg.Image{Path: img.Path + ".cow", Format: qemuimg.QCOW2}, nil); err == nil {
		t.Error("what is no image was sparsified")
	}
}
