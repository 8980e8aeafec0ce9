package access

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Policy gives each peer a role: local ones by user and group, as the kernel names them, remote ones by certificate. A peer that
// several entries fit has the highest of their roles; one that none fits has None. Root and the agent's own user are Admin
// always: they could change the agent itself. It may be asked while it becomes another.
type Policy struct {
	mu            sync.RWMutex // guards what follows, which is replaced and never changed once the policy is asked
	users, groups map[uint32]Role
	names         []named
}

// Become makes the policy say what another says.
func (p *Policy) Become(other *Policy) {
	users, groups, names := other.rules()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users, p.groups, p.names = users, groups, names
}

func (p *Policy) rules() (users, groups map[uint32]Role, names []named) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.users, p.groups, p.names
}

// named is a pattern for the names of certificates.
type named struct {
	pattern string
	role    Role
}

// NewPolicy makes a policy that knows only root and the agent's own user.
func NewPolicy() *Policy {
	return &Policy{users: map[uint32]Role{0: Admin, uint32(os.Geteuid()): Admin}, groups: map[uint32]Role{}} // a uid has 32 bits
}

// AllowLocal gives a role to a user, or with "@" before it to the members of a group, by name or by number. Errors: there is no
// such user or group.
func (p *Policy) AllowLocal(who string, role Role) error {
	name, isGroup := strings.CutPrefix(who, "@")
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil && isGroup {
		var g *user.Group
		if g, err = user.LookupGroup(name); err == nil {
			id, err = strconv.ParseUint(g.Gid, 10, 32)
		}
	} else if err != nil {
		var u *user.User
		if u, err = user.Lookup(name); err == nil {
			id, err = strconv.ParseUint(u.Uid, 10, 32)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not a user of this host, nor @ and a group: %w", who, err)
	}
	of := p.users
	if isGroup {
		of = p.groups
	}
	of[uint32(id)] = max(of[uint32(id)], role) // it was parsed as one of 32 bits
	return nil
}

// AllowRemote gives a role to certificates with a name that fits a pattern: "engine.example.com", "*.example.com", "*". Names
// are the common name and all alternative names (DNS, IP, e-mail, URI), in lower case. Errors: it is no pattern.
func (p *Policy) AllowRemote(pattern string, role Role) error {
	pattern = strings.ToLower(pattern)
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("%q is not a pattern for names of certificates: %w", pattern, err)
	}
	p.names = append(p.names, named{pattern, role})
	return nil
}

// OfUser is the role of a local peer. Groups are its own and those that the host's user database gives it.
func (p *Policy) OfUser(uid, gid uint32) Role {
	users, groups, _ := p.rules()
	role := max(users[uid], groups[gid])
	if len(groups) == 0 || role == Admin {
		return role
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return role // a user without a name is in no group
	}
	ids, err := u.GroupIds()
	if err != nil {
		return role
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			role = max(role, groups[uint32(n)]) // it was parsed as one of 32 bits
		}
	}
	return role
}

// OfCertificate is the role of a remote peer whose certificate was verified.
func (p *Policy) OfCertificate(c *x509.Certificate) Role {
	role := None
	_, _, names := p.rules()
	for _, name := range Names(c) {
		for _, n := range names {
			// A "/" is a letter like any other here, and the pattern was tried when it was added.
			if fits, _ := path.Match(flat(n.pattern), flat(strings.ToLower(name))); fits {
				role = max(role, n.role)
			}
		}
	}
	return role
}

func flat(s string) string { return strings.ReplaceAll(s, "/", "\x00") }

// Names are all names of a certificate, the common name first.
func Names(c *x509.Certificate) []string {
	var all []string
	add := func(name string) {
		if name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	add(c.Subject.CommonName)
	for _, name := range slices.Concat(c.DNSNames, c.EmailAddresses) {
		add(name)
	}
	for _, ip := range c.IPAddresses {
		add(net.IP.String(ip))
	}
	for _, uri := range c.URIs {
		add(uri.String())
	}
	return all
}
