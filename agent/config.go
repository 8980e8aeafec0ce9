package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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

// Flags are what the command line says; "" = not given.
type Flags struct {
	StateDir, ConfigFile, Socket, LogLevel string
}

// Load makes the configuration: the defaults, then the file, then the flags. The default file may be absent; one that was
// named must be there. Unknown sections and keys, and impossible values, are refused by name.
func Load(f Flags) (Config, error) {
	c := Config{
		StateDir: DefaultStateDir, Socket: DefaultSocket, LogLevel: zerolog.InfoLevel, Owner: domain.Owner{UID: -1, GID: -1},
		TrashFor: 24 * time.Hour, QueueLimit: 500,
		Limits:    map[tasks.Class]int{tasks.ClassCopy: 4, tasks.ClassMerge: 4, tasks.ClassVM: 8, tasks.ClassLight: 64},
		Retention: tasks.Retention{Jobs: time.Hour, History: 30 * 24 * time.Hour, Rows: 100_000},

		TermGrace: 2 * time.Second, FenceFor: time.Hour,
	}
	file := f.ConfigFile
	if file == "" {
		file = DefaultConfig
	}
	if err := c.read(file); err != nil && (f.ConfigFile != "" || !errors.Is(err, fs.ErrNotExist)) {
		return c, err
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
		"agent.log_level":      setLevel(&c.LogLevel),
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
