// Package config is how the agent is configured: the table of all keys (keys.go), from which the shipped file and the manual page are made too
// (text.go), and the reading of files and flags (read.go). It changes nothing and starts nothing. It may be imported by agent and cmd/vdsm-agentd.
package config

import (
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
)

// DefaultFile is read if no other is named. It may be absent.
const DefaultFile = "/etc/vdsm-agent/vdsm-agent.conf"

// DefaultSocket is where clients find the agent.
const DefaultSocket = "/run/vdsm-agent/api.sock"

// DefaultLibvirt is where the host's libvirt is found.
const DefaultLibvirt = "/run/libvirt/libvirt-sock"

// Config is how the agent runs.
type Config struct {
	StateDir    string
	Socket      string
	SocketMode  fs.FileMode
	SocketGroup int // 0 = the process's

	Connections   int // of each listener; 0 = any number
	PerAddress    int // of them from one address; 0 = any number
	TLS           TLS
	Plain         Plain
	Java          stomp.Java
	Roots         []string     // directories with storage domains, besides the agent's own
	Owner         domain.Owner // of files in domains
	TrashFor      time.Duration
	Libvirt       string        // its socket; "" = this host has no machines
	MigrateUnsafe bool          // machines leave whatever libvirt thinks of their storage
	Mounts        string        // where storage is mounted and remembered; "" = in the state directory
	MountWait     time.Duration // how long a mount is waited for
	Mock          bool          // the mock verb is there, for tests of clients
	Metrics       Metrics

	Live

	flags   Flags
	entries []Entry
}

// Live is what a reload changes; all else needs a restart.
type Live struct {
	LogLevel   zerolog.Level
	Access     *access.Policy
	Limits     map[tasks.Class]int
	QueueLimit int
	Tuning     tasks.Tuning
	TrashLimit int // percent of a domain's file system; 0 = none
}

// TLS is how clients on other hosts reach the agent.
type TLS struct {
	Address   string // "host:port"; "" = not at all
	Files     certs.Files
	CheckName bool
}

// Plain is how they reach it without TLS.
type Plain struct {
	Address string // "host:port"; "" = not at all
	Role    access.Role
}

// Metrics is where figures for Prometheus can be read.
type Metrics struct {
	Address string      // the path of a unix socket, or "host:port"; "" = nowhere
	Mode    fs.FileMode // of that socket
	Group   int         // the same; 0 = the process's
}

// Flags are what the command line says; "" = not given.
type Flags struct {
	StateDir, File, Socket, LogLevel string
}

// Entry is the value that a key has, as it is written.
type Entry struct {
	Section, Key string
	Value        string // "" = none
	Origin       string // "default", "file:line", or the flag
	Live         bool   // a reload changes it
}

// Name is "section.key".
func (e Entry) Name() string { return e.Section + "." + e.Key }

// Entries are all keys, in the order of the shipped file.
func (c *Config) Entries() []Entry { return slices.Clone(c.entries) }

// Dirs are the directories whose files make the configuration; they may be absent.
func (c *Config) Dirs() []string {
	dir := filepath.Dir(c.flags.file())
	return []string{dir, filepath.Join(dir, partsDir)}
}

// StatePath is a path in the state directory.
func (c *Config) StatePath(name string) string { return filepath.Join(c.StateDir, name) }

// Reload reads the same files again, with the same flags.
func (c *Config) Reload() (Config, error) { return Load(c.flags) }

func (f Flags) file() string {
	if f.File == "" {
		return DefaultFile
	}
	return f.File
}

// Defaults is what Load makes when no file says anything, for those who must go on though the files are wrong.
func Defaults(f Flags) (Config, error) {
	return load(f, func(f Flags) (map[string]assignment, Problems) {
		given := map[string]assignment{}
		f.give(given)
		return given, nil
	})
}

// Load makes the configuration: the defaults, then the file, then those of conf.d beside it in the order of their names, then the flags. The
// default file may be absent; one that was named must be there. Unknown sections and keys, keys that are given twice, and impossible values
// are refused, all of them at once, each with its file and line (Problems).
func Load(f Flags) (Config, error) { return load(f, read) }

func load(f Flags, read func(Flags) (map[string]assignment, Problems)) (Config, error) {
	c := Config{flags: f, Owner: domain.Owner{UID: -1, GID: -1}}
	c.Access, c.Limits = access.NewPolicy(), map[tasks.Class]int{}
	given, problems := read(f)
	for _, k := range keys {
		a, there := given[k.name()]
		if !there {
			a = assignment{value: k.value, origin: "default"}
			if k.unset {
				a.value = ""
			}
		}
		c.entries = append(c.entries, Entry{k.section, k.key, a.value, a.origin, k.live})
		if !there && k.unset {
			continue
		}
		if err := k.set(&c)(a.value); err != nil {
			problems.add(a.origin, "%s in section [%s]: %w", k.key, k.section, err)
		}
	}
	if len(problems) > 0 {
		return c, problems
	}
	var err error
	if c.StateDir, err = filepath.Abs(c.StateDir); err != nil {
		return c, err
	}
	if c.Socket, err = filepath.Abs(c.Socket); err != nil {
		return c, err
	}
	if c.Metrics.Address == besideSocket {
		c.Metrics.Address = filepath.Join(filepath.Dir(c.Socket), "metrics.sock")
	}
	return c, nil
}
