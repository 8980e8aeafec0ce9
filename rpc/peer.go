package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc/stream"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection, as far as that is proven.
type Peer struct {
	// Name is short, for audit trails and log lines: "root (pid 4711)", "engine.example.com (192.0.2.7)".
	Name string
	Role access.Role
}

// Transport makes messages of the bytes of a connection.
type Transport interface {
	// Name is one word for all connections of this kind: local, tls, plain.
	Name() string
	// Open does what comes before the first message: it finds out who the peer is, and what it speaks. It returns in bounded
	// time, and soon after ctx has ended. After an error the connection is closed, and the error logged.
	Open(ctx context.Context, conn net.Conn) (stream.Framing, Peer, error)
}

// Local is the transport of the unix socket: lines, and peers whom the kernel names.
type Local struct {
	Policy *access.Policy
}

// Name is local.
func (Local) Name() string { return "local" }

// Open asks the kernel who the peer is. Errors: it does not tell.
func (l Local) Open(_ context.Context, conn net.Conn) (stream.Framing, Peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, Peer{}, errors.New("it is no connection to a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, Peer{}, err
	}
	var creds *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		creds, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil || err != nil {
		return nil, Peer{}, fmt.Errorf("the kernel does not say who it is: %w", errors.Join(controlErr, err))
	}
	return stream.NewLines(conn, stream.MaxMessage), Peer{Name: nameOf(creds), Role: l.Policy.OfUser(creds.Uid, creds.Gid)}, nil
}

// nameOf is "root (pid 4711)", or "uid 1234 (pid 4711)" if the user has no name.
func nameOf(c *unix.Ucred) string {
	name := fmt.Sprintf("uid %d", c.Uid)
	if u, err := user.LookupId(strconv.FormatUint(uint64(c.Uid), 10)); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s (pid %d)", name, c.Pid)
}
