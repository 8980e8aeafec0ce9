package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
	"gopkg.in/ini.v1"
)

// Defaults of where things are.
const (
	DefaultStateDir = "/var/lib/vdsm-agent"
	DefaultConfig   = "/etc/vdsm-agent/vdsm-agent.conf"
	DefaultSocket   = "/run/vdsm-agent/api.sock"
)

// Config is how the agent runs.
type Config struct {
	StateDir string
	Socket   string
	LogLevel zerolog.Level

	SocketMode  fs.FileMode
	SocketGroup int // 0 = the process's

	Access      *access.Policy
	engines     bool // the file says which certificates may operate
	Connections int  // of each listener; 0 = any number
	PerAddress  int  // of them from one address; 0 = any number
	TLS         TLSConfig
	Plain       PlainConfig
	Java        stomp.Java

	Roots    []string     // directories with storage domains, besides the agent's own
	Owner    domain.Owner // of files in domains
	TrashFor time.Duration

	Limits     map[tasks.Class]int
	QueueLimit int
	LockWait   time.Duration // 0 = for ever
	Retention  tasks.Retention
	TermGrace  time.Duration
	FenceFor   time.Duration
	Mock       bool // the mock verb is there, for tests of clients
}

// TLSConfig is how clients on other hosts reach the agent.
type TLSConfig struct {
	Address   string // "host:port"; "" = not at all
	Files     certs.Files
	CheckName bool
}

// PlainConfig is how they reach it without TLS.
type PlainConfig struct {
	Address string // "host:port"; "" = not at all
	Role    access.Role
}

// Flags are what the command line says; "" = not given.
type Flags struct {
	StateDir, ConfigFile, Socket, LogLevel string
}

// Load makes the configuration: the defaults, then the file, then the flags. The default file may be absent; one that was
// named must be there. Unknown sections and keys, and impossible values, are refused by name.
func Load(f Flags) (Config, error) {
	c := Config{
		StateDir: DefaultStateDir, Socket: DefaultSocket, SocketMode: rpc.SocketMode, LogLevel: zerolog.InfoLevel, Owner: domain.Owner{UID: -1, GID: -1},
		TrashFor: 24 * time.Hour, QueueLimit: 500,
		Limits:    map[tasks.Class]int{tasks.ClassCopy: 4, tasks.ClassMerge: 4, tasks.ClassVM: 8, tasks.ClassLight: 64},
		Retention: tasks.Retention{Jobs: time.Hour, History: 30 * 24 * time.Hour, Rows: 100_000},

		TermGrace: 2 * time.Second, FenceFor: time.Hour,

		Access: access.NewPolicy(), Connections: 200, PerAddress: 100,
		TLS: TLSConfig{Address: "[::]:54321", Files: certs.Files{
			Cert: "/etc/pki/vdsm/certs/vdsmcert.pem", Key: "/etc/pki/vdsm/keys/vdsmkey.pem", CA: "/etc/pki/vdsm/certs/cacert.pem",
		}},
		Plain: PlainConfig{Role: access.Observe},
	}
	file := f.ConfigFile
	if file == "" {
		file = DefaultConfig
	}
	if err := c.read(file); err != nil && (f.ConfigFile != "" || !errors.Is(err, fs.ErrNotExist)) {
		return c, err
	}
	if !c.engines {
		if err := c.Access.AllowRemote("*", access.Operate); err != nil {
			return c, err
		}
		c.engines = true
	}
	if f.StateDir != "" {
		c.StateDir = f.StateDir
		c.Socket = filepath.Join(f.StateDir, "api.sock")
	}
	if f.Socket != "" {
		c.Socket = f.Socket
	}
	if f.LogLevel != "" {
		if err := setLevel(&c.LogLevel)(f.LogLevel); err != nil {
			return c, fmt.Errorf("--log-level: %w", err)
		}
	}
	var err error
	if c.StateDir, err = filepath.Abs(c.StateDir); err != nil {
		return c, err
	}
	c.Socket, err = filepath.Abs(c.Socket)
	return c, err
}

// keys are all that a file may say, as section.key.
func (c *Config) keys() map[string]func(string) error {
	limit := func(class tasks.Class) func(string) error {
		return func(s string) (err error) {
			c.Limits[class], err = readCount(s)
			return err
		}
	}
	return map[string]func(string) error{
		"agent.state_dir":      setString(&c.StateDir),
		"agent.socket":         setString(&c.Socket),
		"agent.socket_mode":    setMode(&c.SocketMode),
		"agent.socket_group":   setGroup(&c.SocketGroup),
		"agent.log_level":      setLevel(&c.LogLevel),
		"access.admin":         c.local(access.Admin),
		"access.operate":       c.local(access.Operate),
		"access.observe":       c.local(access.Observe),
		"access.tls_admin":     c.remote(access.Admin),
		"access.tls_operate":   c.remote(access.Operate),
		"access.tls_observe":   c.remote(access.Observe),
		"rpc.connections":      setCount(&c.Connections),
		"rpc.per_address":      setCount(&c.PerAddress),
		"rpc.java":             setJava(&c.Java),
		"tls.address":          setAddress(&c.TLS.Address, ""),
		"tls.cert":             setString(&c.TLS.Files.Cert),
		"tls.key":              setString(&c.TLS.Files.Key),
		"tls.ca":               setString(&c.TLS.Files.CA),
		"tls.check_name":       setBool(&c.TLS.CheckName),
		"plain.address":        setAddress(&c.Plain.Address, "127.0.0.1"),
		"plain.role":           setRole(&c.Plain.Role),
		"storage.roots":        setList(&c.Roots),
		"storage.owner":        setOwner(&c.Owner),
		"storage.trash_for":    setDuration(&c.TrashFor),
		"tasks.copy_limit":     limit(tasks.ClassCopy),
		"tasks.merge_limit":    limit(tasks.ClassMerge),
		"tasks.vm_limit":       limit(tasks.ClassVM),
		"tasks.light_limit":    limit(tasks.ClassLight),
		"tasks.queue_limit":    setCount(&c.QueueLimit),
		"tasks.lock_wait":      orNever(setDuration(&c.LockWait)),
		"tasks.job_autodelete": setDuration(&c.Retention.Jobs),
		"tasks.history_for":    setDuration(&c.Retention.History),
		"tasks.history_rows":   setCount(&c.Retention.Rows),
		"tasks.term_grace":     setDuration(&c.TermGrace),
		"tasks.fence_for":      setDuration(&c.FenceFor),
		"debug.mock_verb":      setBool(&c.Mock),
	}
}

func (c *Config) read(file string) error {
	f, err := ini.Load(file)
	if err != nil {
		return fmt.Errorf("the configuration cannot be read: %w", err)
	}
	keys := c.keys()
	for _, section := range f.Sections() {
		for _, key := range section.Keys() {
			name := section.Name() + "." + key.Name()
			set, known := keys[name]
			if !known {
				return fmt.Errorf("%s: there is no key %q in section [%s]", file, key.Name(), section.Name())
			}
			if err := set(key.String()); err != nil {
				return fmt.Errorf("%s: %s in section [%s]: %w", file, key.Name(), section.Name(), err)
			}
		}
	}
	return nil
}

func setString(to *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("a value is missing")
		}
		*to = s
		return nil
	}
}

// local gives users and groups of this host a role.
func (c *Config) local(role access.Role) func(string) error {
	return each(func(who string) error { return c.Access.AllowLocal(who, role) })
}

// remote gives certificates a role. Without the key any that the authority has signed may operate, as with VDSM.
func (c *Config) remote(role access.Role) func(string) error {
	return func(s string) error {
		c.engines = c.engines || role == access.Operate
		return each(func(pattern string) error { return c.Access.AllowRemote(pattern, role) })(s)
	}
}

// each reads a list.
func each(add func(string) error) func(string) error {
	return func(s string) error {
		var list []string
		if err := setList(&list)(s); err != nil {
			return err
		}
		for _, one := range list {
			if err := add(one); err != nil {
				return err
			}
		}
		return nil
	}
}

// setAddress reads "host:port", where an absent host is another one, or "none".
func setAddress(to *string, absent string) func(string) error {
	return func(s string) error {
		if s == "none" {
			*to = ""
			return nil
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("%q is neither host:port, as in 127.0.0.1:54322 or [::]:54321, nor none", s)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%q is not a port, 0 to 65535", port)
		}
		*to = net.JoinHostPort(cmp.Or(host, absent), port)
		return nil
	}
}

// setMode reads the mode of a socket, in octal.
func setMode(to *fs.FileMode) func(string) error {
	return func(s string) error {
		mode, err := strconv.ParseUint(s, 8, 32)
		if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
			return fmt.Errorf("%q is not the mode of a socket that its owner can open, such as 0660 or 0666", s)
		}
		*to = fs.FileMode(mode)
		return nil
	}
}

// setGroup reads a group of this host, by name or number.
func setGroup(to *int) func(string) error {
	return func(s string) error {
		g, err := user.LookupGroup(s)
		if err != nil {
			g, err = user.LookupGroupId(s)
		}
		if err == nil {
			*to, err = strconv.Atoi(g.Gid)
		}
		if err != nil {
			return fmt.Errorf("there is no group %q on this host", s)
		}
		return nil
	}
}

func setRole(to *access.Role) func(string) error {
	return func(s string) (err error) {
		*to, err = access.Parse(s)
		return err
	}
}

func setJava(to *stomp.Java) func(string) error {
	return func(s string) error {
		switch j := stomp.Java(s); j {
		case stomp.Always, stomp.Never:
			*to = j
		case "auto":
			*to = stomp.Auto
		default:
			return fmt.Errorf("%q is none of auto, always, never", s)
		}
		return nil
	}
}

func setList(to *[]string) func(string) error {
	return func(s string) error {
		*to = nil
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" && !slices.Contains(*to, part) {
				*to = append(*to, part)
			}
		}
		return nil
	}
}

func setDuration(to *time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a length of time such as 10s, 5m or 24h", s)
		}
		*to = d
		return nil
	}
}

// orNever takes 0 for a length of time that never passes.
func orNever(set func(string) error) func(string) error {
	return func(s string) error {
		if s == "0" {
			return nil
		}
		return set(s)
	}
}

func setCount(to *int) func(string) error {
	return func(s string) (err error) {
		*to, err = readCount(s)
		return err
	}
}

func readCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of tasks (0 = no limit)", s)
	}
	return n, nil
}

func setBool(to *bool) func(string) error {
	return func(s string) error {
		v, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*to = v
		return nil
	}
}

func setLevel(to *zerolog.Level) func(string) error {
	return func(s string) error {
		l, err := zerolog.ParseLevel(s)
		if err != nil || l == zerolog.NoLevel {
			return fmt.Errorf("%q is none of debug, info, warn, error", s)
		}
		*to = l
		return nil
	}
}

// setOwner reads "uid:gid", as in 36:36, VDSM's.
func setOwner(to *domain.Owner) func(string) error {
	return func(s string) error {
		uid, gid, ok := strings.Cut(s, ":")
		u, errU := strconv.ParseUint(uid, 10, 31)
		g, errG := strconv.ParseUint(gid, 10, 31)
		if !ok || errU != nil || errG != nil {
			return fmt.Errorf("%q is not uid:gid, as in 36:36", s)
		}
		*to = domain.Owner{UID: int(u), GID: int(g)}
		return nil
	}
}

// statePath is a path in the state directory.
func (c Config) statePath(name string) string { return filepath.Join(c.StateDir, name) }
