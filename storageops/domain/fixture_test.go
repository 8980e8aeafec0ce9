package domain

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

const (
	sdUUID   = "11111111-2222-4333-8444-555555555555"
	imgA     = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee" // base ← leaf
	imgTmpl  = "cccccccc-0000-4000-8000-000000000001" // a template
	imgB     = "bbbbbbbb-0000-4000-8000-000000000001" // derived from it
	imgC     = "bbbbbbbb-0000-4000-8000-000000000002" // derived from it, nothing of its own yet
	volBase  = "00000000-0000-4000-8000-00000000000a"
	volLeaf  = "00000000-0000-4000-8000-00000000000b"
	volTmpl  = "00000000-0000-4000-8000-00000000000c"
	volChild = "00000000-0000-4000-8000-00000000000d"
	taskOne  = "dddddddd-0000-4000-8000-000000000001"
	taskTwo  = "dddddddd-0000-4000-8000-000000000002"
	nowhere  = "eeeeeeee-0000-4000-8000-000000000009"
)

// fixture is a registry with one root and one domain in it, on the file system of the test's directory.
type fixture struct {
	t     testing.TB
	state string
	root  string
	owner Owner
	reg   *Registry
	d     *Domain
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureIn(t, t.TempDir(), t.TempDir())
}

// newFixtureInMemory is for tests that make thousands of changes: syncing costs nothing there.
func newFixtureInMemory(t *testing.T, memory string) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp(memory, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"state", "root"} {
		if err := os.Mkdir(filepath.Join(dir, sub), dirMode); err != nil {
			t.Fatal(err)
		}
	}
	return newFixtureIn(t, filepath.Join(dir, "state"), filepath.Join(dir, "root"))
}

// memoryFS mounts a tmpfs for the length of the test.
func memoryFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("this test mounts a tmpfs, so it must run as root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newFixtureIn(t testing.TB, state, root string) *fixture {
	t.Helper()
	x := &fixture{t: t, state: state, root: root, owner: Owner{-1, -1}}
	x.layOut()
	x.open()
	if err := x.reg.AddRoot(root); err != nil {
		t.Fatal(err)
	}
	x.claim()
	t.Cleanup(func() { x.reg.Close() })
	return x
}

// layOut makes the domain by hand, as VDSM would, with its images.
func (x *fixture) layOut() {
	for _, dir := range []string{mdDir, imagesDir} {
		x.must(os.MkdirAll(x.path(dir), dirMode))
	}
	x.put(idsFile, "", dataMode)
	x.put(metadataFile, exampleDomain, metaMode)
	x.volume(imgA, volBase, BlankUUID, Internal)
	x.volume(imgA, volLeaf, volBase, Leaf)
	x.volume(imgTmpl, volTmpl, BlankUUID, Shared)
	for _, img := range []string{imgB, imgC} {
		x.must(os.MkdirAll(x.path(imageDir(img)), dirMode))
		for _, suffix := range []string{"", metaSuffix} {
			x.must(os.Link(x.path(volumeFile(imgTmpl, volTmpl)+suffix), x.path(volumeFile(img, volTmpl)+suffix)))
		}
	}
	x.volume(imgB, volChild, volTmpl, Leaf)
}

func (x *fixture) open() {
	x.t.Helper()
	reg, err := OpenRegistry(Options{Dir: x.state, Owner: x.owner, Name: "agent-under-test", Log: zerolog.Nop()})
	x.must(err)
	x.reg = reg
}

func (x *fixture) claim() {
	x.t.Helper()
	d, err := x.reg.Get(sdUUID)
	x.must(err)
	x.d = d
}

// restart is what is left of the agent after a crash: nothing but the file system.
func (x *fixture) restart() {
	x.t.Helper()
	x.reg.Close()
	x.open()
	x.claim()
}

func (x *fixture) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *fixture) path(name string) string { return filepath.Join(x.root, sdUUID, name) }

func (x *fixture) put(name, content string, mode fs.FileMode) {
	x.t.Helper()
	x.must(os.WriteFile(x.path(name), []byte(content), mode))
	x.must(os.Chmod(x.path(name), mode))
	x.must(os.Chtimes(x.path(name), time.Time{}, time.Unix(1700000000+int64(len(name)+len(content)), 123456789)))
}

func (x *fixture) volume(img, vol, parent, volType string) {
	x.t.Helper()
	x.must(os.MkdirAll(x.path(imageDir(img)), dirMode))
	x.put(volumeFile(img, vol), "data of "+vol, dataMode)
	data, err := testMeta(img, parent, volType).Encode()
	x.must(err)
	x.put(metaFile(img, vol), string(data), metaMode)
}

func testMeta(img, parent, volType string) VolumeMeta {
	return VolumeMeta{
		Capacity: 1 << 30, CTime: time.Unix(1700000000, 0).UTC(), Description: `{"DiskAlias":"d1","DiskDescription":""}`,
		DiskType: "DATA", Domain: sdUUID, Format: FormatCOW, Image: img, Legality: Legal, PUUID: parent, Sequence: 1,
		Type: Sparse, VolType: volType,
	}
}

// exists answers whether there is anything of that name in the domain.
func (x *fixture) exists(name string) bool {
	_, err := os.Lstat(x.path(name))
	return err == nil
}

// snapshot describes everything in the domain that lasts: names, modes, owners, link counts, contents; with times,
// also when regular files in images were written.
func (x *fixture) snapshot(times bool) string {
	x.t.Helper()
	var lines []string
	top := x.path(".")
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil || name == claimFile || name == reserveFile {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := sysStat(fi)
		line := fmt.Sprintf("%s %s %d:%d", name, fi.Mode(), st.Uid, st.Gid)
		if fi.Mode().IsRegular() {
			line += fmt.Sprintf(" links=%d %s", st.Nlink, x.digest(path))
			if times && strings.HasPrefix(name, imagesDir) {
				line += fi.ModTime().UTC().Format(" 15:04:05.000000000")
			}
		}
		lines = append(lines, line)
		return nil
	})
	x.must(err)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// digest is the content, of a manifest only what does not change from run to run.
func (x *fixture) digest(path string) string {
	data, err := os.ReadFile(path)
	x.must(err)
	if base := filepath.Base(path); base == manifestName || base == reclaimName {
		var m Manifest
		x.must(json.Unmarshal(data, &m))
		var s strings.Builder
		for _, it := range m.Items {
			fmt.Fprintf(&s, "%s %s %s/%s %s", it.Label, it.Kind, it.Image, it.Volume, it.Dir)
			for _, f := range it.Files {
				fmt.Fprintf(&s, " %s:%d", f.Name, f.Size)
			}
		}
		data = []byte(s.String())
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))[:12]
}

func wantCode(t *testing.T, err error, want code.Code, words ...string) {
	t.Helper()
	if code.Of(err) != want {
		t.Fatalf("got code %d (%v), want %d", code.Of(err), err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("%q does not say %q", err, w)
		}
	}
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	var diff strings.Builder
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range g {
		if !slices.Contains(w, line) {
			fmt.Fprintf(&diff, "\n  got  %s", line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			fmt.Fprintf(&diff, "\n  want %s", line)
		}
	}
	t.Fatalf("%s:%s", what, diff.String())
}

// allocate makes the file so long, with room on disk for all of it.
func (x *fixture) allocate(name string, size int64) {
	x.t.Helper()
	f, err := os.OpenFile(x.path(name), os.O_RDWR, 0)
	x.must(err)
	x.must(unix.Fallocate(int(f.Fd()), 0, 0, size))
	x.must(f.Close())
}

func benchFixture(b *testing.B) *fixture {
	b.Helper()
	return newFixtureIn(b, b.TempDir(), b.TempDir())
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
