package stomp

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vdsm-agent/rpc/stream"

	"golang.org/x/sys/unix"
)

// wire is the bytes of a connection: whole frames, each in one write, and heart-beats when nothing else is written. It is read from
// here too, since until when the client must be heard is set before each read.
type wire struct {
	conn    net.Conn
	silence time.Duration // how long the client may be silent, 0 = for ever; of the reading goroutine alone

	paced atomic.Bool // it is the engine's client

	// lock is held while something is written, and while that is paced. It is a channel, not a mutex, so that a bubble of
	// testing/synctest sees who waits for it. It guards what follows.
	lock    chan struct{}
	last    time.Time // when something was written last
	every   time.Duration
	beat    *time.Timer // nil = no heart-beats are due
	idle    int         // heart-beats since the last frame
	stopped bool
}

func newWire(conn net.Conn) *wire { return &wire{conn: conn, lock: make(chan struct{}, 1)} }

// Read reads what the client sends. It fails with os.ErrDeadlineExceeded when the client is silent for too long.
func (w *wire) Read(b []byte) (int, error) {
	if w.silence > 0 {
		if err := w.conn.SetReadDeadline(time.Now().Add(w.silence)); err != nil {
			return 0, err
		}
	}
	return w.conn.Read(b)
}

// expect bears silence for twice as long as the client has promised not to be silent; 0 = it has promised nothing.
func (w *wire) expect(every time.Duration) { w.silence = 2 * every }

// frame writes one frame. Errors: as stream.Write's.
func (w *wire) frame(command string, headers []Header, body [][]byte) error {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	return w.write(command, headers, body)
}

// message writes a MESSAGE for a subscription, its headers in VDSM's order.
func (w *wire) message(to sub, body [][]byte) error {
	return w.frame("MESSAGE", []Header{
		{destination, to.destination}, {contentType, jsonType}, {subscription, to.id},
	}, body)
}

// write writes a frame in one call. The caller holds lock.
func (w *wire) write(command string, headers []Header, body [][]byte) error {
	w.pause()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = Append(slices.Grow((*buf)[:0], size(body)+roomForHead), command, headers, body)
	err := stream.Write(w.conn, *buf)
	w.last, w.idle = time.Now(), 0
	return err
}

// buffers are what frames are written in; idle connections have none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// roomForHead is more than the command and the headers of most frames have.
const roomForHead = 512

// beatEvery sends a heart-beat whenever nothing was written for so long; 0 = none.
func (w *wire) beatEvery(every time.Duration) {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	if w.beat != nil {
		w.beat.Stop()
		w.beat = nil
	}
	if w.every = every; every > 0 && !w.stopped {
		w.beat = time.AfterFunc(every, w.tick)
	}
}

// tick sends a heart-beat if one is due, and comes again when the next may be.
func (w *wire) tick() {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	if w.stopped || w.beat == nil {
		return
	}
	if time.Since(w.last) >= w.every {
		if err := w.heartBeat(); err != nil {
			_ = w.conn.Close() // the reader meets that, and says so
			return
		}
	}
	w.beat.Reset(time.Until(w.last.Add(w.every)))
}

// heartBeat writes a line feed or, for the engine's client, now and then a frame. The caller holds lock.
func (w *wire) heartBeat() error {
	if w.paced.Load() && w.idle >= beatsToFrame {
		return w.write("MESSAGE", []Header{{destination, Events}, {contentType, jsonType}, {subscription, Events}}, alive())
	}
	beats := w.idle + 1
	err := stream.Write(w.conn, []byte{'\n'})
	w.last, w.idle = time.Now(), beats
	return err
}

// stop ends the heart-beats.
func (w *wire) stop() {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	w.stopped = true
	if w.beat != nil {
		w.beat.Stop()
	}
}

// raw is the socket under TLS, or what conn is; nil if there is none.
func raw(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// resetAtClose makes the end of a connection a reset, whoever ends it: also the kernel, when the agent is killed.
func resetAtClose(conn net.Conn) {
	if socket := raw(conn); socket != nil {
		_ = socket.SetLinger(0) // if it is closed already, it needs no reset
	}
}

// reset closes a connection without the farewell of TLS, which would be one more frame.
func reset(conn net.Conn) error {
	if socket := raw(conn); socket != nil {
		return socket.Close()
	}
	return conn.Close()
}

// lookAgain is how often it is looked whether the peer has taken everything.
const lookAgain = 2 * time.Millisecond

// flush waits until the peer's kernel has taken all that was written, or ctx ends.
func flush(ctx context.Context, conn net.Conn) {
	socket := raw(conn)
	if socket == nil {
		return
	}
	control, err := socket.SyscallConn()
	if err != nil {
		return
	}
	for {
		left := 0
		if err := control.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return
		}
		if err != nil || left == 0 {
			return
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return
		}
	}
}
