// Package hangfs shows a directory through a FUSE file system that hangs when it is told to, for tests: whoever calls it then is in
// state D, whatever signals it gets, as with an NFS server that is away. Only tests import it; it needs root and /dev/fuse.
package hangfs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// FS is one mount.
type FS struct {
	server *fuse.Server

	mu   sync.Mutex
	gate chan struct{} // closed when calls pass; open while they hang
	hung chan struct{} // gets a value when a call begins to hang
}

// Mount shows the directory from at the directory at.
func Mount(from, at string) (*FS, error) {
	root, err := fs.NewLoopbackRoot(from)
	if err != nil {
		return nil, err
	}
	f := &FS{gate: make(chan struct{}), hung: make(chan struct{}, 1)}
	close(f.gate)
	f.server, err = fuse.NewServer(gated{fs.NewNodeFS(root, &fs.Options{}), f}, at, &fuse.MountOptions{DirectMountStrict: true, FsName: "hangfs"})
	if err != nil {
		return nil, err
	}
	go f.server.Serve()
	return f, f.server.WaitMount()
}

// Hang lets all calls hang from now on, until Release.
func (f *FS) Hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = make(chan struct{})
}

// Hung gets a value when a call begins to hang.
func (f *FS) Hung() <-chan struct{} { return f.hung }

// Release lets all calls go on. It may be called at any time.
func (f *FS) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.gate:
	default:
		close(f.gate)
	}
}

// Unmount releases and unmounts; with files open it is an error.
func (f *FS) Unmount() error {
	f.Release()
	return f.server.Unmount()
}

func (f *FS) pass() {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	select {
	case <-gate:
		return
	default:
	}
	select {
	case f.hung <- struct{}{}:
	default:
	}
	<-gate
}

// gated asks the gate before each call that a program can wait for. The kernel's request to interrupt one is not heard: that is what
// makes it a hang.
type gated struct {
	fuse.RawFileSystem
	fs *FS
}

func (g gated) String() string { return "hangfs" }

func (g gated) Lookup(c <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.Lookup(c, h, name, out)
}

func (g gated) GetAttr(c <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.GetAttr(c, in, out)
}

func (g gated) Open(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.Open(c, in, out)
}

func (g gated) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.Create(c, in, name, out)
}

func (g gated) Rename(c <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.Rename(c, in, from, to)
}

func (g gated) Read(c <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	g.fs.pass()
	return g.RawFileSystem.Read(c, in, buf)
}

func (g gated) Write(c <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	g.fs.pass()
	return g.RawFileSystem.Write(c, in, data)
}

func (g gated) Fsync(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.Fsync(c, in)
}

func (g gated) OpenDir(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.OpenDir(c, in, out)
}

func (g gated) ReadDirPlus(c <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.ReadDirPlus(c, in, out)
}

func (g gated) StatFs(c <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	g.fs.pass()
	return g.RawFileSystem.StatFs(c, in, out)
}
