package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/certs/certstest"
	"vdsm-agent/rpc/client"

	"github.com/rs/zerolog"
)

// house is a server behind real TLS, whose certificates lie in a directory.
type house struct {
	t       *testing.T
	dir     string
	ca      *certstest.Authority
	address string
	read    chan error // what each reading of the files answered
	log     *logged
	stop    context.CancelFunc
	served  chan error
}

type logged struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // closed when there is more
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.text.Write(b)
}

// wait returns when a text has been logged.
func (l *logged) wait(text string) {
	for {
		l.mu.Lock()
		more := l.more
		found := strings.Contains(l.text.String(), text)
		l.mu.Unlock()
		if found {
			return
		}
		<-more
	}
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func authority(t *testing.T) *certstest.Authority {
	t.Helper()
	ca, err := certstest.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func write(t *testing.T, ca *certstest.Authority, dir, name string, lasts time.Duration) certs.Files {
	t.Helper()
	f, err := ca.Write(dir, name, lasts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newHouse(t *testing.T, change func(*TLS)) *house {
	h := &house{t: t, dir: t.TempDir(), ca: authority(t), read: make(chan error, 100), log: &logged{more: make(chan struct{})}, served: make(chan error, 1)}
	log := zerolog.New(h.log)
	files := write(t, h.ca, h.dir, "host.example.com", time.Hour)
	watched := certs.New(files, log)
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := watched.Watch(ctx, func(err error) { h.read <- err }); err != nil {
			t.Error(err)
		}
	})
	if err := <-h.read; err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	policy := access.NewPolicy()
	if err := policy.AllowRemote("engine.example.com", access.Operate); err != nil {
		t.Fatal(err)
	}
	transport := TLS{Certificates: watched, Policy: policy}
	if change != nil {
		change(&transport)
	}
	server := rpc.New(rpc.Options{Log: log})
	server.Handle([]rpc.Method{
		{Name: "Test.who", Doc: "Test.", Role: access.Operate, Result: "", Handle: func(_ context.Context, r *rpc.Request) (any, error) { return r.Who, nil }},
		{Name: "Test.text", Doc: "Test.", Role: access.Operate, Result: "", Handle: func(_ context.Context, r *rpc.Request) (any, error) {
			var p struct {
				Size int `json:"size"`
			}
			err := json.Unmarshal(r.Params, &p)
			return strings.Repeat("x", p.Size), err
		}},
		{Name: "Test.large", Doc: "Test.", Role: access.Operate, Result: "", Handle: func(context.Context, *rpc.Request) (any, error) {
			return strings.Repeat("x", 1<<20), nil
		}},
	})
	server.SetReady()
	go func() { h.served <- server.Serve(ctx, l, transport) }()
	t.Cleanup(func() {
		stop()
		if err := <-h.served; err != nil {
			t.Error(err)
		}
		watching.Wait()
	})
	return h
}

// client is the configuration of a client with a certificate of an authority, who trusts the house's.
func (h *house) client(ca *certstest.Authority, name string, lasts time.Duration) *tls.Config {
	h.t.Helper()
	f := write(h.t, ca, h.t.TempDir(), name, lasts)
	f.CA = h.dir + "/ca.pem"
	config, err := certs.Client(f, false)
	if err != nil {
		h.t.Fatal(err)
	}
	return config
}

// TestOverTLS: a client with a certificate of the authority is known by its name, and small and large answers come.
func TestOverTLS(t *testing.T) {
	h := newHouse(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := h.client(h.ca, "engine.example.com", time.Hour)
		config.MinVersion, config.MaxVersion = version, version
		c, err := client.DialTLS(t.Context(), h.address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var who, large string
		if err := c.Call(t.Context(), "Test.who", nil, &who); err != nil || !strings.HasPrefix(who, "engine.example.com (127.0.0.1:") {
			t.Errorf("%s: %v", who, err)
		}
		if err := c.Call(t.Context(), "Test.large", nil, &large); err != nil || len(large) != 1<<20 {
			t.Errorf("%d bytes: %v", len(large), err)
		}
	}
}

// TestRefused: who is not of the authority gets nowhere, and the log says why.
func TestRefused(t *testing.T) {
	h := newHouse(t, nil)
	wrong := h.client(authority(t), "engine.example.com", time.Hour)
	none := h.client(h.ca, "engine.example.com", time.Hour)
	none.Certificates = nil
	old := h.client(h.ca, "engine.example.com", time.Hour)
	old.MinVersion, old.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	suspicious := h.client(h.ca, "engine.example.com", time.Hour)
	suspicious.InsecureSkipVerify, suspicious.VerifyConnection, suspicious.RootCAs = false, nil, x509.NewCertPool()
	cases := []struct {
		name   string
		config *tls.Config
		log    string
	}{
		{"another authority", wrong, "certificate signed by unknown authority"},
		{"no certificate", none, "client didn't provide a certificate"},
		{"an expired one", h.client(h.ca, "engine.example.com", -time.Minute), "certificate has expired"},
		{"TLS 1.1", old, "unsupported"},
		{"a client that does not trust this host", suspicious, "bad certificate"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if conn, err := client.DialTLS(t.Context(), h.address, c.config); err == nil {
				conn.Close()
				t.Error("it is let in")
				return
			}
			h.log.wait(c.log)
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		raw, err := net.Dial("tcp", h.address)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		io.WriteString(raw, "CONNECT\naccept-version:1.2\n\n\x00")
		if _, err := io.ReadAll(raw); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
	})
	h.log.wait("first record does not look like a TLS handshake")
	if strings.Contains(h.log.String(), "PRIVATE") {
		t.Error(h.log)
	}
}

// TestRole: a certificate that the policy does not know may connect, and do nothing.
func TestRole(t *testing.T) {
	h := newHouse(t, nil)
	c, err := client.DialTLS(t.Context(), h.address, h.client(h.ca, "stranger.example.com", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(t.Context(), "Test.who", nil, nil); err == nil || !strings.Contains(err.Error(), "needs the role operate, and stranger.example.com") {
		t.Error(err)
	}
}

// TestReload: new files are in use for new connections as soon as they have settled; connections that exist go on; broken files
// change nothing.
func TestReload(t *testing.T) {
	h := newHouse(t, nil)
	before := h.client(h.ca, "engine.example.com", time.Hour)
	old, err := client.DialTLS(t.Context(), h.address, before)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := os.WriteFile(h.dir+"/host.example.com.pem", []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-h.read; err == nil || !strings.Contains(err.Error(), "host.example.com.pem") {
		t.Errorf("a broken file: %v", err)
	}
	if c, err := client.DialTLS(t.Context(), h.address, before); err != nil {
		t.Errorf("after a broken file: %v", err)
	} else {
		c.Close()
	}
	h.ca = authority(t)
	write(t, h.ca, h.dir, "host.example.com", time.Hour)
	for err := range h.read { // it may have been read between two files
		if err == nil {
			break
		}
	}
	c, err := client.DialTLS(t.Context(), h.address, h.client(h.ca, "engine.example.com", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := old.Call(t.Context(), "Test.who", nil, nil); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	if c, err := client.DialTLS(t.Context(), h.address, before); err == nil {
		c.Close()
		t.Error("a certificate of the old authority is let in")
	}
}

// TestCheckName: a client on this host is not looked at; any other must have its address as its name, or a name of that.
func TestCheckName(t *testing.T) {
	names := func(_ context.Context, host string) ([]string, error) {
		if host == "192.0.2.9" {
			return []string{"other.example.com.", "Engine.example.com."}, nil
		}
		return nil, errors.New("no such host")
	}
	for _, c := range []struct{ name, from, refused string }{
		{"any", "127.0.0.1:1", ""},
		{"any", "[::1]:1", ""},
		{"192.0.2.7", "192.0.2.7:1", ""},
		{"192.0.2.7", "[::ffff:192.0.2.7]:1", ""},
		{"2001:db8::7", "[2001:db8:0::7]:1", ""},
		{"engine.EXAMPLE.com", "192.0.2.9:1", ""},
		{"engine", "192.0.2.9:1", `that of "engine", which is neither its address nor one of its names (other.example.com., Engine.example.com.)`},
		{"192.0.2.7", "192.0.2.8:1", "no such host"},
		{"", "192.0.2.8:1", "set check_name = false in section [tls]"},
	} {
		address, err := net.ResolveTCPAddr("tcp", c.from)
		if err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{}
		cert.Subject.CommonName = c.name
		err = checkName(t.Context(), cert, address, names)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s from %s: %v, want %q", c.name, c.from, err, c.refused)
		}
	}
}

// TestNameIsChecked: who comes from this host passes, whatever its name.
func TestNameIsChecked(t *testing.T) {
	h := newHouse(t, func(o *TLS) { o.CheckName = true })
	c, err := client.DialTLS(t.Context(), h.address, h.client(h.ca, "engine.example.com", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(t.Context(), "Test.who", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestTimeOuts: a client that does not shake hands, or then says nothing, is waited for as long as is documented, and the agent's end
// waits for none.
func TestTimeOuts(t *testing.T) {
	cases := []struct {
		name   string
		shakes bool   // the client's hands
		says   string // what it says, before or after that
		ends   bool   // the agent, then
		after  time.Duration
		err    string
	}{
		{"no handshake", false, "", false, HandshakeFor, "TLS handshake took longer than 10s"},
		{"no handshake, and the agent ends", false, "", true, 0, "context canceled"},
		{"half a handshake", false, "\x16\x03\x01", false, HandshakeFor, "TLS handshake took longer than 10s"},
		{"not a word", true, "", false, FirstBytesFor, "waited for long enough"},
		{"half a word", true, "CONN", false, FirstBytesFor, "waited for long enough"},
		{"not a word, and the agent ends", true, "", true, 0, "waited for long enough"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := authority(t) // of the bubble's time
				watched := certs.New(write(t, ca, dir, "host.example.com", time.Hour), zerolog.Nop())
				if err := watched.Reload(); err != nil {
					t.Fatal(err)
				}
				config, err := certs.Client(write(t, ca, dir, "engine.example.com", time.Hour), false)
				if err != nil {
					t.Fatal(err)
				}
				server, conn := net.Pipe()
				defer server.Close()
				defer conn.Close()
				ctx, end := context.WithCancel(t.Context())
				defer end()
				go func() {
					said := conn
					if c.shakes {
						said = tls.Client(conn, config)
					}
					_, _ = io.WriteString(said, c.says) // what becomes of it, the server's end shows
					if c.ends {
						synctest.Wait()
						end()
					}
					_, _ = io.Copy(io.Discard, said)
				}()
				begun := time.Now()
				_, _, err = TLS{Certificates: watched, Policy: access.NewPolicy()}.Open(ctx, server)
				if took := time.Since(begun); err == nil || !strings.Contains(err.Error(), c.err) || took != c.after {
					t.Errorf("%v after %s, want %s after %s", err, took, c.err, c.after)
				}
			})
		})
	}
}

// TestTurnedAway: a client that is one too many is told so by a reset.
func TestTurnedAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.New(rpc.Options{Log: zerolog.Nop(), Connections: 1})
	server.SetReady()
	ctx, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l, Plain{Role: access.Observe}) }()
	var ends error
	for i := range 2 { // the first one has the only seat
		var conn net.Conn
		if conn, ends = net.Dial("tcp", l.Addr().String()); ends != nil {
			break
		}
		defer conn.Close()
		if i > 0 {
			_, ends = conn.Read(make([]byte, 1))
		}
	}
	if ends == nil || !strings.Contains(ends.Error(), "connection reset") {
		t.Errorf("it ends with %v", ends)
	}
	end()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestShutdownResets: at the end of the server each connection is reset, after its answers.
func TestShutdownResets(t *testing.T) {
	h := newHouse(t, nil)
	conn, err := tls.Dial("tcp", h.address, h.client(h.ca, "engine.example.com", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "SUBSCRIBE\nid:1\ndestination:r\n\n\x00SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\nreply-to:r\n\n"+
		`{"jsonrpc":"2.0","id":1,"method":"Test.large"}`+"\x00")
	b := make([]byte, 1)
	if _, err := conn.Read(b); err != nil {
		t.Fatal(err)
	}
	h.stop()
	rest, err := io.ReadAll(conn)
	if err == nil || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("it ends with %v", err)
	}
	if len(rest) < 1<<20 || rest[len(rest)-1] != 0 {
		t.Errorf("%d bytes of the answer came", len(rest))
	}
}
