// Package certs is the agent's TLS: certificates that are read from files, and again when these change, and what a connection demands
// of its peer. It knows no protocol above TLS. It may be imported by rpc/remote, rpc/client, agent and the command line.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// Files are where the agent's certificate, its key, and the certificates of the authority lie, as PEM.
type Files struct{ Cert, Key, CA string }

// Watched are what the files held when they were read last without an error.
type Watched struct {
	files   Files
	log     zerolog.Logger
	current atomic.Pointer[tls.Config] // nil = they were never read
}

// New knows the files and has read none: see Watch.
func New(files Files, log zerolog.Logger) *Watched {
	return &Watched{files: files, log: log}
}

// Reload reads the files again. After an error, which says which file is wrong and how, those that were read before stay in use,
// so that files which are being replaced one after the other do no harm. Connections that exist go on with what they were made
// with.
func (c *Watched) Reload() error {
	config, err := c.read()
	if err != nil {
		return err
	}
	c.current.Store(config)
	leaf := config.Certificates[0].Leaf
	line := c.log.Info()
	if left := time.Until(leaf.NotAfter); left < expiresSoon {
		line = c.log.Warn().Stringer("left", left.Round(time.Hour))
	}
	line.Str("file", c.files.Cert).Str("subject", leaf.Subject.CommonName).Time("until", leaf.NotAfter).Msg("the certificate is in use")
	return nil
}

// expiresSoon is when the log begins to warn.
const expiresSoon = 30 * 24 * time.Hour

func (c *Watched) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and its key %s cannot be used: %w", c.files.Cert, c.files.Key, err)
	}
	ca, err := authority(c.files.CA)
	if err != nil {
		return nil, err
	}
	if key, err := os.Stat(c.files.Key); err == nil && key.Mode().Perm()&0o007 != 0 {
		c.log.Warn().Str("file", c.files.Key).Msg("everybody on this host may read or change the key; mend it with chmod o=")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca,
		// The engine's client takes a second for each record.
		DynamicRecordSizingDisabled: true,
	}, nil
}

// authority reads the certificates that sign those of clients; no others count, not even those that this host trusts.
func authority(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificates cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in %s", file)
	}
	return pool, nil
}

// errNoCertificates: none could be read yet.
var errNoCertificates = errors.New("there are no certificates yet")

// Server is the configuration for a connection that begins now. Errors: no files could be read yet.
func (c *Watched) Server() (*tls.Config, error) {
	if config := c.current.Load(); config != nil {
		return config, nil
	}
	return nil, errNoCertificates
}

// settled is how long the files must have been left alone before they are read.
const settled = 500 * time.Millisecond

// Watch reads the files now, and again when they, or what their names lead to, have changed, until ctx ends. changed is called
// after each time with what Reload answered. Errors: the files cannot be watched.
func (c *Watched) Watch(ctx context.Context, changed func(error)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("the certificates cannot be watched: %w", err)
	}
	defer func() { _ = w.Close() }() // nothing is lost with it
	var seen [3]string
	quiet := time.NewTimer(0)
	first := true
	for {
		for _, dir := range c.dirs() {
			if err := w.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				c.log.Warn().Err(err).Str("dir", dir).Msg("changes of certificates in this directory will not be noticed")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			quiet.Reset(settled)
		case err := <-w.Errors:
			c.log.Warn().Err(err).Msg("changes of certificates may have been missed")
			quiet.Reset(settled)
		case <-quiet.C:
			if now := c.state(); now != seen || first {
				seen, first = now, false
				changed(c.Reload())
			}
		}
	}
}

// dirs are the directories in which a change may concern the files: those of their names and of what these lead to, or, as long as
// one is not there, the nearest one above it.
func (c *Watched) dirs() (dirs []string) {
	for _, file := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		targets := []string{file}
		if target, err := filepath.EvalSymlinks(file); err == nil {
			targets = append(targets, target)
		}
		for _, target := range targets {
			dir := filepath.Dir(target)
			for dir != filepath.Dir(dir) {
				if _, err := os.Stat(dir); err == nil {
					break
				}
				dir = filepath.Dir(dir)
			}
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// state changes whenever one of the files does.
func (c *Watched) state() (all [3]string) {
	for i, file := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		if target, err := filepath.EvalSymlinks(file); err == nil {
			if info, err := os.Stat(target); err == nil {
				all[i] = fmt.Sprint(target, info.ModTime().UnixNano(), info.Size())
			}
		}
	}
	return all
}

// Client is the configuration of a connection to another agent: its certificate must be of the same authority, its name is looked
// at only if checkName says so, since engines and VDSM's clients do not look at it either.
func Client(files Files, checkName bool) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and its key %s cannot be used: %w", files.Cert, files.Key, err)
	}
	ca, err := authority(files.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, RootCAs: ca}
	if !checkName {
		config.InsecureSkipVerify = true //nolint:gosec // VerifyConnection does all of it but the name
		config.VerifyConnection = func(s tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: ca, Intermediates: x509.NewCertPool()}
			for _, c := range s.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(o)
			return err
		}
	}
	return config, nil
}
