package domain

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

func TestRemote(t *testing.T) {
	for spec, want := range map[string]string{
		"host:/export/":   "host:/export",
		"host://a//../b":  "host:/b",
		"host:/":          "host:/",
		"[fe80::1]:/x/":   "[fe80::1]:/x",
		"/dev/vdb/":       "/dev/vdb",
		"//server/share/": "//server/share",
		"///dev//vdb":     "/dev/vdb",
		"mon:6789:/":      "mon:6789:/",
		"-o":              "",
		"":                "",
		"a\nb":            "",
	} {
		got, err := Remote(spec)
		if got != want || (err != nil) != (want == "") || err != nil && code.Of(err) != code.InvalidParameter {
			t.Errorf("%q is %q, %v; want %q", spec, got, err, want)
		}
	}
}

// A mount point is a root under VDSM's name for it as long as something is mounted there.
func TestMountedRoot(t *testing.T) {
	x := newFixture(t)
	remote := "host:/a b_c\\d"
	point := x.reg.MountPoint(remote)
	if filepath.Base(point) != "host:_a b__c\\d" {
		t.Fatalf("it is mounted at %s", point)
	}
	roots := func(want int) {
		t.Helper()
		all, err := x.reg.Roots()
		if err != nil || len(all) != want {
			t.Errorf("the roots are %v, %v", all, err)
		}
	}
	x.must(os.Mkdir(point, 0o755))
	roots(1)
	if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
		t.Fatalf("this test mounts a tmpfs, so it must run as root: %v", err)
	}
	mounted := true
	t.Cleanup(func() {
		if mounted {
			x.must(unix.Unmount(point, unix.MNT_DETACH))
		}
	})
	roots(2)
	s := spec(point)
	d, err := x.reg.Create(s)
	x.must(err)
	if ids := x.reg.In(point); len(ids) != 1 || ids[0] != s.UUID {
		t.Errorf("in it are %v", ids)
	}
	if err := unix.Unmount(point, 0); err != unix.EBUSY {
		t.Errorf("what is claimed can be unmounted: %v", err)
	}
	x.reg.Release(point)
	wantCode(t, setLegality(imgA, volLeaf, Illegal)(d), code.AcquireLock)
	x.must(unix.Unmount(point, 0))
	mounted = false
	roots(1)
	_, err = x.reg.Get(s.UUID)
	wantCode(t, err, code.DomainDoesNotExist)
}
