package qemuimg_test

import (
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

// TestAmendKeepsWhatAGuestReads: the older version has no zeros over data of a layer below, so they must be written out; and the
// header goes on naming that layer.
func TestAmendKeepsWhatAGuestReads(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), t.TempDir()
	base, top, flat := filepath.Join(dir, "base"), filepath.Join(dir, "top"), filepath.Join(dir, "flat")
	qemuimgtest.Command(t, "qemu-img", "create", "-q", "-f", "raw", base, "4M")
	qemuimgtest.Command(t, "qemu-io", "-f", "raw", "-c", "write -P 7 0 4M", base)
	qemuimgtest.Command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", "-u", "-b", "base", "-F", "raw", top, "4M")
	qemuimgtest.Command(t, "qemu-io", "-f", "qcow2", "-c", "write -z 1M 1M", "-c", "write -P 9 3M 64k", top)
	qemuimgtest.Command(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, flat)
	img := qemuimg.Image{Path: top, Format: qemuimg.QCOW2, Backing: []qemuimg.Layer{{Path: base, Format: qemuimg.Raw}}}
	for _, compat := range []string{qemuimg.Compat010, qemuimg.Compat010, qemuimg.Compat11} {
		if err := qemuimg.Amend(t.Context(), st, img, compat); err != nil {
			t.Fatal(err)
		}
		info, err := qemuimg.ReadInfo(t.Context(), st, img.Alone())
		if err != nil || info.Compat != compat || info.Backing != "base" || info.BackingFormat != qemuimg.Raw {
			t.Errorf("amended to %s it is %+v, %v", compat, info, err)
		}
		if out := qemuimgtest.Command(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", top, flat); !strings.Contains(out, "identical") {
			t.Errorf("amended to %s: %s", compat, out)
		}
	}
	for _, refused := range []struct {
		img    qemuimg.Image
		compat string
	}{{qemuimg.Image{Path: base, Format: qemuimg.Raw}, qemuimg.Compat11}, {img, "3"}} {
		if err := qemuimg.Amend(t.Context(), st, refused.img, refused.compat); code.Of(err) != code.InvalidParameter {
			t.Errorf("%s to %s: %v", refused.img.Format, refused.compat, err)
		}
	}
}
