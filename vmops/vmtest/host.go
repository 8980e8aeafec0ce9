//go:build vm

// Package vmtest gives tests a libvirt of their own with guests that really run: libvirtd in a scratch directory, with mounts of its
// own over the directories that it keeps its things in, so that it and one of the host know nothing of each other. It needs root, and
// what `make test-vm` installs and makes. Only tests import it.
package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Host is one libvirt.
type Host struct {
	Dir    string // scratch; guests may have their files in it
	Socket string
	name   string
	daemon *exec.Cmd
	ended  chan struct{}
	log    *os.File
}

// guestDir is where scripts/guest.sh has put the guest.
func guestDir() (string, error) {
	dir := os.Getenv("VM_GUEST")
	if _, err := os.Stat(filepath.Join(dir, "initrd")); dir == "" || err != nil {
		return "", errors.New("VM_GUEST names no directory with a guest: run `make test-vm`")
	}
	return dir, nil
}

// Run starts a host, runs the tests with it, and ends it with all of its guests. TestMain calls it.
func Run(m *testing.M, use func(*Host)) int {
	h, err := Start("first")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer h.End()
	use(h)
	return m.Run()
}

// Start starts another host, of another name, that machines of the first one can go to. End ends it.
func Start(name string) (h *Host, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("these tests start libvirt: run them as root")
	}
	dir, err := os.MkdirTemp("", "vdsm-agent-vm-")
	if err != nil {
		return nil, err
	}
	h = &Host{Dir: dir, Socket: filepath.Join(dir, "sock", "libvirt-sock"), name: name}
	for _, sub := range []string{"sock", "run", "lib", "etc", "cache", "log"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for name, lines := range map[string][]string{
		"etc/libvirtd.conf": {`auth_unix_rw="none"`, `auth_unix_ro="none"`, `unix_sock_group="root"`, `unix_sock_dir="` + filepath.Join(dir, "sock") + `"`, `host_uuid="` + uuid.NewString() + `"`},
		"etc/qemu.conf": {
			`user="root"`, `group="root"`, `dynamic_ownership=0`, `security_driver="none"`, `cgroup_controllers=[]`, `namespaces=[]`, `stdio_handler="file"`,
		},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	if h.log, err = os.Create(filepath.Join(dir, "log", "libvirtd.log")); err != nil {
		return nil, err
	}
	return h, h.Restart()
}

// Restart starts libvirtd, which finds the guests that run, and returns when it answers.
func (h *Host) Restart() error {
	script := `set -e
hostname "$1.example.com"
for d in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do mkdir -p $d; done
mount --bind "$0/run" /run/libvirt; mount --bind "$0/lib" /var/lib/libvirt; mount --bind "$0/etc" /etc/libvirt
mount --bind "$0/cache" /var/cache/libvirt; mount --bind "$0/log" /var/log/libvirt
exec libvirtd -f /etc/libvirt/libvirtd.conf -p "$0/run/libvirtd.pid"`
	_ = os.Remove(h.Socket) // the one that a killed daemon left
	h.daemon = exec.Command("unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script, h.Dir, h.name)
	h.daemon.Stdout, h.daemon.Stderr = h.log, h.log
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.daemon.Start(); err != nil {
		return err
	}
	h.ended = make(chan struct{})
	go func() {
		defer close(h.ended)
		_ = h.daemon.Wait() // it is killed in the end
	}()
	for {
		if c, err := net.Dial("unix", h.Socket); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-h.ended:
			text, _ := os.ReadFile(h.log.Name())
			return fmt.Errorf("libvirtd ended at its start:\n%s", bytes.TrimSpace(text))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends libvirtd with SIGKILL; guests go on.
func (h *Host) Kill() {
	_ = h.daemon.Process.Kill() // it may have ended
	<-h.ended
}

// Freeze stops libvirtd: it takes calls and answers none, until Thaw.
func (h *Host) Freeze() { _ = h.daemon.Process.Signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (h *Host) Thaw() { _ = h.daemon.Process.Signal(syscall.SIGCONT) }

// KillGuests ends all guests of the host as a power cut does; libvirtd goes on, if it runs.
func (h *Host) KillGuests() {
	files, _ := filepath.Glob(filepath.Join(h.Dir, "run", "qemu", "*.pid"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			continue
		}
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(line, []byte("qemu")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// End leaves nothing.
func (h *Host) End() {
	h.Kill()
	h.KillGuests()
	h.log.Close()
	os.RemoveAll(h.Dir)
}
