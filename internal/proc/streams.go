package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailSize   = 4 << 10
	copyBuffer = 32 << 10
)

// streams are the standard streams of one worker. os/exec has this too, but waits for the end of the copying in the same
// call that reaps, while we must be able to say "gone" although a reader or writer of ours is slow.
type streams struct {
	stdin, stdout, stderr *os.File // what the worker gets; nil is /dev/null

	theirs []*os.File // ends that we made for the worker: closed once it has them
	feed   func()     // copies Spec.Stdin to it; nil if there is nothing to copy
	feedTo *os.File
	pipes  []*outPipe
	tail   *tail // nil unless Spec.Stderr was
	copies sync.WaitGroup
}

func openStreams(s Spec) (_ *streams, err error) {
	st := &streams{}
	defer func() {
		if err != nil {
			st.abandon()
		}
	}()
	if err := st.openInput(s.Stdin); err != nil {
		return nil, err
	}
	if st.stdout, err = st.openOutput(s.Stdout); err != nil {
		return nil, err
	}
	switch {
	case s.Stderr == nil:
		st.tail = &tail{}
		st.stderr, err = st.openOutput(st.tail)
	case same(s.Stdout, s.Stderr): // one pipe, so that the writer is called by one goroutine only
		st.stderr = st.stdout
	default:
		st.stderr, err = st.openOutput(s.Stderr)
	}
	return st, err
}

// same says whether both are the same writer. Types that cannot be compared are not.
func same(a, b io.Writer) (yes bool) {
	defer func() { _ = recover() }()
	return a == b
}

// give sets what cmd starts with. A nil *os.File in an interface would not be nil.
func (st *streams) give(cmd *exec.Cmd) {
	if st.stdin != nil {
		cmd.Stdin = st.stdin
	}
	if st.stdout != nil {
		cmd.Stdout = st.stdout
	}
	if st.stderr != nil {
		cmd.Stderr = st.stderr
	}
}

func (st *streams) openInput(r io.Reader) error {
	if f, ok := r.(*os.File); ok || r == nil {
		st.stdin = f
		return nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	st.stdin, st.feedTo = pr, pw
	st.theirs = append(st.theirs, pr)
	st.feed = func() {
		_, _ = io.Copy(pw, r) // a worker may end before it has read all: that is its own affair, as with os/exec
		_ = pw.Close()
	}
	return nil
}

func (st *streams) openOutput(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok || w == nil {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	st.theirs = append(st.theirs, pw)
	st.pipes = append(st.pipes, &outPipe{from: pr, to: w})
	return pw, nil
}

func (st *streams) closeTheirs() {
	for _, f := range st.theirs {
		_ = f.Close() // nothing was written through it by us
	}
}

// started is called when the worker has its ends; copying begins.
func (st *streams) started() {
	st.closeTheirs()
	for _, p := range st.pipes {
		st.copies.Go(p.run)
	}
	if st.feed != nil {
		go st.feed()
	}
}

// abandon is called instead of started when the worker could not be started.
func (st *streams) abandon() {
	st.closeTheirs()
	for _, p := range st.pipes {
		_ = p.from.Close()
	}
	if st.feedTo != nil {
		_ = st.feedTo.Close()
	}
}

// finish is called when the worker is gone. It returns when all that the worker wrote was handed over, with the first
// error of a writer. It does not wait for the end of a pipe: whoever else got hold of it is no worker.
func (st *streams) finish() error {
	if st.feedTo != nil {
		_ = st.feedTo.Close()
	}
	var err error
	for _, p := range st.pipes {
		_ = p.from.SetReadDeadline(time.Unix(1, 0)) // wakes run, which then takes what is left; a closed pipe needs no waking
	}
	st.copies.Wait()
	for _, p := range st.pipes {
		err = errors.Join(err, p.err)
	}
	return err
}

// outPipe copies what a worker writes to one stream.
type outPipe struct {
	from *os.File
	to   io.Writer
	err  error // of the writer, or of the pipe; read after run
}

func (p *outPipe) run() {
	defer p.from.Close()
	buf := make([]byte, copyBuffer)
	for {
		n, err := p.from.Read(buf)
		if !p.pass(buf[:n]) || err == io.EOF {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(buf)
			return
		}
		if err != nil {
			p.err = fmt.Errorf("reading the worker's output: %w", err)
			return
		}
	}
}

func (p *outPipe) pass(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	n, err := p.to.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.err = fmt.Errorf("handing over the worker's output: %w", err)
	}
	return err == nil
}

// drain takes what is in the pipe at this moment, and no more: a process that is no worker may go on writing.
func (p *outPipe) drain(buf []byte) {
	conn, err := p.from.SyscallConn()
	if err != nil {
		p.err = err
		return
	}
	err = conn.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // the other name of FIONREAD
		for err == nil && left > 0 {
			var n int
			n, err = unix.Read(int(fd), buf[:min(left, len(buf))])
			if err == unix.EINTR {
				err = nil
				continue
			}
			if n <= 0 || !p.pass(buf[:n]) {
				break
			}
			left -= n
		}
		if err != nil {
			p.err = fmt.Errorf("reading the rest of the worker's output: %w", err)
		}
	})
	p.err = errors.Join(p.err, err)
}

// tail keeps the last bytes that were written to it.
type tail struct{ buf []byte }

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

// String may be called after the last Write.
func (t *tail) String() string {
	if t == nil {
		return ""
	}
	return string(t.buf)
}
