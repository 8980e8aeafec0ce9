package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"
)

// expiresSoon is when a certificate should be renewed.
const expiresSoon = 30 * 24 * time.Hour

// certificates looks at those with which clients of other hosts connect.
func (l *looker) certificates() {
	files := l.config.TLS.Files
	if l.config.TLS.Address == "" {
		l.ok("clients of other hosts cannot connect (tls.address = none)")
		return
	}
	var absent []string
	for _, file := range []string{files.Cert, files.Key, files.CA} {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			absent = append(absent, file)
		}
	}
	switch {
	case len(absent) == 3:
		l.add(Note, "docs/engines.md says how an engine's authority makes one", "engines and other hosts cannot connect: there is no certificate %s", files.Cert)
		return
	case len(absent) > 0:
		l.add(Error, "have the host enrolled again, or copy what is missing", "a part of the certificate is missing: %s", strings.Join(absent, ", "))
		return
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		l.add(Error, "have the certificate made anew for this key", "the certificate %s and its key %s do not go together: %s", files.Cert, files.Key, err)
		return
	}
	before := len(l.found)
	l.dates("the certificate "+files.Cert, pair.Leaf, "have it renewed by the authority; the daemon reads it when it changes")
	roots, found := x509.NewCertPool(), false
	text, err := os.ReadFile(files.CA)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			found = true
			roots.AddCert(ca)
			l.dates("the authority's certificate "+ca.Subject.CommonName+" in "+files.CA, ca, "take the authority's new certificate, and certificates of it for all hosts and clients")
		}
	}
	if err != nil || !found {
		l.add(Error, "copy the authority's certificate there", "there is no certificate in %s", files.CA)
		return
	}
	o := x509.VerifyOptions{Roots: roots, CurrentTime: pair.Leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, Intermediates: x509.NewCertPool()}
	for _, raw := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			o.Intermediates.AddCert(c)
		}
	}
	var unknown x509.UnknownAuthorityError
	if _, err := pair.Leaf.Verify(o); errors.As(err, &unknown) {
		l.add(Error, "copy the certificate of the authority that signed it to "+files.CA, "the certificate %s is not of the authority in %s: no client of it can connect", files.Cert, files.CA)
	}
	if key, err := os.Stat(files.Key); err == nil && key.Mode().Perm()&0o007 != 0 {
		l.add(Warning, "chmod o= "+files.Key, "everybody on this host may read or change the key %s", files.Key)
	}
	if len(l.found) == before {
		l.ok("the certificate %s is good until %s", files.Cert, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
}

// dates says whether a certificate can be used now.
func (l *looker) dates(what string, c *x509.Certificate, mend string) {
	now := time.Now()
	switch {
	case now.Before(c.NotBefore):
		l.add(Error, "look at the clock of this host, and of the authority's", "%s is only good from %s on", what, c.NotBefore.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter):
		l.add(Error, mend, "%s has expired at %s", what, c.NotAfter.UTC().Format(time.RFC3339))
	case c.NotAfter.Sub(now) < expiresSoon:
		l.add(Warning, mend, "%s expires at %s", what, c.NotAfter.UTC().Format(time.RFC3339))
	}
}
