package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/stomp"
)

// bareServer is the process of a bare server.
type bareServer struct {
	cmd           *exec.Cmd
	secure, plain string
}

func (b *bareServer) address(secure bool) string {
	if secure {
		return b.secure
	}
	return b.plain
}

func (b *bareServer) stop() {
	_ = b.cmd.Process.Kill() // it has nothing to lose
	_ = b.cmd.Wait()
}

// startBare starts one that answers a request with the first answer, and one that polls all with the second.
func (w *world) startBare(answer, all string) (*bareServer, error) {
	dir := filepath.Join(w.dir, "bare")
	for name, text := range map[string]string{"": answer, ".all": all} {
		if err := os.WriteFile(dir+name, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &bareServer{cmd: exec.Command(self, "bare", w.server.Cert, w.server.Key, w.server.CA, dir)}
	b.cmd.Stderr = os.Stderr
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, err
	}
	_, err = fmt.Sscan(line, &b.secure, &b.plain)
	return b, err
}

// bare serves until it is killed.
func bare(files certs.Files, answers string) error {
	one, err := os.ReadFile(answers)
	if err != nil {
		return err
	}
	all, err := os.ReadFile(answers + ".all")
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config := &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, DynamicRecordSizingDisabled: true,
		MinVersion: tls.VersionTLS12,
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(secure.Addr(), plain.Addr())
	message := func(body []byte) []byte {
		if len(body) == 0 {
			return nil
		}
		return stomp.Append(nil, "MESSAGE", []stomp.Header{
			{Name: "destination", Value: "r"}, {Name: "content-type", Value: "application/json"}, {Name: "subscription", Value: "r"},
		}, [][]byte{body})
	}
	go accept(secure, message(one), message(all))
	accept(plain, message(one), message(all))
	return nil
}

func accept(l net.Listener, one, all []byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go answer(c, one, all)
	}
}

// answer looks at nothing but whether a request polls all.
func answer(c net.Conn, one, all []byte) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		frame, err := in.ReadSlice(0)
		if err != nil {
			return
		}
		out := one
		switch {
		case bytes.HasPrefix(frame, []byte("CONNECT")):
			out = []byte("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\x00")
		case bytes.HasPrefix(frame, []byte("SUBSCRIBE")):
			continue
		case len(all) > 0 && strings.Contains(string(frame), "getAllTasksStatuses"):
			out = all
		}
		if _, err := io.Copy(c, bytes.NewReader(out)); err != nil {
			return
		}
	}
}
