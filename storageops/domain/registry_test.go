package domain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

const newSD = "99999999-0000-4000-8000-000000000001"

func spec(root string) CreateSpec {
	return CreateSpec{UUID: newSD, Path: root, Name: "new one", Type: TypeLocalFS, Class: "Data", Version: 5}
}

func TestRoots(t *testing.T) {
	x := newFixture(t)
	other := filepath.Join(t.TempDir(), "with_under", "score")
	x.must(os.MkdirAll(other, dirMode))
	for range 2 {
		x.must(x.reg.AddRoot(other + "/"))
	}
	link := filepath.Join(x.state, "mnt", strings.ReplaceAll(strings.ReplaceAll(other, "_", "__"), "/", "_"))
	if to, err := os.Readlink(link); err != nil || to != other {
		t.Fatalf("%s is a link to %q, %v", link, to, err)
	}
	roots, err := x.reg.Roots()
	x.must(err)
	want := []Root{{x.root, nil}, {other, nil}}
	slices.SortFunc(want, func(a, b Root) int { return strings.Compare(a.Path, b.Path) })
	if !slices.Equal(roots, want) {
		t.Fatalf("got %v", roots)
	}
	wantCode(t, x.reg.AddRoot("relative"), code.InvalidParameter, "absolute")
	wantCode(t, x.reg.AddRoot(filepath.Join(other, "missing")), code.DomainAccess, "missing", "mounted")
	x.put("file", "", metaMode)
	wantCode(t, x.reg.AddRoot(x.path("file")), code.DomainAccess, "file")
	x.must(os.Remove(link))
	x.must(os.Symlink("/elsewhere", link))
	wantCode(t, x.reg.AddRoot(other), code.DomainAccess, link)
}

func TestListAndGet(t *testing.T) {
	x := newFixture(t)
	if got := x.reg.List(); !slices.Equal(got, []string{sdUUID}) {
		t.Fatalf("got %v", got)
	}
	// None of these is a domain.
	x.must(os.Mkdir(filepath.Join(x.root, newSD), dirMode))
	x.must(os.Symlink(x.path("."), filepath.Join(x.root, nowhere)))
	x.must(os.Mkdir(filepath.Join(x.root, "lost+found"), dirMode))
	if got := x.reg.List(); !slices.Equal(got, []string{sdUUID}) {
		t.Fatalf("got %v", got)
	}
	for _, id := range []string{newSD, nowhere} {
		_, err := x.reg.Get(id)
		wantCode(t, err, code.DomainDoesNotExist, id)
	}
	_, err := x.reg.Get("../" + sdUUID[3:])
	wantCode(t, err, code.InvalidParameter, "UUID")
	again, err := x.reg.Get(sdUUID)
	x.must(err)
	if again != x.d || again.ID() != sdUUID || again.Path() != filepath.Join(x.root, sdUUID) {
		t.Fatalf("got another domain: %v %v", again.ID(), again.Path())
	}
	x.restart()
	if got := x.reg.List(); !slices.Equal(got, []string{sdUUID}) {
		t.Fatalf("after a restart: %v", got)
	}
}

func TestInfo(t *testing.T) {
	x := newFixture(t)
	got, err := x.d.Info()
	x.must(err)
	want := fmt.Sprintf("%+v", Info{UUID: sdUUID, Type: "LOCALFS", Class: "Data", Name: "local", Role: "Regular", Pool: []string{},
		Version: "5", BlockSize: 512, Alignment: 1 << 20, RemotePath: "/srv/local"})
	equal(t, "info", fmt.Sprintf("%+v", got), want)
	x.must(x.d.UpdateMeta(func(m *DomainMeta) error {
		m.Role, m.Pools = "Master", []string{imgA}
		m.Other["MASTER_VERSION"], m.Other["POOL_SPM_ID"], m.Other["POOL_SPM_LVER"] = "3", "-1", "-1"
		return nil
	}))
	got, err = x.d.Info()
	x.must(err)
	if *got.MasterVer != 3 || *got.SPMID != -1 || *got.LVer != -1 || got.Role != "Master" || got.Pool[0] != imgA {
		t.Fatalf("got %+v", got)
	}
	x.put(metadataFile, strings.Replace(exampleDomain, "local", "lokal", 1), metaMode)
	_, err = x.d.Info()
	wantCode(t, err, code.MetadataSealBroken, sdUUID)
	x.put(metadataFile, strings.ReplaceAll(exampleDomain, "_SHA_CKSUM", "X"), metaMode)
	x.must(os.Rename(filepath.Join(x.root, sdUUID), filepath.Join(x.root, newSD)))
	d, err := x.reg.GetReadOnly(newSD)
	x.must(err)
	_, err = d.Info()
	wantCode(t, err, code.DomainMetadata, sdUUID, newSD)
}

func TestStats(t *testing.T) {
	x := newFixture(t)
	x.allocate(volumeFile(imgA, volLeaf), 8<<20)
	before, err := x.d.Stats()
	x.must(err)
	x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf}, Entry{Label: "i", Image: imgB})(x.d))
	after, err := x.d.Stats()
	x.must(err)
	var st unix.Statfs_t
	x.must(unix.Statfs(x.root, &st))
	if before.Reclaimable != 0 || before.DiskTotal != int64(st.Blocks)*st.Bsize || before.DiskFree <= 0 {
		t.Fatalf("before: %+v", before)
	}
	// The template's data is not in it: it stays where its other links are.
	entries, err := x.d.Trash().List()
	x.must(err)
	if after.Reclaimable != entries[0].Bytes || after.Reclaimable < 8<<20 || after.Reclaimable > 8<<20+8*4096 {
		t.Fatalf("after: %+v", after)
	}
}

func TestDomainThatVanishes(t *testing.T) {
	x := newFixture(t)
	moved := x.root + ".away"
	x.must(os.Rename(x.root, moved))
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.DomainAccess, x.root)
	_, err = x.reg.Get(newSD) // it might be in the root that is away
	wantCode(t, err, code.DomainAccess, x.root)
	roots, err := x.reg.Roots()
	x.must(err)
	wantCode(t, roots[0].Err, code.DomainAccess, x.root)
	if got := x.reg.List(); len(got) != 0 {
		t.Fatalf("got %v", got)
	}

	x.must(os.Rename(moved, x.root))
	d, err := x.reg.Get(sdUUID)
	x.must(err)
	if d != x.d {
		t.Fatal("the same directory is another domain now")
	}

	// The root is there, the domain is not: an unmounted file system looks like that.
	x.must(os.Rename(x.path("."), moved))
	_, err = x.reg.Get(sdUUID)
	wantCode(t, err, code.DomainAccess, x.root)

	// Another directory of that name is another domain; who holds the old one is told.
	x.layOut()
	d, err = x.reg.Get(sdUUID)
	x.must(err)
	if d == x.d {
		t.Fatal("another directory is still the old domain")
	}
	_, err = x.d.Info()
	wantCode(t, err, code.DomainAccess)
	wantCode(t, setLegality(imgA, volLeaf, Illegal)(x.d), code.AcquireLock)
}

func TestSameDomainTwice(t *testing.T) {
	x := newFixture(t)
	other := t.TempDir()
	x.must(os.CopyFS(filepath.Join(other, sdUUID), os.DirFS(x.path("."))))
	x.must(x.reg.AddRoot(other))
	x.reg.Close()
	x.open()
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.DomainLayout, x.root, other)

	// One directory by two paths is one domain.
	x.must(os.RemoveAll(filepath.Join(other, sdUUID)))
	alias := filepath.Join(t.TempDir(), "alias")
	x.must(os.Symlink(x.root, alias))
	x.must(x.reg.AddRoot(alias))
	x.claim()
	if got := x.reg.List(); !slices.Equal(got, []string{sdUUID}) {
		t.Fatalf("got %v", got)
	}
}

func TestClosedRegistry(t *testing.T) {
	x := newFixture(t)
	x.reg.Close()
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.ShuttingDown)
	_, err = x.d.Images()
	wantCode(t, err, code.DomainAccess)
	x.reg.Close()
}

func TestCreate(t *testing.T) {
	x := newFixture(t)
	d, err := x.reg.Create(spec(x.root))
	x.must(err)
	info, err := d.Info()
	x.must(err)
	if info.Name != "new one" || info.UUID != newSD || info.RemotePath != x.root || info.Role != "Regular" {
		t.Fatalf("got %+v", info)
	}
	for name, want := range map[string]string{
		"": "drwxr-xr-x", "dom_md": "drwxr-xr-x", "images": "drwxr-xr-x", "dom_md/metadata": "-rw-r--r--", "dom_md/ids": "-rw-rw---- 0",
		"dom_md/leases": "-rw-rw---- 0", "dom_md/inbox": "-rw-rw---- 16777216", "dom_md/outbox": "-rw-rw---- 16777216",
	} {
		fi, err := os.Lstat(filepath.Join(d.Path(), name))
		x.must(err)
		if got := fmt.Sprint(fi.Mode(), " ", fi.Size()); !strings.HasPrefix(got, want) {
			t.Fatalf("%s is %s, want %s", name, got, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(d.Path(), "dom_md/xleases")); err == nil {
		t.Fatal("a LOCALFS domain has no xleases")
	}
	_, err = x.reg.Create(spec(x.root))
	wantCode(t, err, code.DomainAlreadyExists, newSD)
	other := t.TempDir()
	x.must(x.reg.AddRoot(other))
	_, err = x.reg.Create(spec(other)) // it exists in another root
	wantCode(t, err, code.DomainAlreadyExists, newSD)
}

func TestCreateRefuses(t *testing.T) {
	x := newFixture(t)
	x.must(os.Mkdir(filepath.Join(x.root, nowhere), dirMode))
	for _, c := range []struct {
		name   string
		change func(*CreateSpec)
		want   code.Code
		says   string
	}{
		{"old version", func(s *CreateSpec) { s.Version = 4 }, code.UnsupportedVersion, "version 5 is supported"},
		{"no version", func(s *CreateSpec) { s.Version = 0 }, code.UnsupportedVersion, "version 5 is supported"},
		{"GlusterFS", func(s *CreateSpec) { s.Type = "GLUSTERFS" }, code.DomainType, "LOCALFS, NFS, POSIXFS"},
		{"leases that nobody makes", func(s *CreateSpec) { s.Type = TypeNFS }, code.InternalError, "leases"},
		{"class", func(s *CreateSpec) { s.Class = "Data " }, code.InvalidParameter, "Data, Iso or Backup"},
		{"block size", func(s *CreateSpec) { s.BlockSize = 1024 }, code.InvalidParameter, "1024"},
		{"hosts", func(s *CreateSpec) { s.MaxHosts = 2001 }, code.InvalidParameter, "2001"},
		{"name of two lines", func(s *CreateSpec) { s.Name = "a\nb" }, code.InvalidParameter, "one line"},
		{"UUID", func(s *CreateSpec) { s.UUID = "x" }, code.InvalidParameter, "UUID"},
		{"not connected", func(s *CreateSpec) { s.Path = "/nowhere" }, code.DomainAccess, "connect it first"},
		{"a directory of that name", func(s *CreateSpec) { s.UUID = nowhere }, code.DomainAlreadyExists, nowhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec(x.root)
			c.change(&s)
			_, err := x.reg.Create(s)
			wantCode(t, err, c.want, c.says)
			if got := x.reg.List(); !slices.Equal(got, []string{sdUUID}) {
				t.Fatalf("now there is %v", got)
			}
		})
	}
}

func TestAlignment(t *testing.T) {
	for _, c := range []struct{ block, hosts, mib int }{
		{512, 2000, 1}, {4096, 250, 1}, {4096, 251, 2}, {4096, 500, 2}, {4096, 1000, 4}, {4096, 1001, 8}, {4096, 2000, 8},
	} {
		if got := alignment(c.block, c.hosts); got != c.mib<<20 {
			t.Errorf("%d hosts with blocks of %d: got %d", c.hosts, c.block, got)
		}
	}
}

// TestCreateThatDies stops Create at every change: nothing of it may be seen as a domain, and the next one cleans up.
func TestCreateThatDies(t *testing.T) {
	memory := memoryFS(t)
	for n := 1; ; n++ {
		x := newFixtureInMemory(t, memory)
		f := &faults{nth: n, book: newBook()}
		x.reg.step = f.step
		s := spec(x.root)
		x.must(s.check())
		err := x.reg.create(s)
		if !f.hit {
			x.must(err)
			if left := f.book.unsynced(); len(left) > 0 || len(f.book.broken) > 0 {
				t.Fatalf("not synced: %v, broken: %v", left, f.book.broken)
			}
			t.Logf("%d changes", n-1)
			return
		}
		if !errors.Is(err, errFault) {
			t.Fatalf("change %d: %v", n, err)
		}
		x.reg.step = nil
		if slices.Contains(x.reg.List(), newSD) { // it had come to its end, but for the last sync
			_, err = x.reg.Create(s)
			wantCode(t, err, code.DomainAlreadyExists)
		} else {
			if n%2 == 0 {
				x.restart()
				x.onlyDomains(sdUUID)
			}
			_, err = x.reg.Create(s)
			x.must(err)
		}
		_, err = x.reg.Get(newSD)
		x.must(err)
		x.onlyDomains(sdUUID, newSD)
	}
}

func (x *fixture) onlyDomains(want ...string) {
	x.t.Helper()
	entries, err := os.ReadDir(x.root)
	x.must(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		x.t.Fatalf("the root has %v, want %v", got, want)
	}
}

func TestACreateOfAnotherAgentIsNotALeftover(t *testing.T) {
	x := newFixture(t)
	tmp := filepath.Join(x.root, createPrefix+newSD)
	x.must(os.Mkdir(tmp, dirMode))
	dir, err := os.Open(tmp)
	x.must(err)
	x.must(tryLock(dir))
	x.restart()
	s := spec(x.root)
	s.UUID = nowhere
	_, err = x.reg.Create(s)
	x.must(err)
	x.onlyDomains(createPrefix+newSD, sdUUID, nowhere)
	x.must(os.RemoveAll(filepath.Join(x.root, nowhere)))
	x.must(dir.Close())
	x.restart()
	x.onlyDomains(sdUUID)
}

func TestOwnerIsGiven(t *testing.T) {
	x := newFixture(t)
	x.owner = Owner{36, 36}
	x.restart()
	d, err := x.reg.Create(spec(x.root))
	x.must(err)
	x.d = d
	_, err = d.CreateImageDir(imgA)
	x.must(err)
	m := testMeta(imgA, BlankUUID, Leaf)
	m.Domain = newSD
	x.must(d.WriteVolumeMeta(imgA, volLeaf, m))
	x.must(filepath.WalkDir(d.Path(), func(path string, _ os.DirEntry, err error) error {
		x.must(err)
		fi, err := os.Lstat(path)
		x.must(err)
		if st := sysStat(fi); st.Uid != 36 || st.Gid != 36 {
			t.Errorf("%s is of %d:%d", path, st.Uid, st.Gid)
		}
		return nil
	}))
}

func TestRewriteKeepsOwnerAndMode(t *testing.T) {
	x := newFixture(t)
	name := x.path(metaFile(imgA, volLeaf))
	x.must(os.Chown(name, 36, 36))
	x.must(os.Chmod(name, 0o640))
	x.must(setLegality(imgA, volLeaf, Illegal)(x.d))
	fi, err := os.Lstat(name)
	x.must(err)
	if st := sysStat(fi); st.Uid != 36 || st.Gid != 36 || fi.Mode().Perm() != 0o640 {
		t.Fatalf("%d:%d %s", st.Uid, st.Gid, fi.Mode())
	}
}

func TestOpenRegistryWithoutStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	r, err := OpenRegistry(Options{Dir: dir, Owner: Owner{-1, -1}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.List(); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
}
