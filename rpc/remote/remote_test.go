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

// TestCheckName: a client on this host is not looked at; any other must have its address's name.
func TestCheckName(t *testing.T) {
	c := &x509.Certificate{}
	c.Subject.CommonName = "192.0.2.7"
	for from, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "192.0.2.7:1": true, "[::ffff:192.0.2.7]:1": true, "192.0.2.8:1": false} {
		address, err := net.ResolveTCPAddr("tcp", from)
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		if from == "192.0.2.8:1" {
			end() // so that nobody is asked for its names
		}
		if err := checkName(ctx, c, address); (err == nil) != ok {
			t.Errorf("%s: %v", from, err)
		}
		end()
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
