package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
)

func TestOfUser(t *testing.T) {
	p := NewPolicy()
	for who, role := range map[string]Role{"nobody": Observe, "1234": Operate, "@daemon": Operate, "@4321": Admin, "@nogroup": Observe} {
		if err := p.AllowLocal(who, role); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name     string
		uid, gid uint32
		want     Role
	}{
		{"root", 0, 0, Admin},
		{"the agent's own user", uint32(os.Geteuid()), 7777, Admin},
		{"a user by name", 65534, 7777, Observe},
		{"a user by number", 1234, 7777, Operate},
		{"a group by number", 5555, 4321, Admin},
		{"the higher of both", 65534, 4321, Admin},
		{"the groups of the user database", 1, 7777, Operate}, // daemon
		{"a stranger", 5555, 7777, None},
	}
	for _, c := range cases {
		if got := p.OfUser(c.uid, c.gid); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
	for _, bad := range []string{"no-such-user", "@no-such-group", "", "@", "-1", "4294967296"} {
		if err := p.AllowLocal(bad, Admin); err == nil || !strings.Contains(err.Error(), "is not a user of this host") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOfCertificate(t *testing.T) {
	p := NewPolicy()
	for pattern, role := range map[string]Role{"Engine.example.com": Admin, "*.hosts.example.com": Operate, "192.0.2.*": Observe, "spiffe://x/*": Operate} {
		if err := p.AllowRemote(pattern, role); err != nil {
			t.Fatal(err)
		}
	}
	id, err := url.Parse("spiffe://x/a/b")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		c    x509.Certificate
		want Role
	}{
		{"common name", x509.Certificate{Subject: pkix.Name{CommonName: "engine.EXAMPLE.com"}}, Admin},
		{"alternative name", x509.Certificate{DNSNames: []string{"x", "h1.hosts.example.com"}}, Operate},
		{"address", x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7)}}, Observe},
		{"URI", x509.Certificate{URIs: []*url.URL{id}}, Operate},
		{"the highest of all", x509.Certificate{Subject: pkix.Name{CommonName: "h.hosts.example.com"}, DNSNames: []string{"engine.example.com"}}, Admin},
		{"another", x509.Certificate{Subject: pkix.Name{CommonName: "engine.example.com.evil.org"}}, None},
		{"no name at all", x509.Certificate{}, None},
	}
	for _, c := range cases {
		if got := p.OfCertificate(&c.c); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
	if err := p.AllowRemote("[", Admin); err == nil {
		t.Error("a pattern that is none is taken")
	}
}
