package domain

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"vdsm-agent/internal/code"
)

// Remote is what is mounted, in the one form in which its name is used: without slashes at the end, or twice. Of "server:/path" that
// holds behind the colon, of "//server/path" not for the first two. An empty one, or one that could be taken for an option or has control characters in it, is 1000.
func Remote(spec string) (string, error) {
	host, dir, found := strings.Cut(spec, ":/")
	switch {
	case strings.ContainsFunc(spec, func(c rune) bool { return c < ' ' }) || strings.HasPrefix(spec, "-"):
		return "", code.Errorf(code.InvalidParameter, "parameter \"connection\": %q cannot be mounted", spec)
	case found && !strings.Contains(host, "/"):
		return host + ":" + path.Clean("/"+dir), nil
	case spec == "":
		return "", code.Errorf(code.InvalidParameter, "parameter \"connection\": give what is to be mounted")
	}
	if strings.HasPrefix(spec, "//") && !strings.HasPrefix(spec, "///") {
		return "/" + path.Clean(spec), nil // two slashes in front begin the name of a server
	}
	return path.Clean(spec), nil
}

// MountPoint is where what has that name is mounted, as VDSM names it: <mounts>/<T>, T the name with "_" doubled and "/" made "_".
func (r *Registry) MountPoint(remote string) string { return filepath.Join(r.mnt, mangle(remote)) }

// Mounted says whether something is mounted there. It asks the kernel's table, so it does not wait for a file system that hangs.
func Mounted(dir string) (bool, error) {
	points, err := mountPoints()
	return points[dir], err
}

// mountPoints are the paths at which something is mounted.
func mountPoints() (map[string]bool, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, osError(err, "read", "/proc/self/mountinfo")
	}
	points := map[string]bool{}
	for line := range bytes.Lines(table) {
		if fields := strings.Fields(string(line)); len(fields) > 4 {
			points[unescape(fields[4])] = true
		}
	}
	return points, nil
}

// unescape undoes what the kernel does to blanks and backslashes in that table: \ooo, in octal.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Reach looks whether a root can be read: 379 if not, or if it does not answer in time.
func (r *Registry) Reach(root string) error {
	_, err := ask(&r.answers, root, func() (any, error) { return nil, checkRoot(root) })
	return err
}

// In returns the domains of one root, as List does.
func (r *Registry) In(root string) []string {
	ids, err := ask(&r.answers, root, func() ([]string, error) { return domainsIn(root) })
	if err != nil {
		return r.seen.last(root)
	}
	return ids
}

// Release gives up the claims of a root's domains, and closes all that this agent has open there, so that it can be unmounted. They
// are opened again when they are asked for.
func (r *Registry) Release(root string) {
	r.mu.Lock()
	var closing []*Domain
	for id, d := range r.domains {
		if d.rootPath == root {
			closing = append(closing, d)
			delete(r.domains, id)
		}
	}
	r.mu.Unlock()
	for _, d := range closing {
		r.giveUp(d)
	}
}
