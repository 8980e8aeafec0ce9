// Package remote is how clients on other hosts reach the agent: TCP, TLS, and STOMP over them. It knows no verb. It may be imported
// by agent and tests.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/rpc/stream"
)

// Times that a client has by default, as with VDSM.
const (
	HandshakeFor  = 10 * time.Second // for the handshake of TLS
	FirstBytesFor = 10 * time.Second // from then on, until it has begun to speak STOMP
)

// keepAlive notices peers that are gone without a word: real clients promise no heart-beats.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6}

// Plain is the transport of STOMP over TCP without TLS. Nobody is proven to be anybody there.
type Plain struct {
	Role    access.Role // of everybody
	Options stomp.Options
}

// Name is plain.
func (Plain) Name() string { return "plain" }

// Open waits for the first bytes for FirstBytesFor.
func (p Plain) Open(ctx context.Context, conn net.Conn) (stream.Framing, rpc.Peer, error) {
	peer := rpc.Peer{Name: fmt.Sprintf("unproven (%s)", conn.RemoteAddr()), Role: p.Role}
	f, err := open(ctx, conn, p.Options)
	return f, peer, err
}

// TLS is the transport of STOMP over TLS.
type TLS struct {
	Certificates *certs.Watched
	Policy       *access.Policy
	// CheckName refuses a client whose common name is neither its address nor a name that its address has, as VDSM's
	// verify_client_cert does. Clients on this host are not looked at.
	CheckName bool
	Options   stomp.Options
}

// Name is tls.
func (TLS) Name() string { return "tls" }

// Open shakes hands, for HandshakeFor at most, and waits for the first bytes for FirstBytesFor.
func (t TLS) Open(ctx context.Context, conn net.Conn) (stream.Framing, rpc.Peer, error) {
	config, err := t.Certificates.Server()
	if err != nil {
		return nil, rpc.Peer{}, err
	}
	secure := tls.Server(conn, config)
	limit, end := context.WithTimeout(ctx, HandshakeFor)
	err = secure.HandshakeContext(limit)
	end()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, rpc.Peer{}, fmt.Errorf("its TLS handshake took longer than %s", HandshakeFor)
	case err != nil:
		return nil, rpc.Peer{}, fmt.Errorf("the TLS handshake failed: %w", err)
	}
	leaf := secure.ConnectionState().PeerCertificates[0]
	peer := rpc.Peer{Name: fmt.Sprintf("%s (%s)", nameOf(leaf), conn.RemoteAddr()), Role: t.Policy.OfCertificate(leaf)}
	if t.CheckName {
		if err := checkName(ctx, leaf, conn.RemoteAddr(), net.DefaultResolver.LookupAddr); err != nil {
			return nil, peer, err
		}
	}
	o := t.Options
	o.Secure = true
	f, err := open(ctx, secure, o)
	return f, peer, err
}

// open makes a session of a connection, also if ctx ends meanwhile: then it is an error soon.
func open(ctx context.Context, conn net.Conn, o stomp.Options) (stream.Framing, error) {
	if socket, ok := underlying(conn).(*net.TCPConn); ok {
		if err := socket.SetKeepAliveConfig(keepAlive); err != nil {
			return nil, err
		}
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })() // a deadline that has passed ends the wait
	if err := conn.SetReadDeadline(time.Now().Add(FirstBytesFor)); err != nil {
		return nil, err
	}
	s, err := stomp.Open(conn, o)
	if err != nil {
		return nil, err
	}
	return s, conn.SetReadDeadline(time.Time{})
}

func underlying(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

func nameOf(c *x509.Certificate) string {
	if names := access.Names(c); len(names) > 0 {
		return names[0]
	}
	return "a certificate without a name"
}

// lookUpFor is how long the names of an address are asked for.
const lookUpFor = 5 * time.Second

// checkName refuses a common name that is neither the peer's address nor one of the names that lookUp knows of that.
func checkName(ctx context.Context, c *x509.Certificate, from net.Addr, lookUp func(context.Context, string) ([]string, error)) error {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		return err
	}
	ip := net.ParseIP(host)
	if ip.IsLoopback() || ip.Equal(net.ParseIP(c.Subject.CommonName)) {
		return nil
	}
	limit, end := context.WithTimeout(ctx, lookUpFor)
	defer end()
	names, err := lookUp(limit, host)
	if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSuffix(n, "."), c.Subject.CommonName) }) {
		return nil
	}
	known := strings.Join(names, ", ")
	if err != nil {
		known = err.Error()
	}
	return fmt.Errorf("its certificate is that of %q, which is neither its address nor one of its names (%s); mend the name service, or set check_name = false in section [tls]",
		c.Subject.CommonName, known)
}
