package copy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/nbd"
	"vdsm-agent/storageops/qemuimg"
)

// Sparsify gives back what is allocated in img itself and reads as zeros, in runs of at least 64 KiB, in place. What a guest reads of
// it is the same at any moment, whatever happens: the zeros of a qcow2 image stay written in its tables, where they hide what a layer
// below has; only their clusters are freed. Give the whole chain.
//
//   - last, ctx and the end are as those of Zero; it may be repeated at any time.
//   - Somebody else has the image open (a guest): an error of qemu-nbd, nothing is changed.
//   - The file system cannot make holes: an error; zeros are not written instead.
//   - Of a qcow2 image that was killed meanwhile, the bitmaps are marked as not closed, and clusters may be leaked: the next run
//     gives these back. One of the old version 0.10 cannot be sparsified.
//
// The image is opened once, by a qemu-nbd, which keeps everybody else from writing it between the look at a stretch and its end. A
// worker of ours is its client. Neither finds the other by a name: each gets its end of the connection as a descriptor.
func Sparsify(ctx context.Context, env Env, img qemuimg.Image, last *FillState) error {
	align := int64(blockSize)
	if img.Format == qemuimg.QCOW2 {
		info, err := qemuimg.ReadInfo(ctx, env, img)
		if err != nil {
			return err
		}
		align = info.ClusterSize
	}
	what := "sparsifying " + img.Path + " failed"
	if last == nil {
		last = &FillState{}
		if err := env.Checkpoint(*last); err != nil { // from here on there may be leaks
			return err
		}
	} else if err := giveBackLeaks(ctx, env, img); err != nil {
		return err
	}
	server, conn, err := serveTo(ctx, env, img)
	if err != nil {
		return qemuimg.Failure(code.Storage, err, what)
	}
	err = fill(ctx, env, "sparsifying "+img.Path, last, []*os.File{conn}, func(s FillState) []string {
		return []string{modeSparsify, img.Path, fmt.Sprint(align), fmt.Sprint(s.Next), fmt.Sprint(s.Done)}
	})
	conn.Close()
	if err != nil {
		server.Terminate() // it may not have noticed that its client is gone
	}
	ended := server.Wait()
	var exit *proc.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(ended, &exit) && strings.Contains(exit.Stderr, "using the image"): // QEMU's question about a lock that it did not get
		return code.Errorf(code.Storage, "%s: somebody else has it open; try again when no guest uses it: %w", what, ended)
	case errors.As(ended, &exit) && exit.Signal == 0, err == nil: // it knows better than its client
		return qemuimg.Failure(code.Storage, ended, what)
	}
	return err
}

// giveBackLeaks does so in an image whose last writer may have been killed. One that is damaged is refused (484).
func giveBackLeaks(ctx context.Context, env Env, img qemuimg.Image) error {
	found, err := qemuimg.RepairLeaks(ctx, env, img)
	if err == nil && found.Found == qemuimg.Corrupt {
		err = code.Errorf(code.ImageVerification, "%s is damaged: %d corruptions and %d errors", img.Path, found.Corruptions, found.Errors)
	}
	return err
}

// serveTo starts a qemu-nbd that has img open, and returns the only connection that it will ever have. The connection is there before
// the server is: what is sent meanwhile waits in the socket, and the end of a server that cannot open the image is the end of the
// connection. The socket has a name, in a directory that nobody else may enter, only until it was connected to.
func serveTo(ctx context.Context, env Env, img qemuimg.Image) (*proc.Worker, *os.File, error) {
	waits, conn, err := connected()
	if err != nil {
		return nil, nil, code.Errorf(code.General, "no socket for a worker is to be had: %w", err)
	}
	defer waits.Close()
	args := []string{modeServe, img.Node().Argument(), img.Path}
	for _, l := range img.Backing {
		args = append(args, l.Path)
	}
	w, err := env.Start(ctx, proc.Spec{Argv: workerArgv(args...), Files: []*os.File{waits}, IdleIO: true})
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return w, conn, nil
}

// connected are a socket that waits for connections, and the first one to it.
func connected() (waits, conn *os.File, err error) {
	dir, err := os.MkdirTemp("", "vdsm-agent-nbd-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	name := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }() // what is in use was duplicated
	c, err := net.DialUnix("unix", nil, name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.Close() }()
	if waits, err = l.File(); err != nil {
		return nil, nil, err
	}
	if conn, err = c.File(); err != nil {
		waits.Close()
	}
	return waits, conn, err
}

// serveImage turns this process into the server. Its socket is handed over as a service manager does, by two variables.
func serveImage(node string, layers []string) error {
	direct := true
	for i, l := range layers {
		flags := os.O_RDONLY
		if i == 0 {
			flags = os.O_RDWR
		}
		d, err := takesDirect(l, flags)
		if err != nil {
			return err
		}
		direct = direct && d
	}
	program, err := exec.LookPath("qemu-nbd")
	if err != nil {
		return err
	}
	cache := map[bool]string{true: "none", false: "writeback"}[direct]
	argv := []string{program, "--cache=" + cache, "--discard=unmap", "--detect-zeroes=off", "--allocation-depth", node}
	env := append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return os.NewSyscallError("execve", syscall.Exec(program, argv, env))
}

// sparsify is the worker that is the client.
func sparsify(path string, align, from, done int64, pace *pacer, out *answers) (err error) {
	conn, err := net.FileConn(os.NewFile(3, "server")) // the first of Files
	if err != nil {
		return err
	}
	c, err := nbd.Open(conn, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	total := int64(0)
	err = c.EachExtent(from, func(e nbd.Extent) error {
		if e.Own && !e.Zero {
			total += e.End - e.Start
		}
		return nil
	})
	if err != nil {
		return err
	}
	settle := func() error {
		if err := c.Flush(); err != nil {
			return &syncError{err}
		}
		return nil
	}
	m, err := newMover(settle, out, pace, done, done+total, sliceLimit(done+total, minSlice))
	if err != nil {
		return err
	}
	f := freer{c, path, align}
	err = c.EachExtent(from, func(e nbd.Extent) error { return f.give(m, e) })
	m.cut(c.Size())
	return errors.Join(err, m.end())
}

// freer frees stretches of an image.
type freer struct {
	*nbd.Conn
	path  string
	align int64 // what can be freed begins and ends at multiples of it, or at the end of the image
}

// give hands a stretch to the mover, in pieces that begin and end at multiples of their size. Zeros that the image holds itself may take
// room too, which shows nowhere.
func (f freer) give(m *mover, e nbd.Extent) error {
	if !e.Own {
		return nil
	}
	size := max(chunk, f.align)
	if e.Zero {
		size = zeroPiece
	}
	for at := e.Start; at < e.End; {
		start, end := at, min(e.End, at-at%size+size)
		at = end
		read := end - start
		if e.Zero {
			read = 0
		}
		err := m.do(end, read, func(buf []byte) error {
			if e.Zero {
				return f.free(start, end)
			}
			return f.look(start, end, buf)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// look reads a piece and frees its runs of zeros.
func (f freer) look(start, end int64, buf []byte) error {
	zeros := start // all from here on are zeros
	for at := start; at < end; {
		b := buf[:min(int64(len(buf)), end-at)]
		if err := f.Read(b, at); err != nil {
			return fmt.Errorf("%s cannot be read at %d: %w", f.path, at, err)
		}
		for len(b) > 0 {
			n := min(int64(len(b)), zeroBlock-at%zeroBlock)
			if zeroRun(b[:n]) < int(n) {
				if err := f.free(zeros, at); err != nil {
					return err
				}
				zeros = at + n
			}
			at, b = at+n, b[n:]
		}
	}
	return f.free(zeros, end)
}

// free frees what can be freed of a run of zeros.
func (f freer) free(start, end int64) error {
	start = (start + f.align - 1) / f.align * f.align
	if end < f.Size() {
		end -= end % f.align
	}
	if start >= end {
		return nil
	}
	switch err := f.Zero(start, end-start); {
	case errors.Is(err, syscall.ENOTSUP):
		return fmt.Errorf("parts of %s cannot be freed: its file system makes no holes, or its format is of version 0.10", f.path)
	case err != nil:
		return fmt.Errorf("%s cannot be freed at %d: %w", f.path, start, err)
	}
	return nil
}
