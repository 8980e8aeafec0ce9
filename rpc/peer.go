package rpc

import (
	"fmt"
	"net"
	"os/user"
	"strconv"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// peer is who is at the other end of a connection, as the kernel has it. It is nil for what is not a unix socket.
type peer struct{ *unix.Ucred }

func peerOf(conn net.Conn) peer {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer{}
	}
	var p peer
	_ = raw.Control(func(fd uintptr) { // without an answer the peer stays unknown
		p.Ucred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return p
}

// String is short, for audit trails: "root (pid 4711)", or "uid 1234 (pid 4711)" if the user has no name.
func (p peer) String() string {
	if p.Ucred == nil {
		return "an unknown client"
	}
	name := fmt.Sprintf("uid %d", p.Uid)
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.Uid), 10)); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s (pid %d)", name, p.Pid)
}

// context adds the peer to log lines.
func (p peer) context(log zerolog.Context) zerolog.Context {
	if p.Ucred == nil {
		return log.Str("who", p.String())
	}
	return log.Uint32("uid", p.Uid).Uint32("gid", p.Gid).Int32("pid", p.Pid)
}
