package main

import (
	"context"
	"net"

	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/client"
)

// target is the daemon that is called: one of this host by its socket, or one of another.
type target struct {
	socket    string
	remote    string // "host:port"; "" = the socket
	files     certs.Files
	checkName bool
}

// target is what the flags say, and where they say nothing the environment.
func (g *globals) target(env func(string) string) (target, error) {
	or := func(flag, name string) string {
		if flag != "" {
			return flag
		}
		return env(name)
	}
	t := target{socket: g.Socket, remote: or(g.Connect, "VDSM_AGENT_CONNECT"), checkName: g.VerifyHost, files: certs.Files{
		Cert: or(g.Cert, "VDSM_AGENT_CERT"), Key: or(g.Key, "VDSM_AGENT_KEY"), CA: or(g.CA, "VDSM_AGENT_CA"),
	}}
	if t.remote == "" {
		if g.Cert != "" || g.Key != "" || g.CA != "" || g.VerifyHost {
			return t, misuse("--cert, --key, --ca and --verify-host go with --connect HOST:PORT; see '%s --help'", program)
		}
		return t, nil
	}
	if _, _, err := net.SplitHostPort(t.remote); err != nil {
		return t, misuse("--connect: %q is not HOST:PORT, as in host.example.com:54321", t.remote)
	}
	for _, f := range []struct{ flag, file string }{{"--cert", t.files.Cert}, {"--key", t.files.Key}, {"--ca", t.files.CA}} {
		if f.file == "" {
			return t, misuse("--connect needs %s FILE; see '%s --help'", f.flag, program)
		}
	}
	return t, nil
}

// String is where the daemon is.
func (t target) String() string {
	if t.remote != "" {
		return t.remote
	}
	return t.socket
}

func (t target) dial(ctx context.Context) (*client.Client, error) {
	if t.remote == "" {
		return client.Dial(ctx, t.socket)
	}
	config, err := certs.Client(t.files, t.checkName)
	if err != nil {
		return nil, err
	}
	return client.DialTLS(ctx, t.remote, config)
}
