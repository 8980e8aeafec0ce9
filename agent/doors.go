package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vdsm-agent/agent/config"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/remote"
	"vdsm-agent/rpc/stomp"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/rs/zerolog"
)

// doors are the sockets on which the agent can be reached. Each is systemd's, if that has passed one of its name, or the agent's own.
type doors struct {
	server *rpc.Server
	log    zerolog.Logger
	passed map[string][]net.Listener // by systemd, and not in use yet
	broken chan error                // a socket that clients can connect to no more

	ctx   context.Context // ends when no more is served
	stop  context.CancelFunc
	serve sync.WaitGroup

	mu   sync.Mutex // guards what follows
	open []string
}

// The names of systemd's sockets (FileDescriptorName=).
const (
	apiSocket   = "api"
	tlsSocket   = "stomp"
	plainSocket = "stomp-plain"
)

// portTaken is how often it is tried again to listen where somebody else, such as VDSM, does.
const portTaken = 10 * time.Second

// open opens the unix socket at once, and without it the agent does not start. The others are for clients on other hosts: as long
// as they cannot be opened the log says why, and it is tried again.
func open(ctx context.Context, c config.Config, server *rpc.Server, log zerolog.Logger) (*doors, error) {
	passed, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("the sockets that systemd has passed cannot be used: %w", err)
	}
	d := &doors{server: server, log: log, passed: passed, broken: make(chan error, 1)}
	d.ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	l := d.take(apiSocket)
	if l == nil {
		if err := os.MkdirAll(filepath.Dir(c.Socket), 0o755); err != nil {
			return nil, fmt.Errorf("the socket's directory cannot be made: %w", err)
		}
		if l, err = (rpc.Socket{Path: c.Socket, Mode: c.SocketMode, Group: c.SocketGroup}).Listen(); err != nil {
			return nil, err
		}
	}
	d.start(l, rpc.Local{Policy: c.Access})
	options := stomp.Options{Java: c.Java}
	certificates := certs.New(c.TLS.Files, log)
	if secure := d.take(tlsSocket); secure != nil || c.TLS.Address != "" {
		t := remote.TLS{Certificates: certificates, Policy: c.Access, CheckName: c.TLS.CheckName, Options: options}
		d.serve.Go(func() { d.whenCertified(certificates, secure, c.TLS.Address, t) })
	}
	if plain := d.take(plainSocket); plain != nil || c.Plain.Address != "" {
		d.serve.Go(func() { d.listen(plain, c.Plain.Address, remote.Plain{Role: c.Plain.Role, Options: options}) })
	}
	for name := range d.passed {
		log.Warn().Str("name", name).Msg("systemd has passed a socket that the agent does not know; FileDescriptorName= is one of api, stomp, stomp-plain")
	}
	return d, nil
}

// take is the socket that systemd has passed under a name, nil if there is none.
func (d *doors) take(name string) net.Listener {
	of := d.passed[name]
	delete(d.passed, name)
	if len(of) == 0 {
		return nil
	}
	for _, more := range of[1:] {
		d.log.Warn().Str("name", name).Stringer("address", more.Addr()).Msg("systemd has passed more than one socket of this name; the first one is used")
		_ = more.Close() // nobody was accepted from it
	}
	return of[0]
}

// start serves a socket.
func (d *doors) start(l net.Listener, t rpc.Transport) {
	d.mu.Lock()
	d.open = append(d.open, l.Addr().String())
	d.mu.Unlock()
	d.serve.Go(func() {
		if err := d.server.Serve(d.ctx, l, t); err != nil {
			select {
			case d.broken <- err:
			default: // another one is why the agent ends
			}
		}
	})
}

// listen opens a socket, unless there is one already, and tries again as long as that fails.
func (d *doors) listen(l net.Listener, address string, t rpc.Transport) {
	for told := false; l == nil; told = true {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(d.ctx, "tcp", address); err == nil {
			break
		}
		if !told {
			d.log.Error().Err(err).Str("address", address).Msg("clients on other hosts cannot connect; it is tried again until this works")
		}
		select {
		case <-time.After(portTaken):
		case <-d.ctx.Done():
			return
		}
	}
	d.log.Info().Stringer("address", l.Addr()).Msg("clients on other hosts can connect")
	d.start(l, t)
}

// whenCertified opens the socket for TLS as soon as there are certificates, and sees that they are read again when they change.
func (d *doors) whenCertified(c *certs.Watched, l net.Listener, address string, t rpc.Transport) {
	certified := sync.OnceFunc(func() { d.serve.Go(func() { d.listen(l, address, t) }) })
	told := ""
	err := c.Watch(d.ctx, func(err error) {
		switch {
		case err == nil:
			certified()
		case err.Error() != told:
			told = err.Error()
			d.log.Warn().Err(err).Msg("clients on other hosts connect with the certificates that were read before, or cannot until there are some")
		}
	})
	if err != nil {
		d.log.Error().Err(err).Msg("the certificates are not read again when they change; restart the agent then")
	}
}

// names are the addresses of the sockets that are open.
func (d *doors) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.open)
}

// close ends all connections, after the answers that are under way.
func (d *doors) close() error {
	d.stop()
	d.serve.Wait()
	select {
	case err := <-d.broken:
		return err
	default:
		return nil
	}
}
