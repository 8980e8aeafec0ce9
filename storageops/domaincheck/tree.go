package domaincheck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir opens a directory for a check: no path leaves it. The caller closes it.
func Dir(name string) (*os.Root, error) { return os.OpenRoot(name) }

// file is what a name in the domain is.
type file struct {
	name   string // its path
	mode   fs.FileMode
	size   int64
	blocks int64 // bytes on disk
	inode  uint64
	links  uint64
	uid    uint32
	gid    uint32
}

// same says whether both are one file with two names.
func (f *file) same(g *file) bool { return f != nil && g != nil && f.inode == g.inode }

// stat returns what has the name, never through a symbolic link; nil if there is nothing.
func (s *scan) stat(name string) (*file, error) {
	fi, err := fs.Lstat(s.fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: the file system does not say what it is", name)
	}
	return &file{
		name: name, mode: fi.Mode(), size: fi.Size(), blocks: st.Blocks * 512, inode: st.Ino, links: st.Nlink, uid: st.Uid, gid: st.Gid,
	}, nil
}

// list returns the names in a directory; what cannot be listed is a finding.
func (s *scan) list(dir string) []string {
	entries, err := fs.ReadDir(s.fsys, dir)
	if err != nil {
		s.unreadable(dir, err)
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// look is stat that makes a finding of an error.
func (s *scan) look(name string) *file {
	f, err := s.stat(name)
	if err != nil {
		s.unreadable(name, err)
	}
	return f
}

// read returns the whole of a regular file of at most max bytes.
func (s *scan) read(name string, max int64) ([]byte, error) {
	f, err := s.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("it is longer than %d bytes", max)
	}
	return data, err
}

func (s *scan) unreadable(name string, err error) {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	s.add("unreadable", name, "%s cannot be read: %v.", name, err)
}

// inUse says whether a program holds a lock on an open file, as QEMU does on its images.
func inUse(f fs.File) bool {
	of, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(of.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false // a file system without locks
	}
	return lock.Type != unix.F_UNLCK
}
