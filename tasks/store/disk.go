package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// disk is all that the store does to its directory besides SQLite's own reads and writes. Together with the VFS it is
// the seam at which tests make the storage fail.
type disk interface {
	// params are SQLite's URI parameters, which may name another VFS than the operating system's.
	params() string
	// create makes an empty file that only its owner may read, or makes that of an existing one.
	create(path string) error
	rename(from, to string) error
	// remove removes a file; it is no error if there is none.
	remove(path string) error
	// sync puts a file or the entries of a directory on stable storage.
	sync(path string) error
	// resync writes the bytes that are read from a file over themselves and syncs. What a former process wrote
	// without a good sync may be in the page cache only, marked clean: a sync alone would say that it is on stable
	// storage.
	resync(path string) error
}

type osDisk struct{}

func (osDisk) params() string { return "" }

func (osDisk) create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

func (osDisk) rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (osDisk) sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (osDisk) resync(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if n > 0 {
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return f.Sync()
		}
		if err != nil {
			return err
		}
	}
}
