// Package client calls the agent, over its unix socket or by STOMP over TLS, and hears its events. It knows how calls travel and no verb. It may be imported by the
// command line, by vmops (for another host's agent) and by tests.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"vdsm-agent/rpc/stomp"
	"vdsm-agent/rpc/stream"

	"github.com/sourcegraph/jsonrpc2"
)

// Errors besides *Error. Test with errors.Is.
var (
	// ErrNoConnection: nobody answers on the socket; nothing was asked.
	ErrNoConnection = errors.New("no agent answers")
	// ErrConnectionLost: the connection ended before the answer came. It is not known whether the agent did what was asked.
	ErrConnectionLost = errors.New("the connection to the agent was lost before its answer; it is not known whether the request was carried out")
)

// Error is a refusal of the agent: VDSM's number, and a sentence.
type Error struct {
	Code    int
	Message string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// maxAnswer is the most bytes of an answer that are read.
const maxAnswer = 1 << 30

// Client is a connection to an agent. Its methods may be called from any goroutine.
type Client struct {
	conn   *jsonrpc2.Conn
	events *events
	ask    func() error  // says in the transport's own way that events are wanted; nil = it has none
	last   atomic.Uint64 // id of the last request; the first is 1, since an answer without an id reads as 0
}

// Dial connects to the agent's socket. Errors: ErrNoConnection if there is no socket, or nobody listens; fs.ErrPermission;
// ctx's.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EAGAIN):
		return nil, fmt.Errorf("%w on %s: %w", ErrNoConnection, socket, err)
	case err != nil:
		return nil, fmt.Errorf("the agent's socket %s cannot be used: %w", socket, err)
	}
	return New(conn), nil
}

// New calls the agent over a connection that exists.
func New(conn net.Conn) *Client { return over(stream.NewLines(conn, maxAnswer), nil) }

func over(f stream.Framing, ask func() error) *Client {
	e := newEvents()
	c := &Client{conn: jsonrpc2.NewConn(context.Background(), stream.Objects(f), e, jsonrpc2.SetLogger(silent{})), events: e, ask: ask}
	go func() {
		<-c.conn.DisconnectNotify()
		e.end()
	}()
	return c
}

// DialTLS connects to an agent on another host, "host:port", by STOMP over TLS. Errors: ErrNoConnection if nobody listens there, or
// not in time; that one of the two does not trust the other; that who answers is no agent; ctx's.
func DialTLS(ctx context.Context, address string, config *tls.Config) (*Client, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port", address)
	}
	config = config.Clone()
	config.ServerName = host
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrNoConnection, address, err)
	}
	secure := tls.Client(conn, config)
	limit, end := context.WithTimeout(ctx, handshakeFor)
	defer end()
	var s *stomp.Client
	if err = secure.HandshakeContext(limit); err == nil {
		s, err = stomp.Connect(secure)
	}
	if err != nil {
		_ = conn.Close() // the error that counts is err
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			err = fmt.Errorf("it ended the connection, as it does when it refuses a certificate; its log says why (%w)", err)
		}
		return nil, fmt.Errorf("%s cannot be talked to: %w", address, err)
	}
	return over(s, s.SubscribeEvents), nil
}

// handshakeFor is how long a handshake of TLS may take.
const handshakeFor = 10 * time.Second

// Call calls a method and stores its answer in result, a pointer, or nil if the answer does not matter. Several calls may
// be under way at the same time; each ends when its own answer is there.
//
// Errors: *Error if the agent refuses; ErrConnectionLost; ctx's, upon which the agent may still do what was asked.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	if raw, err := json.Marshal(params); err != nil {
		return fmt.Errorf("the parameters of %s cannot be written as JSON: %w", method, err)
	} else if len(raw) > stream.MaxMessage-envelope {
		return fmt.Errorf("the parameters of %s have %d bytes, which is more than the agent reads", method, len(raw))
	}
	id := jsonrpc2.PickID(jsonrpc2.ID{Num: c.last.Add(1)})
	err := c.conn.Call(ctx, method, params, result, id)
	var refused *jsonrpc2.Error
	switch {
	case errors.As(err, &refused):
		return &Error{Code: int(refused.Code), Message: refused.Message}
	case errors.Is(err, jsonrpc2.ErrClosed), errors.Is(err, io.EOF):
		return ErrConnectionLost
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("%s cannot be called, or its answer cannot be read: %w", method, err)
	}
	return err
}

// envelope is more than a request has around its parameters.
const envelope = 4 << 10

// Close ends the connection; calls that are under way answer ErrConnectionLost.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, jsonrpc2.ErrClosed) {
		return err
	}
	return nil
}

// silent takes what jsonrpc2 would print; callers get the same as errors.
type silent struct{}

func (silent) Printf(string, ...any) {}
