// Package virt is libvirt as the verbs of virtual machines need it: a connection that comes back by itself, every call with a
// deadline, and what happens to the machines of this host as signals. It is the seam between vmops and libvirt, over libvirt's own
// protocol; it knows no task and no verb.
//
// A call that libvirt does not answer in time is given up: its caller gets an error that Unreachable knows, and may not conclude
// anything about its effect. An answer that comes later is logged and never applied. It may be imported by vmops and agent.
package virt

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"sync"
	"time"

	"vdsm-agent/internal/code"

	"github.com/digitalocean/go-libvirt"
	"github.com/rs/zerolog"
)

// Deadlines of calls. What only asks, or asks for something to begin, is answered in milliseconds; what waits for a guest or for a
// lock of libvirt takes up to half a minute.
const (
	dialWithin  = 3 * time.Second
	askWithin   = 10 * time.Second
	actWithin   = 45 * time.Second
	startWithin = 5 * time.Minute
)

// mostLeft is how many calls may be left behind before new ones are refused at once: libvirt does not answer anyway.
const mostLeft = 64

// Options are what a Client needs.
type Options struct {
	Socket string // libvirt's, such as /run/libvirt/libvirt-sock
	Log    zerolog.Logger
}

// Client is the connection to libvirt. It is made anew whenever it is lost.
type Client struct {
	options Options
	ctx     context.Context //nolint:containedctx // ends with Close
	close   context.CancelFunc
	running sync.WaitGroup
	watches watches

	dialing sync.Mutex // held while a connection is made
	mu      sync.Mutex // guards the rest
	conn    *connection
	left    int // calls that were given up and have not come back
}

// connection is one life of it.
type connection struct {
	*libvirt.Libvirt
	raw  net.Conn
	gone chan struct{} // closed when nothing can be read any more
}

var errClosed = errors.New("the agent is shutting down")

// Open makes a client. Whether libvirt is there shows with the first call; until Close it is tried again and again.
func Open(o Options) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{options: o, ctx: ctx, close: cancel}
	c.running.Go(c.keep)
	return c
}

// Close ends the connection, and with it all calls.
func (c *Client) Close() {
	c.close()
	c.mu.Lock()
	if c.conn != nil {
		c.conn.raw.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// keep has the connection, so that signals come also while nobody calls.
func (c *Client) keep() {
	const most = 5 * time.Second
	said := ""
	for delay := 100 * time.Millisecond; c.ctx.Err() == nil; delay = min(2*delay, most) {
		conn, err := c.connected(c.ctx)
		if err == nil {
			said, delay = "", 100*time.Millisecond
			select {
			case <-conn.gone:
				c.options.Log.Warn().Msg("the connection to libvirt is lost")
			case <-c.ctx.Done():
			}
			continue
		}
		if text := err.Error(); text != said && c.ctx.Err() == nil {
			said = text
			c.options.Log.Warn().Err(err).Msg("libvirt cannot be reached; it is tried again")
		}
		select {
		case <-time.After(delay):
		case <-c.ctx.Done():
		}
	}
}

// connected returns the connection, a new one if there is none.
func (c *Client) connected(ctx context.Context) (*connection, error) {
	if conn := c.current(); conn != nil {
		return conn, nil
	}
	c.dialing.Lock()
	defer c.dialing.Unlock()
	if conn := c.current(); conn != nil {
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	conn, err := c.dial(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unreachable("there is no libvirt on this host: %s does not exist; install and start it, or name its socket in the configuration ([vm] libvirt)", c.options.Socket)
	}
	if err != nil {
		return nil, unreachable("libvirt cannot be reached on %s: %w", c.options.Socket, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		conn.raw.Close()
		return nil, unreachable("%w", errClosed)
	}
	c.conn = conn
	c.options.Log.Info().Str("socket", c.options.Socket).Msg("connected to libvirt")
	return conn, nil
}

// current is the connection that there is, or nil.
func (c *Client) current() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	select {
	case <-c.conn.gone:
		return nil
	default:
		return c.conn
	}
}

// dial makes a connection and asks for its events.
func (c *Client) dial(ctx context.Context) (*connection, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", c.options.Socket)
	if err != nil {
		return nil, err
	}
	conn := &connection{raw: raw, gone: make(chan struct{})}
	conn.Libvirt = libvirt.NewWithDialer(dialed{&signalling{Conn: raw, gone: conn.gone}})
	done := make(chan error, 1)
	c.running.Go(func() {
		err := conn.ConnectToURI(libvirt.QEMUSystem)
		if err == nil {
			err = c.listen(conn)
		}
		done <- err
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		err = errors.New("it does not answer")
	case <-c.ctx.Done():
		err = errClosed
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// dialed is a Dialer for a connection that is there.
type dialed struct{ conn net.Conn }

func (d dialed) Dial() (net.Conn, error) { return d.conn, nil }

// signalling is a connection that says when it is at its end.
type signalling struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

func (s *signalling) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.once.Do(func() { close(s.gone) })
		s.Conn.Close()
	}
	return n, err
}

// answer is what a call gives.
type answer[T any] struct {
	value T
	err   error
}

// call calls libvirt, and returns its answer, or gives it up when the limit has passed or ctx has ended. what says in a few words what it does.
func call[T any](ctx context.Context, c *Client, what string, limit time.Duration, f func(*connection) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeoutCause(ctx, limit, unreachable("libvirt has not answered within %s when it was asked to %s", limit, what))
	defer cancel()
	conn, err := c.connected(ctx)
	if err != nil {
		return none, err
	}
	if err := c.begin(); err != nil {
		return none, err
	}
	answered := make(chan answer[T], 1)
	c.running.Go(func() {
		v, err := f(conn)
		answered <- answer[T]{v, err}
		c.mu.Lock()
		c.left--
		c.mu.Unlock()
	})
	select {
	case a := <-answered:
		return a.value, explained(what, a.err)
	case <-ctx.Done():
		c.running.Go(func() {
			if a := <-answered; c.ctx.Err() == nil {
				c.options.Log.Warn().AnErr("answer", a.err).Msgf("libvirt answers late that it was asked to %s; nothing follows from it", what)
			}
		})
		return none, context.Cause(ctx)
	}
}

// begin counts a call that is under way.
func (c *Client) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left >= mostLeft {
		return unreachable("libvirt has not answered %d calls; look at its log, or restart it (machines go on)", c.left)
	}
	c.left++
	return nil
}

// act is a call without an answer but that it succeeded, on a machine.
func (c *Client) act(ctx context.Context, vm, what string, limit time.Duration, f func(*connection, libvirt.Domain) error) error {
	_, err := ask(ctx, c, vm, what, limit, func(l *connection, d libvirt.Domain) (struct{}, error) { return struct{}{}, f(l, d) })
	return err
}

// ask is a call on a machine, which is looked up first.
func ask[T any](ctx context.Context, c *Client, vm, what string, limit time.Duration, f func(*connection, libvirt.Domain) (T, error)) (T, error) {
	id, err := parse(vm)
	if err != nil {
		var none T
		return none, err
	}
	return call(ctx, c, what+" machine "+vm, limit, func(l *connection) (T, error) {
		d, err := l.DomainLookupByUUID(id)
		if err != nil {
			var none T
			if libvirt.IsNotFound(err) {
				err = code.Errorf(code.NoSuchVM, "there is no virtual machine %s on this host", vm)
			}
			return none, err
		}
		return f(l, d)
	})
}
