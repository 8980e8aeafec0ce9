package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketMode is the mode of the agent's socket, unless another is asked for: its owner and its group may do everything, others nothing.
const SocketMode fs.FileMode = 0o660

// maxSocketPath leaves room in the kernel's 107 characters for the directory in which the socket is made.
const maxSocketPath = 89

// Socket is where the agent's unix socket is, and whom its file lets in.
type Socket struct {
	Path  string
	Mode  fs.FileMode // 0 = SocketMode
	Group int         // the file's group; 0 = that of the agent's process
}

// Listen makes the unix socket, whose directory must exist, and replaces one that a dead agent left there. A socket
// on which somebody answers is never touched: that is an error. So is a path that is no socket.
//
// The file is made in a directory that only its owner may enter, gets its mode there, and is moved to path when it is
// listening: nobody ever meets it with another mode, or while it refuses. A lock beside it keeps two agents that
// start at the same time from replacing each other's socket. Closing the listener removes the socket, if it is still
// this one.
func (where Socket) Listen() (net.Listener, error) {
	path := where.Path
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the agent's socket, %s, has %d characters; choose one of %d at most", path, len(path), maxSocketPath)
	}
	unlock, err := lock(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := mayReplace(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".api-")
	if err != nil {
		return nil, fmt.Errorf("the socket %s cannot be made: %w", path, err)
	}
	defer os.RemoveAll(private)
	temporary := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("the socket %s cannot be made: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	s := &socket{UnixListener: listener, path: path}
	if err := s.publish(temporary, where); err != nil {
		_ = listener.Close() // the error that counts is err
		return nil, fmt.Errorf("the socket %s cannot be made: %w", path, err)
	}
	return s, nil
}

// socket is a listener that removes its path.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

func (s *socket) publish(temporary string, where Socket) error {
	if where.Group != 0 {
		if err := os.Chown(temporary, -1, where.Group); err != nil {
			return err
		}
	}
	if err := os.Chmod(temporary, cmp.Or(where.Mode, SocketMode)); err != nil {
		return err
	}
	file, err := os.Lstat(temporary)
	if err != nil {
		return err
	}
	s.file = file
	return os.Rename(temporary, s.path)
}

// Addr is where clients find it.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close ends the listener and removes its path, unless another agent's socket is there now.
func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	unlock, lockErr := lock(s.path)
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	if now, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(now, s.file) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// mayReplace says whether nothing that lives is at path.
func mayReplace(path string) error {
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("the socket %s cannot be looked at: %w", path, err)
	case file.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket; remove it, or choose another path for the agent's socket", path)
	}
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "unix", path) // a connect to a unix socket does not wait: see EAGAIN
	switch {
	case err == nil:
		_ = conn.Close() // only its success counts
		return fmt.Errorf("another agent answers on %s; stop it first", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("another agent listens on %s and is too busy to answer; stop it first", path)
	}
	return fmt.Errorf("it cannot be told whether another agent listens on %s: %w", path, err)
}

// lock waits for the lock that goes with path, which is held for moments only. It is a file that only its owner may open,
// and not the directory: any user could lock that.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the lock of the agent's socket cannot be opened: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = file.Close() // the error that counts is err
		return nil, fmt.Errorf("the agent's socket cannot be locked: %w", err)
	}
	return func() { _ = file.Close() }, nil // which releases the lock
}
