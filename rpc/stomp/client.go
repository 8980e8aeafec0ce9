package stomp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"vdsm-agent/rpc/stream"
)

// Client is the client's side of a connection: requests go to Requests, their answers come back to a subscription of its own, and
// events too once they are asked for.
type Client struct {
	in  *Reader
	out *wire
}

var _ stream.Framing = (*Client)(nil)

const (
	mostAnswer   = 1 << 30          // bytes of an answer
	clientBeat   = 10 * time.Second // what is asked of the agent
	replySub     = "replies"
	eventSub     = "events"
	greetingWait = 15 * time.Second
)

// Connect greets an agent over a connection that exists. Errors: it does not answer as an agent does; it does not answer in time.
func Connect(conn net.Conn) (*Client, error) {
	c := &Client{out: newWire(conn)}
	c.in = NewReader(c.out, mostAnswer)
	if err := conn.SetReadDeadline(time.Now().Add(greetingWait)); err != nil {
		return nil, err
	}
	err := c.out.frame("CONNECT", []Header{{"accept-version", "1.2"}, {"heart-beat", fmt.Sprintf("0,%d", clientBeat.Milliseconds())}}, nil)
	if err == nil {
		err = c.subscribe(replySub, replySub)
	}
	if err != nil {
		return nil, err
	}
	f, err := c.in.Read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("it has not answered for %s", greetingWait)
	case err != nil:
		return nil, err
	case f.Command != "CONNECTED":
		return nil, fmt.Errorf("it answers with %.20q: %.100s", f.Command, f.Body)
	}
	beat, _ := heartBeats(f.Get("heart-beat"))
	c.out.expect(beat)
	return c, conn.SetReadDeadline(time.Time{})
}

func (c *Client) subscribe(id, to string) error {
	return c.out.frame("SUBSCRIBE", []Header{{"id", id}, {destination, to}, {"ack", "auto"}}, nil)
}

// SubscribeEvents asks for events.
func (c *Client) SubscribeEvents() error { return c.subscribe(eventSub, Events) }

// ReadMessage returns the next answer or event. Errors: io.EOF; the agent is silent although it had promised heart-beats; it
// complains of what was sent.
func (c *Client) ReadMessage() (stream.Message, error) {
	f, err := c.in.Read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return stream.Message{}, errors.New("the agent is silent")
	case stream.Gone(err):
		return stream.Message{}, io.EOF
	case err != nil:
		return stream.Message{}, err
	case f.Command != "MESSAGE":
		return stream.Message{}, fmt.Errorf("the agent answers with %.20q: %.100s", f.Command, f.Body)
	}
	return stream.Message{Body: f.Body}, nil
}

// Gather returns at once.
func (c *Client) Gather() error { return nil }

// WriteMessages sends requests.
func (c *Client) WriteMessages(all []stream.Outgoing) error {
	for _, m := range all {
		err := c.out.frame("SEND", []Header{{destination, Requests}, {contentType, jsonType}, {"reply-to", replySub}}, m.Body)
		if err != nil {
			return err
		}
	}
	return nil
}

// Flush waits until the agent's side has taken what was sent.
func (c *Client) Flush(ctx context.Context) { flush(ctx, c.out.conn) }

// Listening is false, as a Session's.
func (c *Client) Listening() bool { return false }

// Close ends the connection.
func (c *Client) Close() error { return c.out.conn.Close() }
