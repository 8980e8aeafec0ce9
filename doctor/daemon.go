package doctor

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vdsm-agent/internal/proc"
)

func (l *looker) configuration() {
	if l.bad == nil {
		l.ok("the configuration is good")
		return
	}
	for line := range strings.Lines(l.bad.Error()) {
		l.add(Error, "mend the file; 'vdsm-agentd --check-config' looks again", "%s", strings.TrimSpace(line))
	}
}

func (l *looker) daemon() {
	ctx, end := context.WithTimeout(l.ctx, patience)
	defer end()
	err := l.Call(ctx, "Host.ping2", nil, nil)
	switch {
	case err == nil:
		l.alive = true
		l.ok("the daemon answers")
	case l.Unreachable(err):
		l.add(Error, "systemctl start vdsm-agentd; 'systemctl status vdsm-agentd' says why it does not run", "no daemon answers on %s", l.config.Socket)
	default:
		l.alive = true
		l.add(Warning, "wait, and see 'journalctl -u vdsm-agentd' if it stays so", "the daemon does not work: %s", err)
	}
}

func (l *looker) socket() {
	path := l.config.Socket
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if l.alive {
			l.add(Warning, "restart the daemon and vdsm-agentd.socket", "there is no %s, though a daemon answers: nobody else can connect", path)
			return
		}
		l.add(Note, "", "there is no %s before the daemon, or vdsm-agentd.socket, is started", path)
		return
	case err != nil:
		l.add(Error, "look at the directory of the socket", "%s", err)
		return
	case file.Mode().Type() != fs.ModeSocket:
		l.add(Error, "remove it, or configure another path (agent.socket)", "%s is no socket", path)
		return
	}
	mode := file.Mode().Perm()
	mend := "chmod o= " + path + "; and see socket_mode in the configuration, or SocketMode= of vdsm-agentd.socket"
	switch dir, err := os.Stat(filepath.Dir(path)); {
	case mode&0o002 != 0:
		l.add(Warning, mend, "everybody on this host can connect to %s (mode %04o); what they may do then, section [access] says", path, mode)
	case err == nil && dir.Mode().Perm()&0o022 != 0 && dir.Mode()&fs.ModeSticky == 0:
		l.add(Error, "chmod go-w "+filepath.Dir(path), "others than the daemon can replace its socket: %s has the mode %04o", filepath.Dir(path), dir.Mode().Perm())
	default:
		l.ok("%s has the mode %04o", path, mode)
	}
}

// cgroup looks where the daemon's workers live.
func (l *looker) cgroup() {
	const mend = "mount cgroup2, as systemd does"
	pid := l.pid()
	dir, err := proc.Cgroup(cmp.Or(pid, os.Getpid()))
	if err != nil {
		l.add(Warning, mend, "workers can only have process groups, which what they start can leave: there is no cgroup v2 (%s)", err)
		return
	}
	if pid == 0 {
		l.ok("there is cgroup v2")
		return
	}
	if found, err := filepath.Glob(filepath.Join(dir, "vdsm-agent-*")); err != nil || len(found) == 0 {
		l.add(Warning, "let systemd delegate its cgroup: Delegate=yes in vdsm-agentd.service, as it is shipped",
			"the daemon's workers have no cgroups of their own in %s: what they start could outlive a stop", dir)
		return
	}
	l.ok("workers have cgroups of their own in %s", dir)
}

// pid is the daemon's, 0 if none runs here.
func (l *looker) pid() int {
	if !l.alive {
		return 0
	}
	text, err := os.ReadFile(l.config.StatePath("lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
