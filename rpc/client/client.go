// Package client calls the agent over its unix socket. It knows how calls travel and no verb. It may be imported by the
// command line, by vmops (for another host's agent) and by tests.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"

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
	conn *jsonrpc2.Conn
	last atomic.Uint64 // id of the last request; the first is 1, since an answer without an id reads as 0
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
func New(conn net.Conn) *Client {
	objects := stream.Objects(stream.NewLines(conn, maxAnswer))
	return &Client{conn: jsonrpc2.NewConn(context.Background(), objects, ignore{}, jsonrpc2.SetLogger(silent{}))}
}

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

// ignore takes the requests of an agent, which sends none.
type ignore struct{}

func (ignore) Handle(context.Context, *jsonrpc2.Conn, *jsonrpc2.Request) {}

// silent takes what jsonrpc2 would print; callers get the same as errors.
type silent struct{}

func (silent) Printf(string, ...any) {}
