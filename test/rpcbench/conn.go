package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/test/benchkit"
)

// conn is a client that writes prepared bytes and reads whole frames.
type conn struct {
	net.Conn
	in   *stomp.Reader
	java bool
}

func (c *conn) close() { _ = c.Close() } // nothing more is asked of it

func (w *world) raw(address string, secure bool) (*conn, error) {
	if !secure {
		n, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: n, in: stomp.NewReader(n, 1<<30)}, nil
	}
	config, err := certs.Client(w.files, false)
	if err != nil {
		return nil, err
	}
	config.ServerName = "host"
	n, err := tls.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: n, in: stomp.NewReader(n, 1<<30)}, nil
}

// dial connects as VDSM's client in Python does: such connections are not paced.
func (w *world) dial(address string, secure bool) (*conn, error) {
	return w.greeted(address, secure, "CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\x00SUBSCRIBE\nid:r\ndestination:r\n\n\x00")
}

// dialJava connects as the engine's client does.
func (w *world) dialJava(address string, secure bool) (*conn, error) {
	c, err := w.greeted(address, secure, "CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n\x00SUBSCRIBE\nid:r\ndestination:r\n\n\x00")
	if err == nil {
		c.java = true
	}
	return c, err
}

func (w *world) greeted(address string, secure bool, greeting string) (*conn, error) {
	c, err := w.raw(address, secure)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte(greeting)); err != nil {
		return nil, err
	}
	f, err := c.in.Read()
	if err == nil && f.Command != "CONNECTED" {
		err = fmt.Errorf("greeted with %s", f.Command)
	}
	return c, err
}

// frame is a request as bytes.
func (c *conn) frame(request string) []byte {
	headers := []stomp.Header{{Name: "destination", Value: "jms.topic.vdsm_requests"}, {Name: "reply-to", Value: "r"}}
	if !c.java {
		headers = append(headers, stomp.Header{Name: "content-type", Value: "application/json"})
	}
	return stomp.Append(nil, "SEND", headers, [][]byte{[]byte(request)})
}

func (c *conn) ask(request string) ([]byte, error) {
	if _, err := c.Write(c.frame(request)); err != nil {
		return nil, err
	}
	f, err := c.in.Read()
	if err != nil {
		return nil, err
	}
	return bytes.Clone(f.Body), nil
}

// round sends requests together and waits for all answers, which may come as arrays.
func (c *conn) round(n int) error {
	for range n {
		if _, err := c.Write(c.frame(`{"jsonrpc":"2.0","id":"1","method":"Host.ping2"}`)); err != nil {
			return err
		}
	}
	for got := 0; got < n; {
		f, err := c.in.Read()
		if err != nil {
			return err
		}
		got += strings.Count(string(f.Body), `"result":true`)
	}
	return nil
}

// rate is answers a second over some connections, each with one request at a time.
func (w *world) rate(address string, secure bool, request string, conns int) (float64, error) {
	var all sync.WaitGroup
	counts, errs := make([]int, conns), make([]error, conns)
	var open []*conn
	for range conns {
		c, err := w.dial(address, secure)
		if err != nil {
			return 0, err
		}
		defer c.close()
		open = append(open, c)
	}
	begun := time.Now()
	for i, c := range open {
		frame := c.frame(request)
		all.Go(func() {
			for time.Since(begun) < measured && errs[i] == nil {
				if _, errs[i] = c.Write(frame); errs[i] == nil {
					_, errs[i] = c.in.Read()
				}
				counts[i]++
			}
		})
	}
	all.Wait()
	took, sum := time.Since(begun).Seconds(), 0
	for i := range counts {
		if errs[i] != nil {
			return 0, errs[i]
		}
		sum += counts[i]
	}
	return float64(sum) / took, nil
}

// p99 is that of Task.getStatus on one connection, in ms, while ten others poll all.
func (w *world) p99(address string) (float64, error) {
	stop := make(chan struct{})
	var pollers sync.WaitGroup
	defer pollers.Wait()
	defer close(stop)
	for range 10 {
		c, err := w.dial(address, true)
		if err != nil {
			return 0, err
		}
		frame := c.frame(getStatuses)
		pollers.Go(func() {
			defer c.close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(frame); err != nil {
					return
				}
				if _, err := c.in.Read(); err != nil {
					return
				}
			}
		})
	}
	c, err := w.dial(address, true)
	if err != nil {
		return 0, err
	}
	defer c.close()
	frame := c.frame(getStatus(w.ids[0]))
	var times []float64
	for begun := time.Now(); time.Since(begun) < 2*measured; {
		asked := time.Now()
		if _, err := c.Write(frame); err != nil {
			return 0, err
		}
		if _, err := c.in.Read(); err != nil {
			return 0, err
		}
		times = append(times, benchkit.Millis(time.Since(asked)))
	}
	return benchkit.Quantile(times, 0.99), nil
}
