package domain

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain/hangfs"
)

// hanging adds a root on a file system that can hang, with a domain in it.
func hanging(t *testing.T, x *fixture) *hangfs.FS {
	t.Helper()
	at := t.TempDir()
	fs, err := hangfs.Mount(t.TempDir(), at)
	x.must(err)
	t.Cleanup(func() {
		x.reg.Close()
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	x.must(x.reg.AddRoot(at))
	_, err = x.reg.Create(spec(at))
	x.must(err)
	return fs
}

// TestHang: a root that hangs is an error that says so, and hinders nobody who asks for what is in another one.
func TestHang(t *testing.T) {
	x := newFixture(t)
	fs := hanging(t, x)
	both := x.reg.List()
	if len(both) != 2 {
		t.Fatalf("got %v", both)
	}
	fs.Hang()
	_, err := x.reg.Get(newSD)
	wantCode(t, err, code.DomainAccess, "not answered")
	var hangs *NoAnswerError
	if !errors.As(err, &hangs) {
		t.Fatalf("got %T", err)
	}
	<-fs.Hung()

	if got := x.reg.List(); !slices.Equal(got, both) {
		t.Errorf("the list is %v, and was %v", got, both)
	}
	roots, err := x.reg.Roots()
	x.must(err)
	for _, root := range roots {
		if hung := errors.As(root.Err, &hangs); hung == (root.Path == x.root) {
			t.Errorf("root %s answers %v", root.Path, root.Err)
		}
	}
	if _, err := x.reg.Get(sdUUID); err != nil {
		t.Errorf("the other domain: %v", err)
	}
	// One that is nowhere to be seen may be in the root that hangs.
	_, err = x.reg.Get(nowhere)
	wantCode(t, err, code.DomainAccess, "not answered")
	// A domain can be opened, made and destroyed elsewhere.
	other := filepath.Join(t.TempDir(), "other")
	x.must(os.Mkdir(other, dirMode))
	x.must(x.reg.AddRoot(other))
	s := spec(other)
	s.UUID = "99999999-0000-4000-8000-000000000002"
	_, err = x.reg.Create(s)
	x.must(err)
	x.must(x.reg.Remove(s.UUID))

	fs.Release()
	<-hangs.Over()
	if _, err := x.reg.Get(newSD); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// TestHangAtStart: a registry opens, and closes, while one of its roots hangs.
func TestHangAtStart(t *testing.T) {
	x := newFixture(t)
	fs := hanging(t, x)
	x.reg.Close()
	fs.Hang()
	reg, err := OpenRegistry(Options{Dir: x.state, Owner: Owner{UID: -1, GID: -1}, Log: zerolog.Nop()})
	x.must(err)
	if _, err := reg.Get(sdUUID); err != nil {
		t.Errorf("the other domain: %v", err)
	}
	reg.Close()
	fs.Release()
}
