package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// Conn is an export that is open. Its methods may be called by several goroutines at once; what they ask is under way at the same
// time. After an error of the connection all of them fail.
type Conn struct {
	conn     io.ReadWriteCloser
	size     int64
	contexts map[uint32]string

	mu     sync.Mutex // guards what follows, and writing to conn
	cookie uint64
	calls  map[uint64]*call
	broken error
}

// call is a request under way. Only receive touches it until done is closed.
type call struct {
	offset  int64
	into    []byte                // where what is read goes
	extents map[string][]descript // by context
	err     error
	done    chan struct{}
}

// descript is one of the stretches that a server describes.
type descript struct{ Length, Flags uint32 }

// The second half of the protocol.
const (
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	magicChunk   = 0x668e33ef

	cmdRead   = 0
	cmdLeave  = 2
	cmdFlush  = 3
	cmdZero   = 6
	cmdStatus = 7

	flagFast = 1 << 4 // refuse what is no faster than writing zeros

	chunkLast   = 1 << 0 // a flag
	chunkNone   = 0
	chunkData   = 1
	chunkHole   = 2
	chunkStatus = 5
	chunkError  = 1 << 15

	maxChunk = 64 << 20 // what a server may answer at a time
)

// Size is how many bytes the export has.
func (c *Conn) Size() int64 { return c.size }

// Read fills p with what is at offset.
func (c *Conn) Read(p []byte, offset int64) error {
	return c.do(cmdRead, 0, offset, len(p), &call{into: p})
}

// Zero makes a stretch read as zeros and gives back what it takes, where that is possible without writing zeros; otherwise it fails
// with ENOTSUP.
func (c *Conn) Zero(offset, length int64) error {
	return c.do(cmdZero, flagFast, offset, int(length), &call{})
}

// Flush puts all that was answered before on stable storage.
func (c *Conn) Flush() error { return c.do(cmdFlush, 0, 0, 0, &call{}) }

// Close leaves the server.
func (c *Conn) Close() error {
	c.mu.Lock()
	var err error
	if c.broken == nil {
		err = c.send(cmdLeave, 0, 0, 0)
	}
	c.mu.Unlock()
	return errors.Join(err, c.conn.Close())
}

// do sends a request and waits for its answer.
func (c *Conn) do(command, flags uint16, offset int64, length int, k *call) error {
	k.offset, k.done = offset, make(chan struct{})
	c.mu.Lock()
	err := c.broken
	if err == nil {
		c.cookie++
		c.calls[c.cookie] = k
		if err = c.send(command, flags, offset, length); err != nil {
			delete(c.calls, c.cookie)
		}
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	<-k.done
	return k.err
}

// send writes a request with the cookie that is current. The caller holds mu.
func (c *Conn) send(command, flags uint16, offset int64, length int) error {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	_, err := c.conn.Write(binary.BigEndian.AppendUint32(b, uint32(length)))
	return err
}

// receive hands out answers until the connection ends; then all that wait are told.
func (c *Conn) receive() {
	var err error
	for err == nil {
		err = c.answer()
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the NBD server has ended")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = err
	for _, k := range c.calls {
		k.err = err
		close(k.done)
	}
	c.calls = nil
}

// answer reads one answer, or a part of one.
func (c *Conn) answer() error {
	var magic uint32
	if err := binary.Read(c.conn, binary.BigEndian, &magic); err != nil {
		return err
	}
	switch magic {
	case magicSimple:
		var head struct {
			Error  uint32
			Cookie uint64
		}
		if err := binary.Read(c.conn, binary.BigEndian, &head); err != nil {
			return err
		}
		k, err := c.find(head.Cookie)
		if err != nil {
			return err
		}
		if head.Error == 0 && len(k.into) > 0 {
			return errors.New("the NBD server answers a read in the old way")
		}
		k.fail(head.Error, "")
		c.finish(head.Cookie, k)
		return nil
	case magicChunk:
		return c.chunk()
	}
	return fmt.Errorf("the NBD server answers with %#x", magic)
}

// chunk reads a part of an answer.
func (c *Conn) chunk() error {
	var head struct {
		Flags, Kind uint16
		Cookie      uint64
		Length      uint32
	}
	if err := binary.Read(c.conn, binary.BigEndian, &head); err != nil {
		return err
	}
	k, err := c.find(head.Cookie)
	if err != nil {
		return err
	}
	if head.Length > maxChunk {
		return fmt.Errorf("the NBD server answers with %d bytes at a time", head.Length)
	}
	if head.Kind == chunkData {
		err = k.data(c.conn, head.Length)
	} else {
		body := make([]byte, head.Length)
		if _, err = io.ReadFull(c.conn, body); err == nil {
			err = k.other(head.Kind, body, c.contexts)
		}
	}
	if err == nil && head.Flags&chunkLast != 0 {
		c.finish(head.Cookie, k)
	}
	return err
}

// data reads what was asked for into its place.
func (k *call) data(from io.Reader, length uint32) error {
	var at uint64
	if err := binary.Read(from, binary.BigEndian, &at); err != nil {
		return err
	}
	into, err := k.place(at, uint64(length)-8)
	if err == nil {
		_, err = io.ReadFull(from, into)
	}
	return err
}

// place is the part of what is read that a stretch of the export goes to.
func (k *call) place(at, length uint64) ([]byte, error) {
	if start := at - uint64(k.offset); at >= uint64(k.offset) && start <= uint64(len(k.into)) && length <= uint64(len(k.into))-start {
		return k.into[start : start+length], nil
	}
	return nil, fmt.Errorf("the NBD server answers with %d bytes at %d, which nobody asked for", length, at)
}

func (k *call) other(kind uint16, body []byte, contexts map[uint32]string) error {
	be := binary.BigEndian
	switch {
	case kind == chunkNone:
		return nil
	case kind == chunkHole && len(body) == 12:
		into, err := k.place(be.Uint64(body), uint64(be.Uint32(body[8:])))
		clear(into)
		return err
	case kind == chunkStatus && k.extents != nil && len(body) >= 12 && len(body)%8 == 4:
		name := contexts[be.Uint32(body)]
		for b := body[4:]; len(b) > 0; b = b[8:] {
			k.extents[name] = append(k.extents[name], descript{be.Uint32(b), be.Uint32(b[4:])})
		}
		return nil
	case kind&chunkError != 0 && len(body) >= 6:
		text := body[6:]
		k.fail(be.Uint32(body), string(text[:min(len(text), int(be.Uint16(body[4:])))]))
		return nil
	}
	return fmt.Errorf("the NBD server answers with %d bytes of kind %d", len(body), kind)
}

// fail notes an error that the server answers; the first one counts. Its numbers are those of Linux.
func (k *call) fail(number uint32, text string) {
	switch {
	case number == 0 || k.err != nil:
	case text != "":
		k.err = fmt.Errorf("%w: %s", syscall.Errno(number), text)
	default:
		k.err = syscall.Errno(number)
	}
}

func (c *Conn) find(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[cookie]
	if k == nil {
		return nil, fmt.Errorf("the NBD server answers request %d, which is not under way", cookie)
	}
	return k, nil
}

func (c *Conn) finish(cookie uint64, k *call) {
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	close(k.done)
}
