package domain

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// newFixtureOnDisk has its root on a small file system of its own, which is made by mkfs and mounted by a loop device.
func newFixtureOnDisk(t *testing.T, mkfs ...string) *fixture {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 512<<20); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	run(t, append(mkfs, disk)...)
	run(t, "mount", "-o", "loop", disk, root)
	t.Cleanup(func() { run(t, "umount", root) })
	return newFixtureIn(t, t.TempDir(), root)
}

func run(t *testing.T, command ...string) {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s (needs root, mount, e2fsprogs and xfsprogs): %v\n%s", strings.Join(command, " "), err, out)
	}
}

// ext4 without room reserved for root, so that full means full.
var (
	ext4 = []string{"mke2fs", "-q", "-t", "ext4", "-m", "0"}
	xfs  = []string{"mkfs.xfs", "-q", "-f"}
)

func remount(t *testing.T, root, how string) {
	t.Helper()
	run(t, "mount", "-o", "remount,"+how, root)
}

func TestReadOnlyFileSystem(t *testing.T) {
	x := newFixtureOnDisk(t, ext4...)
	remount(t, x.root, "ro")
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.DomainAccess, x.root, "writable")
	wantCode(t, x.d.Writable(), code.DomainAccess, x.root)
	wantCode(t, setLegality(imgA, volLeaf, Illegal)(x.d), code.DomainAccess, x.root)
	wantCode(t, put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d), code.DomainAccess, x.root)
	_, err = x.reg.Create(spec(x.root))
	wantCode(t, err, code.DomainAccess, x.root)

	d, err := x.reg.GetReadOnly(sdUUID) // reading goes on
	x.must(err)
	_, err = d.Chain(imgA, volLeaf)
	x.must(err)
	x.reg.Close()
	x.open()
	_, err = x.reg.GetReadOnly(sdUUID)
	x.must(err)
	_, err = x.reg.Get(sdUUID)
	wantCode(t, err, code.DomainAccess, x.root)

	remount(t, x.root, "rw")
	x.claim() // by itself
	x.must(setLegality(imgA, volLeaf, Illegal)(x.d))
}

// fill takes all the room there is, in files outside the domain.
func (x *fixture) fill() {
	x.t.Helper()
	f, err := os.Create(filepath.Join(x.root, "filler"))
	x.must(err)
	defer f.Close()
	for chunk := int64(1 << 20); chunk >= 4096; {
		end, err := f.Seek(0, 2)
		x.must(err)
		err = unix.Fallocate(int(f.Fd()), 0, end, chunk)
		switch {
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		case err != nil:
			x.t.Fatal(err)
		}
	}
	x.must(f.Sync())
}

// A full domain can be emptied: deletes move to the trash, and reclaim works, though nothing else has room.
func TestFullFileSystem(t *testing.T) {
	for name, mkfs := range map[string][]string{"ext4": ext4, "xfs": xfs} {
		t.Run(name, func(t *testing.T) { emptyFullDomain(t, newFixtureOnDisk(t, mkfs...)) })
	}
}

func emptyFullDomain(t *testing.T, x *fixture) {
	x.allocate(volumeFile(imgA, volLeaf), 4<<20)
	x.fill()
	_, err := x.reg.Create(spec(x.root))
	wantCode(t, err, code.NoSpaceLeftOnDomain, x.root, "trash")
	x.must(setLegality(imgA, volLeaf, Illegal)(x.d))
	x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d))
	if x.exists(reserveFile) {
		t.Fatal("the reserve was not needed: the test is worth nothing")
	}
	x.fill()
	x.restart() // a full domain can be claimed
	before, err := x.d.Free()
	x.must(err)
	x.must(x.d.Trash().Remove(context.Background(), taskOne, nil))
	after, err := x.d.Free()
	x.must(err)
	if after-before < 2<<20 {
		t.Fatalf("%d bytes are free, %d were before", after, before)
	}
	if fi, err := os.Lstat(x.path(reserveFile)); err != nil || allocated(fi) < reserveSize {
		t.Fatalf("the reserve was not made again: %v", err)
	}
}

func TestNoRoomWithoutReserve(t *testing.T) {
	x := newFixtureOnDisk(t, ext4...)
	x.fill()
	x.must(os.Remove(x.path(reserveFile)))
	x.fill()
	before := x.snapshot(true)
	err := setLegality(imgA, volLeaf, Illegal)(x.d)
	wantCode(t, err, code.NoSpaceLeftOnDomain, "trash")
	x.restart()
	equal(t, "after the refusal", x.snapshot(true), before)
}
