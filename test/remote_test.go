package test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"vdsm-agent/rpc/certs/certstest"

	"github.com/rogpeppe/go-internal/testscript"
)

// certificate DIR NAME [LASTS]: writes DIR/NAME.pem, NAME.key and ca.pem; the authority is DIR's. A negative LASTS has passed.
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	d, dir := of(ts), ts.MkAbs(args[0])
	lasts := time.Hour
	if len(args) > 2 {
		var err error
		lasts, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	if d.authorities[dir] == nil {
		ts.Check(os.MkdirAll(dir, 0o700))
		authority, err := certstest.NewAuthority(args[0])
		ts.Check(err)
		d.authorities[dir] = authority
	}
	_, err := d.authorities[dir].Write(dir, args[1], lasts)
	ts.Check(err)
}

// address VAR: sets the variable to the last address on which the daemon says that clients on other hosts can connect.
func address(ts *testscript.TestScript, _ bool, args []string) {
	d := of(ts)
	for {
		for line := range strings.Lines(d.log.String()[d.from:]) {
			var said struct{ Message, Address string }
			if err := json.Unmarshal([]byte(line), &said); err != nil {
				continue // it is not whole yet
			}
			switch {
			case said.Message == "clients on other hosts can connect":
				ts.Setenv(args[0], said.Address)
				return
			case strings.HasPrefix(said.Message, "clients on other hosts"):
				ts.Fatalf("%s", line)
			}
		}
		if _, err := command(ts, "Host", "ping"); err != nil {
			ts.Fatalf("the daemon does not listen, and answers no more: %v\n%s", err, d.log.String())
		}
	}
}

// hangup ADDRESS: kills the daemon while a client is connected without TLS and waits, which must notice that as the engine's client
// does: by a reset.
func hangUp(ts *testscript.TestScript, _ bool, args []string) {
	conn, err := net.Dial("tcp", args[0])
	ts.Check(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "CONNECT\naccept-version:1.2\n\n\x00")
	ts.Check(err)
	answer := make([]byte, 1<<10)
	n, err := conn.Read(answer)
	ts.Check(err)
	if !strings.HasPrefix(string(answer[:n]), "CONNECTED") {
		ts.Fatalf("greeted with %q", answer[:n])
	}
	of(ts).kill()
	if n, err := conn.Read(answer); !errors.Is(err, syscall.ECONNRESET) {
		ts.Fatalf("the connection ends with %d bytes and %v, not with a reset", n, err)
	}
}

// freeport VAR: sets the variable to a TCP port of this host that nobody listens on now.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}
