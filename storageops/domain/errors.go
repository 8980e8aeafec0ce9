package domain

import (
	"errors"
	"io/fs"
	"syscall"

	"vdsm-agent/internal/code"
)

// osError makes of an error of the operating system the sentence and number that a client gets. It is the only place
// where one is mapped. An error that already carries a code stays as it is; errors.Is sees through to the cause.
//
//	no room, quota                            397
//	read-only, forbidden, I/O error, gone     379, with the path and what to do
//	anything else                             200
func osError(err error, doing, path string) error {
	var coded *code.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	cause := bare(err)
	switch {
	case is(cause, syscall.ENOSPC, syscall.EDQUOT):
		return code.Errorf(code.NoSpaceLeftOnDomain, "no room to %s %s; free space there or empty the domain's trash: %w",
			doing, path, cause)
	case is(cause, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EIO, syscall.ESTALE, syscall.ENODEV,
		syscall.ENOTCONN, fs.ErrClosed):
		return code.Errorf(code.DomainAccess,
			"cannot %s %s; check that its file system is mounted, healthy and writable for the agent: %w", doing, path, cause)
	}
	return code.Errorf(code.Storage, "cannot %s %s: %w", doing, path, cause)
}

// rootError is osError for a domain's root or directory itself: that it is gone is 379 too, since nothing tells a
// domain that was removed from a file system that is not mounted.
func rootError(err error, doing, path string) error {
	cause := bare(err)
	if is(cause, syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP) {
		return code.Errorf(code.DomainAccess, "cannot %s %s; check that its file system is mounted: %w", doing, path, cause)
	}
	return osError(err, doing, path)
}

// bare takes off what os adds around an error number: operation and path are in our sentence already.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

func is(err error, any ...error) bool {
	for _, e := range any {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
