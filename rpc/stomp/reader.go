package stomp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"vdsm-agent/rpc/stream"
)

// Limits of what is read.
const (
	// MaxHeader is the most bytes that the command and the headers of a frame may have.
	MaxHeader = 16 << 10
	// MaxHeaders is how many headers a frame may have.
	MaxHeaders = 64

	readBuffer = 4 << 10  // an idle connection costs little
	keepBuffer = 64 << 10 // a buffer that has grown over this is given back after its frame
	growBy     = 64 << 10 // memory is taken when bytes have come, not when they are announced
)

// Reader reads frames. It takes what real clients send, and more is an error: it names what is wrong, and nothing can be read
// after it.
type Reader struct {
	in   *bufio.Reader
	most int
	head int // bytes of the frame's command and headers so far
	body []byte
}

// NewReader reads frames whose bodies have mostBody bytes at most.
func NewReader(r io.Reader, mostBody int) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, readBuffer), most: mostBody}
}

// Read returns the next frame; line feeds between frames are heart-beats and skipped. Errors: stream.ErrTooLong when a frame
// with a longer body was skipped, after which the next can be read; io.EOF between two frames; io.ErrUnexpectedEOF within one.
func (r *Reader) Read() (*Frame, error) {
	if cap(r.body) > keepBuffer {
		r.body = nil
	}
	f := &Frame{}
	r.head = 0
	for f.Command == "" {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if strings.Contains(line, "\r") { // written again, it would be taken for a heart-beat
			return nil, fmt.Errorf("%.20q is not a command", line)
		}
		r.head = 0
		f.Command = line
	}
	for {
		line, err := r.line()
		if err != nil {
			return nil, unexpected(err)
		}
		if line == "" {
			break
		}
		if err := f.add(line); err != nil {
			return nil, err
		}
	}
	err := r.readBody(f)
	return f, unexpected(err)
}

// unexpected is the end of a connection in the middle of a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// line reads one line of the head, without its end. A NUL in it is what a reader meets that has lost its place.
func (r *Reader) line() (string, error) {
	var long []byte
	for {
		part, err := r.in.ReadSlice('\n')
		if r.head += len(part); r.head > MaxHeader {
			return "", fmt.Errorf("the headers of a frame have more than %d bytes", MaxHeader)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
			continue
		case err == io.EOF && len(part)+len(long) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case long != nil:
			part = append(long, part...)
		}
		if bytes.IndexByte(part, 0) >= 0 {
			return "", errors.New("there is a NUL among the headers of a frame")
		}
		return strings.TrimSuffix(string(part[:len(part)-1]), "\r"), nil
	}
}

// add takes a header's line apart. What is wrong with it ends up in the log, so its value, which may be a passcode, is not shown.
func (f *Frame) add(line string) error {
	raw, rest, colon := strings.Cut(line, ":")
	name, known := unescape(raw)
	value, fits := unescape(rest)
	switch {
	case !colon:
		return errors.New("a line among the headers of a frame has no colon")
	case !known || !fits:
		return fmt.Errorf("the header %.60q has an escape that STOMP does not know", raw)
	case len(f.Headers) == MaxHeaders:
		return fmt.Errorf("a frame has more than %d headers", MaxHeaders)
	}
	f.Headers = append(f.Headers, Header{name, value})
	return nil
}

func (r *Reader) readBody(f *Frame) error {
	r.body = r.body[:0]
	text, counted := f.Lookup(contentLength)
	if !counted {
		return r.untilNUL(f)
	}
	n, err := strconv.ParseUint(text, 10, 62)
	switch {
	case err != nil:
		return fmt.Errorf("%.60q is not a content-length", text)
	case n > uint64(r.most):
		if _, err := io.CopyN(io.Discard, r.in, int64(n)); err != nil {
			return err
		}
		if err := r.end(); err != nil {
			return err
		}
		return stream.ErrTooLong
	}
	for left := int(n); left > 0; {
		piece := min(left, max(growBy, len(r.body)))
		r.body = slices.Grow(r.body, piece)
		at := len(r.body)
		r.body = r.body[:at+piece]
		if _, err := io.ReadFull(r.in, r.body[at:]); err != nil {
			return err
		}
		left -= piece
	}
	f.Body = r.body
	return r.end()
}

func (r *Reader) end() error {
	b, err := r.in.ReadByte()
	if err == nil && b != 0 {
		return errors.New("a frame's body is longer than its content-length")
	}
	return err
}

// untilNUL reads a body that was not counted.
func (r *Reader) untilNUL(f *Frame) error {
	skipping := false
	for {
		part, err := r.in.ReadSlice(0)
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		case len(r.body)+len(part) > r.most+1: // the NUL does not count
			skipping, r.body = true, nil
		case !skipping:
			r.body = append(r.body, part...)
		}
		switch {
		case err != nil:
		case skipping:
			return stream.ErrTooLong
		default:
			f.Body = r.body[:len(r.body)-1]
			return nil
		}
	}
}
