package nbd

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// Address is an export of a server on a socket of this host.
type Address struct {
	Socket string // absolute path
	Export string // its name, "" = the server's only one
}

const scheme = "nbd+unix://"

// IsAddress says whether text is an Address in the form of String.
func IsAddress(text string) bool { return strings.HasPrefix(text, scheme) }

// ParseAddress reads nbd+unix:///EXPORT?socket=PATH, or as QEMU has it nbd:unix:PATH or nbd:unix:PATH:exportname=EXPORT. Whatever leads
// to another host is refused.
func ParseAddress(text string) (a Address, err error) {
	refuse := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("%q is refused: %s; give nbd+unix:///EXPORT?socket=PATH or nbd:unix:PATH:exportname=EXPORT", text, why)
	}
	if rest, old := strings.CutPrefix(text, "nbd:unix:"); old {
		a.Socket, a.Export, _ = strings.Cut(rest, ":exportname=")
	} else {
		u, err := url.Parse(text)
		switch {
		case err != nil || !IsAddress(text):
			return refuse("it is no address of an NBD server on a socket of this host")
		case u.Host != "" || u.User != nil || u.Fragment != "":
			return refuse("it names a host")
		}
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil || len(query) != 1 || len(query["socket"]) != 1 {
			return refuse("it has no socket, or more than that")
		}
		a.Socket, a.Export = query.Get("socket"), strings.TrimPrefix(u.Path, "/")
	}
	if !filepath.IsAbs(a.Socket) || filepath.Clean(a.Socket) != a.Socket || strings.ContainsAny(a.Socket, ":\x00") {
		return refuse("the socket is no absolute path without \".\", \"..\" and \":\"")
	}
	return a, nil
}

// String is the first of the two forms.
func (a Address) String() string {
	return scheme + "/" + url.PathEscape(a.Export) + "?" + url.Values{"socket": {a.Socket}}.Encode()
}

// Dial connects to the server and opens the export.
func (a Address) Dial() (*Conn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return Open(conn, a.Export)
}
