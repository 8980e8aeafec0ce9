package qemuimg_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

const mib = 1 << 20

func create(t *testing.T, st qemuimg.Starter, c qemuimg.CreateSpec) qemuimg.Image {
	t.Helper()
	if err := qemuimg.Create(t.Context(), st, c); err != nil {
		t.Fatal(err)
	}
	return qemuimg.Image{Path: c.Path, Format: c.Format}
}

func TestNoCharacterOfAPathIsSpecial(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	for _, name := range []string{"a,b", "a b", "file.filename=x", "a:b", "json:{}", "é漢", `a"b\c`, "%d", "-f", "a\nb", "nbd:x,,y"} {
		for _, format := range []string{qemuimg.Raw, qemuimg.QCOW2} {
			t.Run(fmt.Sprintf("%q %s", name, format), func(t *testing.T) {
				path := filepath.Join(qemuimgtest.RAM(t), name)
				img := create(t, st, qemuimg.CreateSpec{Path: path, Format: format, Capacity: 4 * mib})
				info, err := qemuimg.ReadInfo(t.Context(), st, img)
				if err != nil || info.VirtualSize != 4*mib || info.Format != format {
					t.Fatalf("info is %+v, %v", info, err)
				}
				if _, err := os.Stat(path); err != nil {
					t.Fatal(err)
				}
				other := create(t, st, qemuimg.CreateSpec{Path: path + "2", Format: format, Capacity: 4 * mib})
				if same, err := qemuimg.Compare(t.Context(), st, img, other); err != nil || !same {
					t.Fatal(same, err)
				}
				if _, err := qemuimg.Check(t.Context(), st, img); err != nil {
					t.Fatal(err)
				}
				if _, err := qemuimg.VerifyUntrusted(t.Context(), st, path, format, qemuimg.Expect{}); err != nil {
					t.Fatal(err)
				}
				if format == qemuimg.QCOW2 {
					if err := qemuimg.AddBitmap(t.Context(), st, img, "b", 0, true); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func TestCreateWithBackingNamesABareVolumeThatNeedNotExist(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	path := filepath.Join(qemuimgtest.RAM(t), "top")
	img := create(t, st, qemuimg.CreateSpec{Path: path, Format: qemuimg.QCOW2, Capacity: 8 * mib, Backing: "parent", BackingFormat: qemuimg.Raw})
	info, err := qemuimg.ReadInfo(t.Context(), st, img)
	if err != nil {
		t.Fatal(err)
	}
	if info.Backing != "parent" || info.BackingFormat != qemuimg.Raw || info.Compat != "1.1" || info.ClusterSize != 65536 || info.VirtualSize != 8*mib {
		t.Fatalf("%+v", info)
	}
	for _, bad := range []qemuimg.CreateSpec{
		{Path: path, Format: qemuimg.Raw, Capacity: mib, Backing: "x", BackingFormat: qemuimg.Raw},
		{Path: path, Format: qemuimg.QCOW2, Capacity: mib, Backing: "x"},
		{Path: path, Format: qemuimg.QCOW2, Capacity: mib, Backing: "/x", BackingFormat: qemuimg.Raw},
		{Path: path, Format: qemuimg.QCOW2, Capacity: mib, Backing: "json:{}", BackingFormat: qemuimg.Raw},
		{Path: path, Format: qemuimg.QCOW2},
		{Path: path, Format: "vmdk", Capacity: mib},
		{Path: "top", Format: qemuimg.Raw, Capacity: mib},
	} {
		if err := qemuimg.Create(t.Context(), st, bad); err == nil {
			t.Errorf("%+v was made", bad)
		}
	}
}

func TestMapTellsLayersAndStreams(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), qemuimgtest.RAM(t)
	base := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "base"), Format: qemuimg.QCOW2, Capacity: 8 * mib})
	top := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "top"), Format: qemuimg.QCOW2, Capacity: 8 * mib, Backing: "base", BackingFormat: qemuimg.QCOW2})
	top.Backing = []qemuimg.Layer{{Path: base.Path, Format: base.Format}}
	qemuimgtest.IO(t, base, "write -q -P 1 0 4M")
	qemuimgtest.IO(t, top, "write -q -z 1M 1M", "write -q -P 2 2M 1M")
	var got []qemuimg.Extent
	collect := func(e qemuimg.Extent) error { got = append(got, e); return nil }
	if err := qemuimg.Map(t.Context(), st, top, collect); err != nil {
		t.Fatal(err)
	}
	want := []qemuimg.Extent{
		{Start: 0, Length: mib, Depth: 1, Present: true, Data: true},
		{Start: mib, Length: mib, Present: true, Zero: true},
		{Start: 2 * mib, Length: mib, Present: true, Data: true},
		{Start: 3 * mib, Length: mib, Depth: 1, Present: true, Data: true},
		{Start: 4 * mib, Length: 4 * mib, Depth: 1, Zero: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	stop := errors.New("enough")
	if err := qemuimg.Map(t.Context(), st, top, func(qemuimg.Extent) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	top.Path += "-missing"
	if err := qemuimg.Map(t.Context(), st, top, collect); code.Of(err) != code.ImageVerification {
		t.Fatal(err)
	}
}

func TestALongChainFitsIntoOneArgument(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), qemuimgtest.RAM(t)
	var chain []qemuimg.Layer
	for i := range 200 {
		c := qemuimg.CreateSpec{Path: filepath.Join(dir, fmt.Sprintf("aaaaaaaa-bbbb-4ccc-8ddd-%012d", i)), Format: qemuimg.QCOW2, Capacity: mib}
		if i > 0 {
			c.Backing, c.BackingFormat = filepath.Base(chain[0].Path), qemuimg.QCOW2
		}
		create(t, st, c)
		chain = append([]qemuimg.Layer{{Path: c.Path, Format: c.Format}}, chain...)
	}
	depth := 0
	img := qemuimg.Image{Path: chain[0].Path, Format: chain[0].Format, Backing: chain[1:]}
	if err := qemuimg.Map(t.Context(), st, img, func(e qemuimg.Extent) error { depth = e.Depth; return nil }); err != nil {
		t.Fatal(err)
	}
	if depth != 199 {
		t.Fatal(depth)
	}
}

func TestMeasure(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	img := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(qemuimgtest.RAM(t), "i"), Format: qemuimg.QCOW2, Capacity: 64 * mib})
	qemuimgtest.IO(t, img, "write -q -P 1 0 4M")
	raw, err := qemuimg.Measure(t.Context(), st, img, qemuimg.Raw)
	if err != nil || raw.FullyAllocated != 64*mib {
		t.Fatal(raw, err)
	}
	cow, err := qemuimg.Measure(t.Context(), st, img, qemuimg.QCOW2)
	if err != nil || cow.Required < 4*mib || cow.Required > 5*mib || cow.FullyAllocated < 64*mib {
		t.Fatal(cow, err)
	}
}

func TestBitmaps(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), qemuimgtest.RAM(t)
	a := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "a"), Format: qemuimg.QCOW2, Capacity: 8 * mib})
	b := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "b,b"), Format: qemuimg.QCOW2, Capacity: 8 * mib})
	steps := []error{
		qemuimg.AddBitmap(t.Context(), st, a, "x", 131072, false),
		qemuimg.AddBitmap(t.Context(), st, b, "x", 131072, true),
		qemuimg.MergeBitmap(t.Context(), st, b, "x", a, "x"),
		qemuimg.MergeBitmap(t.Context(), st, a, "x", b, "x"),
		qemuimg.ClearBitmap(t.Context(), st, a, "x"),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		img     qemuimg.Image
		enabled bool
	}{{a, true}, {b, false}} {
		info, err := qemuimg.ReadInfo(t.Context(), st, c.img)
		if want := []qemuimg.Bitmap{{Name: "x", Granularity: 131072, Enabled: c.enabled}}; err != nil || !reflect.DeepEqual(info.Bitmaps, want) {
			t.Fatal(info.Bitmaps, err)
		}
	}
	if err := qemuimg.EnableBitmap(t.Context(), st, b, "x"); err != nil {
		t.Fatal(err)
	}
	if err := qemuimg.RemoveBitmap(t.Context(), st, b, "x"); err != nil {
		t.Fatal(err)
	}
	if err := qemuimg.RemoveBitmap(t.Context(), st, b, "x"); err == nil {
		t.Fatal("a bitmap was removed twice")
	}
}

// leak makes the refcount of a cluster behind the end 1, with nothing that refers to it.
func leak(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := func(off int64) int64 {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		return int64(binary.BigEndian.Uint64(b))
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	n := (st.Size() + 65535) / 65536
	block := at(at(48))
	if _, err := f.WriteAt([]byte{0, 1}, block+2*n); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate((n + 1) * 65536); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), qemuimgtest.RAM(t)
	raw := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "raw"), Format: qemuimg.Raw, Capacity: mib})
	if r, err := qemuimg.Check(t.Context(), st, raw); err != nil || r.Found != qemuimg.NotCheckable {
		t.Fatal(r, err)
	}
	img := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "i"), Format: qemuimg.QCOW2, Capacity: 64 * mib, Backing: "gone", BackingFormat: qemuimg.Raw})
	qemuimgtest.IO(t, img, "write -q -P 1 0 4M")
	if r, err := qemuimg.Check(t.Context(), st, img); err != nil || r.Found != qemuimg.Clean {
		t.Fatal(r, err)
	}
	leak(t, img.Path)
	if r, err := qemuimg.Check(t.Context(), st, img); err != nil || r.Found != qemuimg.Leaks || r.Leaks != 1 {
		t.Fatal(r, err)
	}
	if r, err := qemuimg.RepairLeaks(t.Context(), st, img); err != nil || r.Found != qemuimg.Clean || r.LeaksFixed != 1 {
		t.Fatal(r, err)
	}
	if i, err := qemuimg.ReadInfo(t.Context(), st, img); err != nil || i.Backing != "gone" {
		t.Fatal("a repair lost the backing file", i, err)
	}
	if err := os.Truncate(img.Path, 2*mib); err != nil {
		t.Fatal(err)
	}
	if r, err := qemuimg.RepairLeaks(t.Context(), st, img); err != nil || r.Found != qemuimg.Corrupt {
		t.Fatal(r, err)
	}
	if err := os.WriteFile(img.Path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := qemuimg.Check(t.Context(), st, img); code.Of(err) != code.ImageVerification {
		t.Fatal(err)
	}
}

func TestUntrustedImagesAreRefused(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	sound := func(t *testing.T, dir string) string {
		img := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(dir, "img"), Format: qemuimg.QCOW2, Capacity: 64 * mib})
		qemuimgtest.IO(t, img, "write -q -P 1 0 8M")
		return img.Path
	}
	patch := func(at int64, b ...byte) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			path := sound(t, dir)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	truncated := func(size int64) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			path := sound(t, dir)
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	backed := func(name string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			path := filepath.Join(dir, "img")
			qemuimgtest.Command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, "1M")
			return path
		}
	}
	for name, c := range map[string]struct {
		make func(*testing.T, string) string
		raw  bool
		want qemuimg.Expect
		says string // "" = accepted
	}{
		"sound":                     {make: sound},
		"as raw":                    {make: sound, raw: true},
		"expected backing":          {make: backed("vol"), want: qemuimg.Expect{Backing: "vol", BackingFormat: "raw"}},
		"backing":                   {make: backed("/etc/shadow"), says: "/etc/shadow"},
		"other backing":             {make: backed("../vol"), want: qemuimg.Expect{Backing: "vol", BackingFormat: "raw"}, says: "must be \"vol\""},
		"backing of another format": {make: backed("vol"), want: qemuimg.Expect{Backing: "vol", BackingFormat: "qcow2"}, says: "format of its backing"},
		"json backing":              {make: backed(`json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}`), says: "json:"},
		"protocol backing":          {make: backed("nbd://127.0.0.1:1/x"), says: "nbd:"},
		"data file": {says: "another file", make: func(t *testing.T, dir string) string {
			path := filepath.Join(dir, "img")
			qemuimgtest.Command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(dir, "secret"), path, "1M")
			return path
		}},
		"encrypted":           {make: patch(32, 0, 0, 0, 2), says: "encrypted"},
		"unknown feature":     {make: patch(72, 0x80), says: "features that are not known"},
		"marked corrupt":      {make: patch(79, 2), says: "marked corrupt"},
		"version 9":           {make: patch(7, 9), says: "version is 9"},
		"header of no length": {make: patch(100, 0, 0, 0, 0), says: "header length"},
		"backing name beyond": {make: patch(8, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 9), says: "backing file name"},
		"huge L1 table":       {make: patch(36, 0xff, 0xff, 0xff, 0xff), says: "img"},
		"L2 entry beyond end": {make: patch(4*65536, 0x80, 0, 0, 0x7f, 0, 0, 0, 0), says: "damaged"},
		"data cut off":        {make: truncated(2 * mib), says: "damaged or cut short"},
		"tables cut off":      {make: truncated(100000), says: "damaged or cut short"},
		"header cut off":      {make: truncated(80), says: "cut short"},
		"empty":               {make: truncated(0), says: "does not begin"},
		"empty raw":           {make: truncated(0), raw: true, says: "empty"},
		"garbage": {says: "does not begin", make: func(t *testing.T, dir string) string {
			path := filepath.Join(dir, "img")
			if err := os.WriteFile(path, []byte(strings.Repeat("garbage", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		"directory": {says: "regular", make: func(t *testing.T, dir string) string { return dir }},
		"device":    {says: "regular", make: func(t *testing.T, dir string) string { return "/dev/zero" }, raw: true},
		"fifo": {says: "regular", make: func(t *testing.T, dir string) string {
			qemuimgtest.Command(t, "mkfifo", filepath.Join(dir, "f"))
			return filepath.Join(dir, "f")
		}},
		"missing": {says: "no such file", make: func(t *testing.T, dir string) string { return filepath.Join(dir, "m") }},
	} {
		t.Run(name, func(t *testing.T) {
			format := qemuimg.QCOW2
			if c.raw {
				format = qemuimg.Raw
			}
			_, err := qemuimg.VerifyUntrusted(t.Context(), st, c.make(t, qemuimgtest.RAM(t)), format, c.want)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if code.Of(err) != code.ImageVerification || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("answered %v (%d), which does not say %q", err, code.Of(err), c.says)
			}
		})
	}
}

// A data file that the header names is never opened: nothing of qemu-img runs before the header is found harmless.
func TestQemuImgDoesNotRunOnARefusedHeader(t *testing.T) {
	st, dir := qemuimgtest.NewStarter(t), qemuimgtest.RAM(t)
	path := filepath.Join(dir, "img")
	qemuimgtest.Command(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(dir, "secret"), path, "1M")
	if _, err := qemuimg.VerifyUntrusted(t.Context(), st, path, qemuimg.QCOW2, qemuimg.Expect{}); err == nil {
		t.Fatal("accepted")
	}
	if n := len(st.Specs()); n != 0 {
		t.Fatalf("%d workers were started", n)
	}
}

func TestUntrustedRunsAreLimited(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	img := create(t, st, qemuimg.CreateSpec{Path: filepath.Join(qemuimgtest.RAM(t), "i"), Format: qemuimg.QCOW2, Capacity: mib})
	before := len(st.Specs())
	if _, err := qemuimg.VerifyUntrusted(t.Context(), st, img.Path, img.Format, qemuimg.Expect{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range st.Specs()[before:] {
		if s.Limits == (proc.Limits{}) {
			t.Errorf("%q ran without limits", s.Argv)
		}
	}
}

func TestAStoppedRunReturnsTheCause(t *testing.T) {
	st := qemuimgtest.NewStarter(t)
	why := errors.New("stopped by client")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := qemuimg.ReadInfo(ctx, st, qemuimg.Image{Path: "/x", Format: qemuimg.Raw})
	if !errors.Is(err, why) {
		t.Fatal(err)
	}
	if len(st.Specs()) != 0 {
		t.Fatal("a worker was started after the stop")
	}
}
