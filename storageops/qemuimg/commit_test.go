package qemuimg_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

func sum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(data)
	return string(s[:])
}

// layered is a chain of three: below, base, top.
func layered(t *testing.T, st qemuimg.Starter, format string) (base, top qemuimg.Image) {
	t.Helper()
	dir := filepath.Join(qemuimgtest.RAM(t), "a, b=c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	below := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "below"), Format: qemuimg.Raw, Capacity: 8 * mib})
	spec := qemuimg.CreateSpec{Path: filepath.Join(dir, "base"), Format: format, Capacity: 8 * mib}
	if format == qemuimg.QCOW2 {
		spec.Backing, spec.BackingFormat = "below", qemuimg.Raw
	}
	base = create(t, st, spec)
	top = create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "top"), Format: qemuimg.QCOW2, Capacity: 16 * mib, Backing: "base", BackingFormat: format})
	qemuimgtest.IO(t, below, "write -q -P 1 0 8M")
	qemuimgtest.IO(t, base, "write -q -P 2 1M 1M")
	qemuimgtest.IO(t, top, "write -q -P 3 2M 1M", "write -q -z 3M 1M", "write -q -P 4 12M 1M")
	if format == qemuimg.QCOW2 {
		base.Backing = []qemuimg.Layer{{Path: below.Path, Format: below.Format}}
	}
	top.Backing = append([]qemuimg.Layer{{Path: base.Path, Format: base.Format}}, base.Backing...)
	return base, top
}

func TestCommitWritesTheLayerBelowAndNothingElse(t *testing.T) {
	for _, format := range []string{qemuimg.QCOW2, qemuimg.Raw} {
		t.Run(format, func(t *testing.T) {
			st := qemuimgtest.NewStarter(t)
			base, top := layered(t, st, format)
			if err := qemuimg.AddBitmap(t.Context(), st, top, "b", 0, false); err != nil {
				t.Fatal(err)
			}
			others := []string{top.Path}
			for _, l := range base.Backing {
				others = append(others, l.Path)
			}
			var was []string
			for _, path := range others {
				was = append(was, sum(t, path))
			}
			var last float64
			for range 2 { // it may be repeated
				if err := qemuimg.Commit(t.Context(), st, top, 1<<40, func(part float64) { last = part }); err != nil {
					t.Fatal(err)
				}
			}
			if last != 1 {
				t.Errorf("the last progress is %v", last)
			}
			if same, err := qemuimg.Compare(t.Context(), st, base, top); err != nil || !same {
				t.Errorf("the layer below reads otherwise: %v, %v", same, err)
			}
			for i, path := range others {
				if sum(t, path) != was[i] {
					t.Errorf("%s was written", path)
				}
			}
			if info, err := qemuimg.ReadInfo(t.Context(), st, base); err != nil || info.VirtualSize != 16*mib {
				t.Errorf("%+v, %v", info, err)
			}
			if err := qemuimg.Commit(t.Context(), st, top.Alone(), 0, nil); code.Of(err) != code.IncorrectFormat {
				t.Errorf("an image that has no layer below: %v", err)
			}
		})
	}
}

func TestRebaseNamesABareVolume(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	_, top := layered(t, st, qemuimg.QCOW2)
	for range 2 {
		if err := qemuimg.Rebase(t.Context(), st, top, "below", qemuimg.Raw); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := qemuimg.ReadInfo(t.Context(), st, top.Alone()); err != nil || info.Backing != "below" || info.BackingFormat != qemuimg.Raw {
		t.Errorf("%+v, %v", info, err)
	}
	for _, bad := range []string{"", "/below", "../below", "json:{}", "nbd:x"} {
		if err := qemuimg.Rebase(t.Context(), st, top, bad, qemuimg.Raw); code.Of(err) != code.InvalidParameter {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := qemuimg.Rebase(t.Context(), st, top, "below", "vmdk"); code.Of(err) != code.IncorrectFormat {
		t.Error(err)
	}
}

// TestGrowShowsZeros: also where a layer below is longer and holds something there.
func TestGrowShowsZeros(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	base, top := layered(t, st, qemuimg.QCOW2)
	if err := qemuimg.Shrink(t.Context(), st, top, mib); err != nil {
		t.Fatal(err)
	}
	if err := qemuimg.Grow(t.Context(), st, top, 32*mib); err != nil {
		t.Fatal(err)
	}
	qemuimgtest.IO(t, qemuimg.Image{Path: top.Path, Format: top.Format, Backing: top.Backing}, "read -q -P 1 0 1M", "read -q -P 0 1M 31M")
	raw := qemuimg.Image{Path: base.Backing[0].Path, Format: qemuimg.Raw}
	for _, size := range []int64{16 * mib, 8 * mib} {
		change := qemuimg.Grow
		if size == 8*mib {
			change = qemuimg.Shrink
		}
		if err := change(t.Context(), st, raw, size); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(raw.Path); err != nil || fi.Size() != size {
			t.Errorf("%v, %v", fi, err)
		}
	}
	if err := qemuimg.Grow(t.Context(), st, top, mib); err == nil || !strings.Contains(err.Error(), "Shrink") {
		t.Errorf("growing has made it smaller: %v", err)
	}
}

// TestCommitThatIsEnded: whenever it dies, a guest reads through the top what it has read before, the top's bitmaps are whole, and
// another one completes it.
func TestCommitThatIsEnded(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	base, top := layered(t, st, qemuimg.QCOW2)
	if err := qemuimg.AddBitmap(t.Context(), st, top, "b", 0, false); err != nil {
		t.Fatal(err)
	}
	flat := qemuimg.Image{Path: top.Path + ".flat", Format: qemuimg.Raw}
	qemuimgtest.Command(t, "qemu-img", "convert", "-O", "raw", top.Node().Argument(), flat.Path)
	for _, at := range []float64{0, 0.1, 0.5} {
		ctx, cancel := context.WithCancel(t.Context())
		err := qemuimg.Commit(ctx, st, top, 2*mib, func(part float64) {
			if part >= at {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("ended at %v: %v", at, err)
		}
		if same, err := qemuimg.Compare(t.Context(), st, top, flat); err != nil || !same {
			t.Fatalf("ended at %v: a guest reads otherwise: %v, %v", at, same, err)
		}
		if found, err := qemuimg.Check(t.Context(), st, base); err != nil || found.Found == qemuimg.Corrupt {
			t.Fatalf("ended at %v: %+v, %v", at, found, err)
		}
	}
	if info, err := qemuimg.ReadInfo(t.Context(), st, top.Alone()); err != nil || len(info.Bitmaps) != 1 || info.Bitmaps[0].InUse {
		t.Errorf("the bitmaps of the top: %+v, %v", info.Bitmaps, err)
	}
	if err := qemuimg.Commit(t.Context(), st, top, 0, func(float64) {}); err != nil {
		t.Fatal(err)
	}
	if same, err := qemuimg.Compare(t.Context(), st, base, flat); err != nil || !same {
		t.Errorf("it is not complete: %v, %v", same, err)
	}
}
