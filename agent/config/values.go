package config

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
	"vdsm-agent/rpc/stomp"
	"vdsm-agent/storageops/domain"

	"github.com/rs/zerolog"
)

// What follows reads the value of a key. An error says what is wrong with it and what would be right.

func setString(to *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("a value is missing")
		}
		*to = s
		return nil
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
		return 0, fmt.Errorf("%q is not a number (0 = no limit)", s)
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

// setLibvirt reads the path of a socket, or none.
func setLibvirt(to *string) func(string) error {
	return func(s string) error {
		if s == "none" {
			*to = ""
			return nil
		}
		if !filepath.IsAbs(s) {
			return fmt.Errorf("%q is neither the absolute path of libvirt's socket nor none", s)
		}
		*to = s
		return nil
	}
}

// besideSocket is the word for the usual place of the metrics.
const besideSocket = "socket"

// setMetrics reads where metrics can be read: the path of a socket, a port of this host alone, the usual place, or none.
func setMetrics(to *string) func(string) error {
	return func(s string) error {
		if s == besideSocket || filepath.IsAbs(s) {
			*to = s
			return nil
		}
		if err := setAddress(to, "127.0.0.1")(s); err != nil {
			return fmt.Errorf("%w, nor the absolute path of a socket, nor %s", err, besideSocket)
		}
		host, _, _ := net.SplitHostPort(*to)
		if ip := net.ParseIP(host); *to != "" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("%q is not an address of this host alone, such as 127.0.0.1 or [::1]; nobody is asked who they are there", host)
		}
		return nil
	}
}

func setPercent(to *int) func(string) error {
	return func(s string) error {
		n, err := readCount(s)
		if err != nil || n > 100 {
			return fmt.Errorf("%q is not a part in percent, 0 to 100", s)
		}
		*to = n
		return nil
	}
}
