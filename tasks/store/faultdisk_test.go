package store

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// faultDisk is the storage under a store in one directory: it fails the operation whose turn it is, and it knows what
// a power cut would leave. It is the disk of the store and the VFS of its SQLite.
//
// What the process sees is in real files. Beside them it keeps, for each, what the last good sync made sure of and the
// writes since. The writes that a failed sync lost stay uncertain for ever unless they are made again, as in a kernel
// that marks such pages clean. The entries of the directory are certain after its sync only.
type faultDisk struct {
	t   *testing.T
	dir string
	rng *rand.Rand

	mu     sync.Mutex
	turn   int  // of the operation that fails, from 1; 0 = none
	again  int  // how many operations after that another one fails; 0 = none
	reads  bool // it counts reads, else everything else
	sticky bool // all operations after it fail too

	failOp string // the next operation of this name fails; the turn comes with it
	cause  error  // what the failure answers
	count  int
	done   []string          // what was counted, in order, while no failure was set
	failed []string          // what failed
	view   map[string]*inode // by name: what the process sees
	sure   map[string]*inode // by name: what was there at the last sync of the directory
	moves  []move            // since then

	cutEach int // of so many operations, what a power cut in front of one would leave is kept; 0 = none
	cuts    []cut
}

// cut is a power cut in front of an operation.
type cut struct {
	count int // of the operation
	op    string
	dir   string
}

// inode is one file.
type inode struct {
	sure   []byte
	writes []write
}

type write struct {
	off  int64
	data []byte
	size int64 // if data is nil: the file was truncated or grown to this size
	lost bool  // by a failed sync
}

// move is a change of the directory: from a name, to a name; "" is none.
type move struct {
	from, to string
	file     *inode
}

const sector = 512

func newFaultDisk(t *testing.T) *faultDisk { return newFaultDiskIn(t, t.TempDir()) }

// newFaultDiskIn starts with the files of dir, all of them certain.
func newFaultDiskIn(t *testing.T, dir string) *faultDisk {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &faultDisk{t: t, dir: dir, rng: rand.New(rand.NewPCG(7, 7)), cause: syscall.EIO,
		view: map[string]*inode{}, sure: map[string]*inode{}}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		d.view[f.Name()] = &inode{sure: content}
	}
	d.syncDir()
	vfs.Register(d.vfsName(), d)
	t.Cleanup(func() { vfs.Unregister(d.vfsName()) })
	return d
}

func (d *faultDisk) vfsName() string { return "fault" + strings.ReplaceAll(d.dir, "/", "_") }

func (d *faultDisk) params() string { return "vfs=" + d.vfsName() }

// failNext has the next operation of this name fail, and if sticky all after it.
func (d *faultDisk) failNext(op string, sticky bool, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failOp, d.sticky, d.cause = op, sticky, cause
}

// syncs returns how often the log was synced.
func (d *faultDisk) syncs() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range d.done {
		if op == "sync tasks.db-wal" {
			n++
		}
	}
	return n
}

// counted returns how many operations there were.
func (d *faultDisk) counted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// heal ends the failures.
func (d *faultDisk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn, d.count = 0, 0
}

// hit says whether all failures have happened.
func (d *faultDisk) hit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.turn > 0 && d.count >= d.turn+d.again
}

// fails says whether this operation fails. The mutex is held.
func (d *faultDisk) fails(read bool, op, path string) error {
	name := op + " " + filepath.Base(path)
	last := d.turn + d.again // the one from which on all fail, if sticky
	counted := read == d.reads
	if counted {
		d.count++
		if d.cutEach > 0 && d.count%d.cutEach == 0 {
			for range cutSubsets {
				d.cuts = append(d.cuts, cut{d.count, name, d.leave()})
			}
		}
	}
	if d.failOp == name {
		d.failOp, d.turn = "", d.count
	}
	switch {
	case d.turn == 0:
		if counted {
			d.done = append(d.done, name)
		}
		return nil
	case counted && (d.count == d.turn || d.count == last):
	case d.sticky && (counted && d.count > last || !counted && d.count >= last):
	default:
		return nil
	}
	d.failed = append(d.failed, name)
	return fmt.Errorf("%s: %w", name, d.cause)
}

// bind changes the directory. The mutex is held.
func (d *faultDisk) bind(m move) {
	if m.from != "" {
		delete(d.view, m.from)
	}
	if m.to != "" {
		d.view[m.to] = m.file
	}
	d.moves = append(d.moves, m)
}

func (d *faultDisk) syncDir() { d.sure, d.moves = maps.Clone(d.view), nil }

// settled returns the content after writes of which the lost ones, and unless all is set the others too, are there or
// not, sector by sector.
func (d *faultDisk) settled(f *inode, all bool) []byte {
	content := append([]byte(nil), f.sure...)
	resize := func(n int64) {
		if n > int64(len(content)) {
			content = append(content, make([]byte, n-int64(len(content)))...)
		}
	}
	for _, w := range f.writes {
		if w.data == nil {
			if all && !w.lost || d.rng.IntN(2) == 0 {
				resize(w.size)
				content = content[:w.size]
			}
			continue
		}
		for at := int64(0); at < int64(len(w.data)); {
			end := min(int64(len(w.data)), (w.off+at)/sector*sector+sector-w.off)
			if all && !w.lost || d.rng.IntN(2) == 0 {
				resize(w.off + end)
				copy(content[w.off+at:], w.data[at:end])
			}
			at = end
		}
	}
	return content
}

// syncFile is a sync of a file: a good one makes sure of what a former failure did not lose.
func (d *faultDisk) syncFile(f *inode, err error) {
	if err != nil {
		for i := range f.writes {
			f.writes[i].lost = true
		}
		return
	}
	f.sure, f.writes = d.settled(f, true), nil
}

// powerCut writes what a power cut would leave now into a new directory and returns it.
func (d *faultDisk) powerCut() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leave()
}

// leave is powerCut with the mutex held.
func (d *faultDisk) leave() string {
	names := maps.Clone(d.sure)
	for _, m := range d.moves {
		if d.rng.IntN(2) == 0 {
			continue
		}
		if m.from != "" {
			delete(names, m.from)
		}
		if m.to != "" {
			names[m.to] = m.file
		}
	}
	to := d.t.TempDir()
	for name, f := range names {
		if err := os.WriteFile(filepath.Join(to, name), d.settled(f, false), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	return to
}

// killed copies what the end of the process would leave now into a new directory and returns it.
func (d *faultDisk) killed() string {
	d.mu.Lock() // the store may be at work
	defer d.mu.Unlock()
	to := d.t.TempDir()
	for name := range d.view {
		if strings.HasSuffix(name, "-shm") {
			continue // is nothing without a process that has it open
		}
		if err := copyFile(filepath.Join(d.dir, name), filepath.Join(to, name)); err != nil {
			d.t.Fatal(err)
		}
	}
	return to
}

// The disk of the store.

func (d *faultDisk) create(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fails(false, "create", path); err != nil {
		return err
	}
	if name := filepath.Base(path); d.view[name] == nil {
		d.bind(move{to: name, file: &inode{}})
	}
	return osDisk{}.create(path)
}

func (d *faultDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fails(false, "rename", from); err != nil {
		return err
	}
	name := filepath.Base(from)
	d.bind(move{from: name, to: filepath.Base(to), file: d.view[name]})
	return os.Rename(from, to)
}

func (d *faultDisk) remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fails(false, "remove", path); err != nil {
		return err
	}
	if name := filepath.Base(path); d.view[name] != nil {
		d.bind(move{from: name})
	}
	return osDisk{}.remove(path)
}

func (d *faultDisk) sync(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.fails(false, "sync", path)
	switch {
	case path != d.dir:
		d.syncFile(d.view[filepath.Base(path)], err)
	case err == nil:
		d.syncDir()
	}
	return err
}

func (d *faultDisk) resync(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.view[filepath.Base(path)]
	f.writes = append(f.writes, write{data: content})
	err = d.fails(false, "resync", path)
	d.syncFile(f, err)
	return err
}

// The VFS.

func (d *faultDisk) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	return nil, 0, errors.New("OpenFilename is what SQLite calls")
}

func (d *faultDisk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := name.String()
	if filepath.Dir(path) != d.dir {
		d.t.Errorf("SQLite opens %q, which is not in the directory of the store", path)
	}
	_, err := os.Stat(path)
	if made := flags&vfs.OPEN_CREATE != 0 && err != nil; made {
		if err := d.fails(false, "make", path); err != nil {
			return nil, flags, err
		}
		d.bind(move{to: filepath.Base(path), file: &inode{}})
	}
	f, flags, err := vfs.Find("").(vfs.VFSFilename).OpenFilename(name, flags)
	if err != nil {
		return nil, flags, err
	}
	const journal = vfs.OPEN_MAIN_JOURNAL | vfs.OPEN_WAL
	return &faultFile{File: f, d: d, path: path, inode: d.view[filepath.Base(path)],
		dirToo: flags&vfs.OPEN_CREATE != 0 && flags&journal != 0}, flags, nil
}

func (d *faultDisk) Delete(path string, syncDir bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fails(false, "delete", path); err != nil {
		return err
	}
	if name := filepath.Base(path); d.view[name] != nil {
		d.bind(move{from: name})
	}
	if err := vfs.Find("").Delete(path, false); err != nil {
		return err
	}
	if syncDir {
		if err := d.fails(false, "sync for delete of", path); err != nil {
			return err
		}
		d.syncDir()
	}
	return nil
}

func (d *faultDisk) Access(path string, flags vfs.AccessFlag) (bool, error) {
	return vfs.Find("").Access(path, flags)
}

func (d *faultDisk) FullPathname(path string) (string, error) { return vfs.Find("").FullPathname(path) }

// faultFile is an open file of faultDisk. What SQLite asks a file for besides the plain operations is passed on.
type faultFile struct {
	vfs.File
	d      *faultDisk
	path   string
	inode  *inode
	dirToo bool // the first sync is one of the directory too, as in the VFS of the operating system
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	err := f.d.fails(true, "read", f.path)
	f.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := len(p)
	err := f.d.fails(false, "write", f.path)
	if err != nil {
		n /= 2 // a write that fails may have written something
	}
	f.inode.writes = append(f.inode.writes, write{off: off, data: append([]byte{}, p[:n]...)})
	if _, err := f.File.WriteAt(p[:n], off); err != nil {
		f.d.t.Error(err)
	}
	return n, err
}

func (f *faultFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fails(false, "truncate", f.path); err != nil {
		return err
	}
	f.inode.writes = append(f.inode.writes, write{size: size})
	return f.File.Truncate(size)
}

func (f *faultFile) Sync(vfs.SyncFlag) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	err := f.d.fails(false, "sync", f.path)
	f.d.syncFile(f.inode, err)
	if err == nil && f.dirToo {
		f.dirToo = false
		if err = f.d.fails(false, "sync of the directory of", f.path); err != nil {
			return vfs.SystemError(err, sqlite3.IOERR_DIR_FSYNC)
		}
		f.d.syncDir()
	}
	return err
}

func (f *faultFile) SizeHint(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fails(false, "grow", f.path); err != nil {
		return err
	}
	have, err := f.File.Size()
	if err == nil && have < size {
		f.inode.writes = append(f.inode.writes, write{size: size})
		err = f.File.(vfs.FileSizeHint).SizeHint(size)
	}
	return err
}

func (f *faultFile) SharedMemory() vfs.SharedMemory {
	return f.File.(vfs.FileSharedMemory).SharedMemory()
}
func (f *faultFile) LockState() vfs.LockLevel { return f.File.(vfs.FileLockState).LockState() }
func (f *faultFile) HasMoved() (bool, error)  { return f.File.(vfs.FileHasMoved).HasMoved() }
func (f *faultFile) PersistWAL() bool         { return f.File.(vfs.FilePersistWAL).PersistWAL() }
func (f *faultFile) SetPersistWAL(keep bool)  { f.File.(vfs.FilePersistWAL).SetPersistWAL(keep) }
func (f *faultFile) PowersafeOverwrite() bool {
	return f.File.(vfs.FilePowersafeOverwrite).PowersafeOverwrite()
}
func (f *faultFile) SetPowersafeOverwrite(safe bool) {
	f.File.(vfs.FilePowersafeOverwrite).SetPowersafeOverwrite(safe)
}

var (
	_ vfs.VFSFilename            = (*faultDisk)(nil)
	_ vfs.FileSharedMemory       = (*faultFile)(nil)
	_ vfs.FileHasMoved           = (*faultFile)(nil)
	_ vfs.FileSizeHint           = (*faultFile)(nil)
	_ vfs.FilePersistWAL         = (*faultFile)(nil)
	_ vfs.FilePowersafeOverwrite = (*faultFile)(nil)
	_ io.ReaderAt                = (*faultFile)(nil)
)
