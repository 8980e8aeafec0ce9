package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/sourcegraph/jsonrpc2"
	"golang.org/x/sys/unix"
)

// StallAfter is how long a peer may read nothing of what is written to it before it is given up.
const StallAfter = 30 * time.Second

// Lines is the framing of a local connection: one message on each line, as UTF-8 JSON without a raw line feed in it.
// Empty lines are skipped, and the last line may end with the connection.
type Lines struct {
	conn net.Conn
	max  int
	in   *bufio.Reader
	long []byte // a line that is longer than in's buffer
	out  []byte // what is being written
}

var _ Framing = (*Lines)(nil)

const (
	readBuffer = 4 << 10   // an idle connection costs little
	keepBuffer = 64 << 10  // a buffer that has grown over this is given back after its message
	writePiece = 256 << 10 // what must be read by the peer within StallAfter
)

// NewLines reads and writes lines on conn. A line of more than most bytes is skipped.
func NewLines(conn net.Conn, most int) *Lines {
	return &Lines{conn: conn, max: most, in: bufio.NewReaderSize(conn, readBuffer)}
}

// ReadMessage returns the next line that is not empty. A connection that the peer has dropped ends as one that it has
// closed.
func (l *Lines) ReadMessage() (Message, error) {
	for {
		line, err := l.line()
		if err != nil {
			return Message{}, err
		}
		if line = bytes.Trim(line, " \t\r\n"); len(line) > 0 {
			return Message{Body: line}, nil
		}
	}
}

func (l *Lines) line() ([]byte, error) {
	if cap(l.long) > keepBuffer {
		l.long = nil
	}
	l.long = l.long[:0]
	skipping := false
	for {
		part, err := l.in.ReadSlice('\n')
		whole := err == nil
		switch {
		case Gone(err):
			return nil, io.EOF
		case err == io.EOF && len(part)+len(l.long) > 0 && !skipping:
			whole = true // the next read says EOF again
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		if !skipping && len(l.long)+len(part) > l.max+1 { // the line feed does not count
			skipping, l.long = true, nil
		}
		switch {
		case skipping && whole:
			return nil, ErrTooLong
		case skipping:
		case whole && len(l.long) == 0:
			return part, nil
		default:
			if len(l.long)+len(part) > cap(l.long) { // doubled each time, so that growing costs no more than the line
				l.long = slices.Grow(l.long, max(cap(l.long), len(part)))
			}
			l.long = append(l.long, part...)
		}
		if whole {
			return l.long, nil
		}
	}
}

// Gone says whether an error of a connection means that one side has dropped it.
func Gone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// Gather returns at once: nobody on this host needs to be paced.
func (l *Lines) Gather() error { return nil }

// WriteMessages writes each message and a line feed. Errors: as Write's.
func (l *Lines) WriteMessages(all []Outgoing) error {
	if cap(l.out) > keepBuffer {
		l.out = nil
	}
	l.out = l.out[:0]
	for _, m := range all {
		for _, piece := range m.Body {
			l.out = append(l.out, piece...)
		}
		l.out = append(l.out, '\n')
	}
	return Write(l.conn, l.out)
}

// Flush returns at once: what was written to a unix socket is the peer's.
func (l *Lines) Flush(context.Context) {}

// Write writes all of b, and in one call if it has 256 KiB at most. Errors: io.EOF when the peer is gone; that it has read
// nothing for StallAfter.
func Write(conn net.Conn, b []byte) error {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		err := conn.SetWriteDeadline(time.Now().Add(StallAfter))
		n := 0
		if err == nil {
			n, err = conn.Write(piece)
		}
		stalled := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case stalled && n == 0:
			return fmt.Errorf("the peer has read nothing for %s", StallAfter)
		case Gone(err):
			return io.EOF
		case err != nil && !stalled:
			return err
		}
		b = b[n:]
	}
	return nil
}

// Listening says whether a peer that sends no more still reads: it has shut down one direction of its socket only.
func (l *Lines) Listening() bool {
	s, ok := l.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	listening := false
	err = raw.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(polled, 0)
		listening = err == nil && polled[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0
	})
	return err == nil && listening
}

// Close closes the connection.
func (l *Lines) Close() error { return l.conn.Close() }

// Objects is a jsonrpc2.ObjectStream for a client: each object is a message of f. Unlike a Stream it expects a peer
// that sends neither batches nor anything invalid.
func Objects(f Framing) jsonrpc2.ObjectStream { return objects{f} }

type objects struct{ Framing }

func (o objects) WriteObject(obj any) error {
	raw, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	return o.WriteMessages([]Outgoing{{Body: [][]byte{raw}}})
}

func (o objects) ReadObject(v any) error {
	m, err := o.ReadMessage()
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Body, v)
}
