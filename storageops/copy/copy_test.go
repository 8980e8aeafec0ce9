package copy

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

func TestEveryPairOfFormats(t *testing.T) {
	shapes := []struct {
		name     string
		size     int64
		capacity int64 // 0 = size
		write    []string
	}{
		{name: "empty", size: 16 * mib},
		{name: "one block", size: 4096, write: []string{"write -q -P 7 0 4k"}},
		{name: "sparse", size: 300 * mib, write: []string{"write -q -P 1 5M 3M", "write -q -P 2 69632000 512", "write -q -P 3 250M 1M"}},
		{name: "full", size: 45 * mib, write: []string{"write -q -P 9 0 45M"}},
		{name: "odd tail", size: 10*mib + 1536, capacity: qemuimg.RoundCapacity(10*mib + 1536), write: []string{"write -q -P 5 10M 1536"}},
		{name: "last extent at the end", size: 100*mib + 4096, write: []string{"write -q -P 5 0 1M", "write -q -P 6 100M 4096"}},
		{name: "larger destination", size: 3 * mib, capacity: 9 * mib, write: []string{"write -q -P 5 0 3M"}},
		{name: "zeros written", size: 20 * mib, write: []string{"write -q -P 0 0 5M", "write -q -P 1 5M 1M", "write -q -z 8M 2M"}},
	}
	forEachPair(t, func(t *testing.T, from, to string) {
		for _, c := range shapes {
			for _, fresh := range []bool{true, false} {
				name := c.name + " over a new image"
				if !fresh {
					name = c.name + " over old data"
				}
				t.Run(name, func(t *testing.T) {
					e, dir := newEnv(t), qemuimgtest.RAM(t)
					src := e.image(filepath.Join(dir, "source"), from, c.size)
					if len(c.write) > 0 {
						qemuimgtest.IO(t, src, c.write...)
					}
					capacity := max(c.size, c.capacity)
					s := e.spec(src, dir, to, capacity, nil)
					if !fresh {
						s.Dest.New = false
						qemuimgtest.IO(t, s.dest(), "write -q -P 255 0 "+itoa(min(capacity, 40*mib)))
						if capacity > 60*mib {
							qemuimgtest.IO(t, s.dest(), "write -q -P 254 "+itoa(capacity-mib)+" 1M")
						}
					}
					e.mustRun(s, nil)
				})
			}
		}
	})
}

// A raw source may have any length. What follows it in the destination is zeros.
func TestRawSourceThatIsNoMultipleOfASector(t *testing.T) {
	for _, to := range []string{qemuimg.Raw, qemuimg.QCOW2} {
		for _, size := range []int64{1, 511, 1000, 4097, 2*mib + 13} {
			t.Run(to+" "+itoa(size), func(t *testing.T) {
				e, dir := newEnv(t), qemuimgtest.RAM(t)
				src := qemuimg.Image{Path: filepath.Join(dir, "source"), Format: qemuimg.Raw}
				if err := os.WriteFile(src.Path, []byte(strings.Repeat("x", int(size))), 0o600); err != nil {
					t.Fatal(err)
				}
				s := e.spec(src, dir, to, qemuimg.RoundCapacity(size), nil)
				e.mustRun(s, nil)
				s.Dest.New = false
				qemuimgtest.IO(t, s.dest(), "write -q -P 255 0 "+itoa(s.Capacity))
				e.mustRun(s, nil)
			})
		}
	}
}

func TestNamesWithCommas(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e, dir := newEnv(t), filepath.Join(qemuimgtest.RAM(t), `a,b =:"é`)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		src := e.image(filepath.Join(dir, "so,urce%d"), from, 4*mib)
		qemuimgtest.IO(t, src, "write -q -P 1 1M 1M")
		e.mustRun(e.spec(src, dir, to, 4*mib, nil), nil)
	})
}

// ramfs refuses O_DIRECT.
func TestWhereDirectIsRefused(t *testing.T) {
	ram := t.TempDir()
	qemuimgtest.Command(t, "mount", "-t", "ramfs", "none", ram)
	t.Cleanup(func() { qemuimgtest.Command(t, "umount", ram) })
	if ok, err := takesDirect(touch(t, filepath.Join(ram, "probe")), os.O_RDWR); ok || err != nil {
		t.Fatalf("ramfs takes O_DIRECT: %v, %v", ok, err)
	}
	forEachPair(t, func(t *testing.T, from, to string) {
		for _, where := range []string{"source", "destination", "both"} {
			t.Run(where, func(t *testing.T) {
				e := newEnv(t)
				srcDir, dstDir, modes := t.TempDir(), t.TempDir(), []string{"-T", "none", "-t", "none"}
				if where != "destination" {
					srcDir, modes[1] = filepath.Join(ram, t.Name()), "writeback"
				}
				if where != "source" {
					dstDir, modes[3] = filepath.Join(ram, t.Name()), "writeback"
				}
				for _, d := range []string{srcDir, dstDir} {
					if err := os.MkdirAll(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				src := e.image(filepath.Join(srcDir, "source"), from, 24*mib+512)
				qemuimgtest.IO(t, src, "write -q -P 1 1M 3M", "write -q -P 2 24M 512")
				e.mustRun(e.spec(src, dstDir, to, 24*mib+4096, nil), nil)
				e.mustHaveModes(modes)
				if err := errors.Join(os.Remove(filepath.Join(srcDir, "source")), os.Remove(filepath.Join(dstDir, "copied"))); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// mustHaveModes proves that every convert had these cache modes: the default would be unsafe.
func (e *env) mustHaveModes(modes []string) {
	e.t.Helper()
	for _, s := range e.Specs() {
		if len(s.Argv) > 1 && s.Argv[1] == "convert" && !strings.Contains(strings.Join(s.Argv, " "), strings.Join(modes, " ")) {
			e.t.Errorf("%q does not say %q", s.Argv, modes)
		}
	}
}

// The destination is open before the first slice is started, and every slice is around the page cache.
func TestOrderOfOpens(t *testing.T) {
	e, dir := newEnv(t), t.TempDir()
	src := e.image(filepath.Join(dir, "source"), qemuimg.QCOW2, manyCapacity)
	manySlices(t, src)
	s := e.spec(src, dir, qemuimg.QCOW2, manyCapacity, nil)
	before := len(e.Specs())
	e.mustRun(s, nil)
	e.mustHaveModes([]string{"-T", "none", "-t", "none"})
	kept, converts := false, 0
	for _, p := range e.Specs()[before:] {
		switch p.Argv[1] {
		case WorkerCommand:
			kept = true
		case "convert":
			if converts++; !kept {
				t.Error("a slice was started before the destination was open")
			}
		}
	}
	if converts != 5 {
		t.Errorf("%d slices, not 5", converts)
	}
}

func TestOverlays(t *testing.T) {
	for _, depth := range []int{1, 3} {
		for _, baseFormat := range []string{qemuimg.Raw, qemuimg.QCOW2} {
			t.Run(itoa(int64(depth))+" over "+baseFormat, func(t *testing.T) {
				e := newEnv(t)
				from, to := qemuimgtest.RAM(t), qemuimgtest.RAM(t)
				src := e.chain(from, depth, baseFormat)
				var backing []Layer
				for _, l := range src.Backing { // the destination's chain: the same files, elsewhere
					path := filepath.Join(to, filepath.Base(l.Path))
					qemuimgtest.Command(t, "cp", "--sparse=always", l.Path, path)
					backing = append(backing, Layer{Path: path, Format: l.Format})
				}
				s := e.spec(src, to, qemuimg.QCOW2, 80*mib, nil, backing...)
				e.mustRun(s, nil)
				if want, got := e.layout(src), e.layout(s.dest()); !reflect.DeepEqual(want, got) {
					t.Fatalf("the layers of the copy are\n%+v\nand not\n%+v", got, want)
				}
				if want, got := e.layout(src.Alone()), e.layout(s.dest().Alone()); !reflect.DeepEqual(want, got) {
					t.Fatalf("the top of the copy is\n%+v\nand not\n%+v", got, want)
				}
				info, err := qemuimg.ReadInfo(t.Context(), e, s.dest())
				if err != nil || info.Backing != filepath.Base(backing[0].Path) {
					t.Fatal(info, err)
				}
			})
		}
	}
}

// chain makes a chain of depth layers under a top that has data, zeros over data, discarded clusters, parts of clusters, and
// is longer than what is below.
func (e *env) chain(dir string, depth int, baseFormat string) qemuimg.Image {
	e.t.Helper()
	img := e.image(filepath.Join(dir, "layer0"), baseFormat, 64*mib)
	qemuimgtest.IO(e.t, img, "write -q -P 1 0 30M", "write -q -P 2 60M 4M")
	for n := 1; n <= depth; n++ {
		capacity := int64(64 * mib)
		if n == depth {
			capacity = 80 * mib
		}
		below := append([]Layer{{Path: img.Path, Format: img.Format}}, img.Backing...)
		img = e.image(filepath.Join(dir, "layer"+itoa(int64(n))), qemuimg.QCOW2, capacity, below...)
		qemuimgtest.IO(e.t, img, "write -q -P "+itoa(int64(10+n))+" "+itoa(int64(n)*5*mib)+" 2M",
			"write -q -z "+itoa(int64(n)*5*mib+mib)+" 512k", "write -q -P 77 "+itoa(int64(n)*7*mib+1024)+" 512")
	}
	qemuimgtest.IO(e.t, img, "write -q -z 2M 3M", "discard -q 61M 1M", "write -q -P 9 79M 1M")
	return img
}

// layout is the map of an image without what differs between copies (offsets in the file are not read at all).
func (e *env) layout(img qemuimg.Image) []qemuimg.Extent {
	e.t.Helper()
	var all []qemuimg.Extent
	err := qemuimg.Map(e.t.Context(), e, img, func(x qemuimg.Extent) error {
		if n := len(all); n > 0 { // neighbours that are alike are one: their clusters only lie apart
			l := all[n-1]
			if l.End() == x.Start && l.Depth == x.Depth && l.Present == x.Present && l.Zero == x.Zero && l.Data == x.Data {
				all[n-1].Length += x.Length
				return nil
			}
		}
		all = append(all, x)
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return all
}

func TestAnOverlayCanBeFlattened(t *testing.T) {
	for _, to := range []string{qemuimg.Raw, qemuimg.QCOW2} {
		t.Run(to, func(t *testing.T) {
			e := newEnv(t)
			src := e.chain(qemuimgtest.RAM(t), 3, qemuimg.Raw)
			e.mustRun(e.spec(src, qemuimgtest.RAM(t), to, 80*mib, nil), nil)
		})
	}
}

// A whole image over a chain: nothing of the chain may be seen through it.
func TestAWholeImageOverAnOverlay(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		if to == qemuimg.Raw {
			return
		}
		e, dir := newEnv(t), qemuimgtest.RAM(t)
		src := e.image(filepath.Join(dir, "source"), from, 32*mib)
		qemuimgtest.IO(t, src, "write -q -P 1 4M 1M")
		below := e.image(filepath.Join(dir, "below"), qemuimg.QCOW2, 64*mib)
		qemuimgtest.IO(t, below, "write -q -P 2 0 64M")
		e.mustRun(e.spec(src, dir, to, 64*mib, nil, Layer{Path: below.Path, Format: below.Format}), nil)
	})
}

func TestAnOverlayIsNotCopiedOverOldData(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	src := e.chain(qemuimgtest.RAM(t), 1, qemuimg.Raw)
	recreated := 0
	s := e.spec(src, dir, qemuimg.QCOW2, 80*mib, &recreated, src.Backing...)
	s.Dest.New = false
	e.mustRun(s, nil) // it is blank
	if recreated != 0 {
		t.Fatal("a blank destination was made anew")
	}
	e.mustRun(s, nil) // it is not
	if recreated != 1 {
		t.Fatalf("the destination was made anew %d times", recreated)
	}
	s.Recreate = nil
	if err := Run(t.Context(), e, s, nil); code.Of(err) != code.VolumeCopy {
		t.Fatal(err)
	}
}

func TestBitmaps(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	src := e.image(filepath.Join(dir, "source"), qemuimg.QCOW2, 64*mib)
	for _, b := range []struct {
		name     string
		disabled bool
	}{{"on", false}, {"off", true}} {
		if err := qemuimg.AddBitmap(t.Context(), e, src, b.name, 131072, b.disabled); err != nil {
			t.Fatal(err)
		}
	}
	qemuimgtest.IO(t, src, "write -q -P 1 1M 1M")
	s := e.spec(src, dir, qemuimg.QCOW2, 64*mib, nil)
	s.Bitmaps = true
	e.mustRun(s, nil)
	want, err := qemuimg.ReadInfo(t.Context(), e, src)
	if err != nil {
		t.Fatal(err)
	}
	state := e.states[0]
	for range 2 { // the second time they are there already
		got, err := qemuimg.ReadInfo(t.Context(), e, s.dest())
		if err != nil || !reflect.DeepEqual(got.Bitmaps, want.Bitmaps) {
			t.Fatalf("%+v, %v", got.Bitmaps, err)
		}
		e.mustRun(s, &state)
	}
	if a, b := e.dirty(s.dest(), "on"), e.dirty(src, "on"); a != b {
		t.Fatalf("the bitmap marks %s in the copy and %s in the source", a, b)
	}
	if !strings.Contains(e.dirty(src, "on"), "1048576") {
		t.Fatal("the source's bitmap is empty: ", e.dirty(src, "on"))
	}
}

// dirty is what a bitmap marks, by the map of an NBD export.
func (e *env) dirty(img qemuimg.Image, name string) string {
	e.t.Helper()
	node := "json:" + `{"driver":"qcow2","file":{"driver":"file","filename":"` + img.Path + `"}}`
	return qemuimgtest.Command(e.t, "sh", "-c", `
		qemu-nbd -r -t --socket="$2" --bitmap="$1" --fork --pid-file="$2.pid" "$0" &&
		qemu-img map --output=json --image-opts "driver=nbd,server.type=unix,server.path=$2,x-dirty-bitmap=qemu:dirty-bitmap:$1"
		kill "$(cat "$2.pid")"; tail --pid="$(cat "$2.pid")" -f /dev/null`,
		node, name, filepath.Join(e.t.TempDir(), "s"))
}

func TestPreallocatedStaysAllocated(t *testing.T) {
	for _, from := range []string{qemuimg.Raw, qemuimg.QCOW2} {
		for _, fresh := range []bool{true, false} {
			t.Run(from, func(t *testing.T) {
				e := newEnv(t)
				dir, _ := qemuimgtest.Mount(t, "xfs", 600)
				src := e.image(filepath.Join(dir, "source"), from, 64*mib)
				qemuimgtest.IO(t, src, "write -q -P 1 4M 8M", "write -q -P 0 20M 8M")
				s := e.spec(src, dir, qemuimg.Raw, 64*mib, nil)
				s.Dest.Preallocated, s.Dest.New = true, fresh
				if err := Allocate(t.Context(), e, s.Dest.Path, 4096, s.Capacity, nil); err != nil {
					t.Fatal(err)
				}
				if !fresh {
					qemuimgtest.IO(t, s.dest(), "write -q -P 99 0 30M")
				}
				want := allocated(t, s.Dest.Path)
				if want < s.Capacity-4096 {
					t.Fatalf("only %d bytes were allocated", want)
				}
				e.mustRun(s, nil)
				if got := allocated(t, s.Dest.Path); got < want {
					t.Fatalf("%d bytes are allocated of %d", got, want)
				}
				if out := qemuimgtest.Command(t, "filefrag", "-v", s.Dest.Path); strings.Contains(out, "shared") {
					t.Fatal("it shares blocks with its source:\n", out)
				}
			})
		}
	}
}

func TestRawIsClonedWhereItCanBe(t *testing.T) {
	e := newEnv(t)
	dir, _ := qemuimgtest.Mount(t, "xfs", 1500)
	src := e.image(filepath.Join(dir, "source"), qemuimg.Raw, 512*mib+512)
	qemuimgtest.IO(t, src, "write -q -P 1 0 300M", "write -q -P 2 512M 512")
	s := e.spec(src, dir, qemuimg.Raw, 512*mib+4096, nil)
	e.mustRun(s, nil)
	if out := qemuimgtest.Command(t, "filefrag", "-v", s.Dest.Path); !strings.Contains(out, "shared") {
		t.Fatal("nothing is shared:\n", out)
	}
	s.Dest.New = false // over old data
	qemuimgtest.IO(t, s.dest(), "write -q -P 9 290M 100M")
	e.mustRun(s, nil)
}

// The ways to copy raw, each by itself: the last falls back from nothing.
func TestEachMethodOfTheRawWorker(t *testing.T) {
	for _, method := range []string{methodClone, methodKernel, methodDirect} {
		for _, blank := range []bool{true, false} {
			t.Run(method, func(t *testing.T) {
				e, dir := newEnv(t), t.TempDir()
				src := e.image(filepath.Join(dir, "source"), qemuimg.Raw, manyCapacity)
				manySlices(t, src)
				s := e.spec(src, dir, qemuimg.Raw, manyCapacity, nil)
				if !blank {
					qemuimgtest.IO(t, s.dest(), "write -q -P 255 0 30M", "write -q -P 255 50M 30M")
				}
				r := &run{env: e, spec: s}
				if err := r.openKeeper(t.Context()); err != nil {
					t.Fatal(err)
				}
				c := rawCopy{Capacity: manyCapacity, MinSlice: smallSlice, Blank: blank, Method: method}
				if err := r.keeper.command(r.follow, cmdCopy, c.String()); err != nil {
					t.Fatal(err)
				}
				if err := r.keeper.close(); err != nil {
					t.Fatal(err)
				}
				e.mustBeCopied(s)
				if len(e.states) < 2 {
					t.Errorf("%d checkpoints", len(e.states))
				}
			})
		}
	}
}

// Blocks of zeros in the data of a raw source become holes.
func TestZerosInDataBecomeHoles(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	src := e.image(filepath.Join(dir, "source"), qemuimg.Raw, 32*mib)
	qemuimgtest.IO(t, src, "write -q -P 0 0 32M", "write -q -P 1 3M 64k", "write -q -P 1 9000k 1k")
	s := e.spec(src, dir, qemuimg.Raw, 32*mib, nil)
	e.mustRun(s, nil)
	if got := allocated(t, s.Dest.Path); got > mib {
		t.Fatalf("%d bytes are allocated", got)
	}
}

func TestImpossibleCopiesAreRefused(t *testing.T) {
	e, dir := newEnv(t), qemuimgtest.RAM(t)
	raw := e.image(filepath.Join(dir, "raw"), qemuimg.Raw, 8*mib)
	cow := e.image(filepath.Join(dir, "cow"), qemuimg.QCOW2, 8*mib)
	for name, change := range map[string]func(*Spec){
		"relative path":         func(s *Spec) { s.Dest.Path = "x" },
		"unknown format":        func(s *Spec) { s.Source.Format = "vmdk" },
		"no capacity":           func(s *Spec) { s.Capacity = 0 },
		"too small":             func(s *Spec) { s.Capacity = 4 * mib },
		"too small, raw source": func(s *Spec) { s.Capacity, s.Source = 4*mib, Source{Path: raw.Path, Format: raw.Format} },
		"raw with backing":      func(s *Spec) { s.Dest.Backing = []Layer{{Path: cow.Path, Format: cow.Format}} },
		"bitmaps to raw":        func(s *Spec) { s.Bitmaps = true },
		"source is missing":     func(s *Spec) { s.Source.Path += "-missing" },
		"destination missing":   func(s *Spec) { s.Dest.Path += "-missing" },
		"not of the format":     func(s *Spec) { s.Source.Path = raw.Path },
	} {
		t.Run(name, func(t *testing.T) {
			s := e.spec(cow, qemuimgtest.RAM(t), qemuimg.Raw, 8*mib, nil)
			change(&s)
			err := Run(t.Context(), e, s, nil)
			if c := code.Of(err); err == nil || c == code.General || c == code.InternalError {
				t.Fatalf("answered %v (%d)", err, c)
			}
			e.MustBeGone()
		})
	}
}
