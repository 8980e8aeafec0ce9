package domain

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vdsm-agent/internal/code"
)

// Owner is the user and group of what is created; -1 leaves them as they come.
type Owner struct{ UID, GID int }

// tree is a directory with everything below it: a domain, or a root while a domain is created in it. Every change this
// package makes to a file system is one call here. Its errors come out of osError.
//
// A change for which there is no room is tried again without the reserve, a file kept for that: metadata can be
// written, and volumes moved to the trash, on a full file system.
//
// step is the seam for faults: it is asked before every change, and its error ends the change there. It is nil outside
// tests.
type tree struct {
	root  *os.Root
	path  string // absolute; for sentences, and for paths that are handed to other programs
	owner Owner
	step  func(op, name string) error
}

func (t *tree) change(op, name string, f func() error) error {
	if t.step != nil {
		if err := t.step(op, name); err != nil {
			return osError(err, op, t.abs(name))
		}
	}
	err := f()
	if is(err, syscall.ENOSPC, syscall.EDQUOT) && t.root.Remove(reserveFile) == nil {
		err = f()
	}
	return osError(err, op, t.abs(name))
}

func (t *tree) abs(name string) string { return filepath.Join(t.path, name) }

func (t *tree) lstat(name string) (fs.FileInfo, error) {
	fi, err := t.root.Lstat(name)
	return fi, osError(err, "look at", t.abs(name))
}

// realDir answers whether name is a directory; that it is anything else, a symbolic link too, is an error.
func (t *tree) realDir(name string) (bool, error) {
	fi, err := t.lstat(name)
	switch {
	case notExist(err):
		return false, nil
	case err != nil:
		return false, err
	case !fi.IsDir():
		return false, code.Errorf(code.DomainLayout, "%s must be a directory but is %s; look at it and remove it by hand",
			t.abs(name), describe(fi))
	}
	return true, nil
}

// regular answers what the file is, nil if there is none; that it is not a regular file is an error.
func (t *tree) regular(name string) (fs.FileInfo, error) {
	fi, err := t.lstat(name)
	switch {
	case notExist(err):
		return nil, nil
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, code.Errorf(code.DomainLayout, "%s must be a regular file but is %s; look at it and remove it by hand",
			t.abs(name), describe(fi))
	}
	return fi, nil
}

func describe(fi fs.FileInfo) string {
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		return "a symbolic link"
	case fi.IsDir():
		return "a directory"
	case fi.Mode().IsRegular():
		return "a file"
	}
	return "a special file"
}

// open opens a regular file, never through a symbolic link. fs.ErrNotExist if there is none.
func (t *tree) open(name string, flag int) (*os.File, error) {
	fi, err := t.regular(name)
	if err != nil {
		return nil, err
	}
	if fi == nil {
		return nil, osError(fs.ErrNotExist, "open", t.abs(name))
	}
	f, err := t.root.OpenFile(name, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, osError(err, "open", t.abs(name))
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(fi, now) {
		f.Close()
		return nil, code.Errorf(code.Storage, "%s was replaced while it was opened; try again", t.abs(name))
	}
	return f, nil
}

// read returns a file of at most max bytes; what is longer is none of ours.
func (t *tree) read(name string, max int64) ([]byte, error) {
	f, err := t.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, osError(err, "read", t.abs(name))
	}
	if int64(len(data)) > max {
		return nil, code.Errorf(code.Storage, "%s is longer than %d bytes and cannot be what its name says", t.abs(name), max)
	}
	return data, nil
}

// list returns the names in a directory, sorted.
func (t *tree) list(name string) ([]string, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, osError(err, "list", t.abs(name))
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, osError(err, "list", t.abs(name))
}

// mkdir makes a directory of exactly this mode and the tree's owner.
func (t *tree) mkdir(name string, perm fs.FileMode) error {
	if err := t.change("make", name, func() error { return t.root.Mkdir(name, perm) }); err != nil {
		return err
	}
	return t.setMode(name, perm)
}

// ensureDir makes the directory if it is missing, and completes what a mkdir that died left: mode and owner. An
// existing directory keeps what it has beyond that. The caller syncs the parent, also when nothing was made.
func (t *tree) ensureDir(name string) (made bool, err error) {
	there, err := t.realDir(name)
	if err != nil {
		return false, err
	}
	if !there {
		return true, t.mkdir(name, dirMode)
	}
	fi, err := t.lstat(name)
	if err != nil {
		return false, err
	}
	return false, t.setMode(name, fi.Mode().Perm()|dirMode)
}

// setMode gives a file or directory the mode and the tree's owner, and changes nothing where they are so already.
func (t *tree) setMode(name string, perm fs.FileMode) error {
	return t.setModeOwner(name, perm, t.owner)
}

func (t *tree) setModeOwner(name string, perm fs.FileMode, o Owner) error {
	fi, err := t.lstat(name)
	if err != nil {
		return err
	}
	st := sysStat(fi)
	if (o.UID >= 0 && st.Uid != uint32(o.UID)) || (o.GID >= 0 && st.Gid != uint32(o.GID)) {
		if err := t.change("set the owner of", name, func() error { return t.root.Lchown(name, o.UID, o.GID) }); err != nil {
			return err
		}
	}
	if fi.Mode().Perm() == perm {
		return nil
	}
	return t.change("set the mode of", name, func() error { return t.root.Chmod(name, perm) })
}

func (t *tree) setMTime(name string, at time.Time) error {
	return t.change("set the time of", name, func() error { return t.root.Chtimes(name, time.Time{}, at) })
}

func (t *tree) rename(from, to string) error {
	return t.change("rename", from+" to "+to, func() error { return t.root.Rename(from, to) })
}

// link never replaces: fs.ErrExist if there is a file of that name.
func (t *tree) link(from, to string) error {
	return t.change("link", from+" to "+to, func() error { return t.root.Link(from, to) })
}

// remove removes a file or an empty directory. That it is not there is no error.
func (t *tree) remove(name string) error {
	err := t.change("remove", name, func() error { return t.root.Remove(name) })
	if notExist(err) {
		return nil
	}
	return err
}

// removeAll removes what there is of that name, and all below it.
func (t *tree) removeAll(name string) error {
	fi, err := t.lstat(name)
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		names, err := t.list(name)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := t.removeAll(path.Join(name, n)); err != nil {
				return err
			}
		}
	}
	return t.remove(name)
}

// truncate cuts an open file.
func (t *tree) truncate(f *os.File, name string, size int64) error {
	return t.change("truncate", name, func() error { return f.Truncate(size) })
}

// sync puts the names in each of the directories on stable storage.
func (t *tree) sync(dirs ...string) error {
	for i, dir := range dirs {
		if slices.Contains(dirs[:i], dir) {
			continue
		}
		err := t.change("sync", dir, func() error {
			f, err := t.root.Open(dir)
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Sync()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// create writes a new file whole and syncs it, not its directory. size > len(data) makes the rest a hole.
func (t *tree) create(name string, data []byte, size int64, perm fs.FileMode) error {
	var f *os.File
	err := t.change("create", name, func() (err error) {
		f, err = t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	err = t.change("write", name, func() error {
		if _, err := f.WriteAt(data, 0); err != nil || size <= int64(len(data)) {
			return err
		}
		return f.Truncate(size)
	})
	if err != nil {
		return err
	}
	if err := t.setMode(name, perm); err != nil {
		return err
	}
	return t.change("sync", name, f.Sync)
}

// replace puts data in the place of the file name, whole or not at all, synced. An old file's mode is kept, and its
// owner where the tree names none. The new file grows under .vdsm-agent/tmp, so that a crash leaves nothing beside name.
func (t *tree) replace(name string, data []byte) error {
	perm := fs.FileMode(metaMode)
	old, err := t.regular(name)
	if err != nil {
		return err
	}
	if old != nil {
		perm = old.Mode().Perm()
	}
	tmp := tmpName(name)
	if err := t.remove(tmp); err != nil {
		return err
	}
	if err := t.create(tmp, data, 0, perm); err != nil {
		_ = t.root.Remove(tmp) // it may hold the last free block; if this fails too, the next claim clears it
		return err
	}
	if old != nil && t.owner.UID < 0 && os.Geteuid() == 0 {
		st := sysStat(old)
		if err := t.setModeOwner(tmp, perm, Owner{int(st.Uid), int(st.Gid)}); err != nil {
			return err
		}
	}
	if err := t.rename(tmp, name); err != nil {
		return err
	}
	return t.sync(path.Dir(name))
}

// replaceByLink puts another name of the file from in the place of to. It is not synced yet.
func (t *tree) replaceByLink(from, to string) error {
	tmp := tmpName(to)
	if err := t.remove(tmp); err != nil {
		return err
	}
	if err := t.link(from, tmp); err != nil {
		return err
	}
	return t.rename(tmp, to)
}

// tmpName is where the file that is to become name grows: one place for each name, so that a repetition finds it.
func tmpName(name string) string { return path.Join(tmpDir, strings.ReplaceAll(name, "/", "+")+".new") }

func sysStat(fi fs.FileInfo) *syscall.Stat_t {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		panic(fmt.Sprintf("%s: not a file of this system", fi.Name()))
	}
	return st
}

func linkCount(fi fs.FileInfo) uint64 { return sysStat(fi).Nlink }

// allocated is what the file takes on disk, in bytes.
func allocated(fi fs.FileInfo) int64 { return sysStat(fi).Blocks * 512 }
