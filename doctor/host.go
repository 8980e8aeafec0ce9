package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The oldest qemu-img that knows all that the agent asks of it (bitmaps, rate limits, what is zero already), and the oldest one that it is tested with.
var (
	oldestQEMU = [2]int{5, 2}
	testedQEMU = [2]int{7, 2}
)

var qemuVersion = regexp.MustCompile(`qemu-img version (\d+)\.(\d+)\S*`)

func (l *looker) qemuImg() {
	const install = "install the package qemu-utils (Debian) or qemu-img (Fedora and its kin)"
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		l.add(Error, install, "there is no qemu-img in PATH: no image can be made or copied")
		return
	}
	ctx, end := context.WithTimeout(l.ctx, patience)
	defer end()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	m := qemuVersion.FindStringSubmatch(string(out))
	if err != nil || m == nil {
		l.add(Error, install+" again", "%s does not say its version: %v", path, err)
		return
	}
	major, _ := strconv.Atoi(m[1]) // digits, as the expression says
	minor, _ := strconv.Atoi(m[2])
	older := func(than [2]int) bool { return major < than[0] || major == than[0] && minor < than[1] }
	switch {
	case older(oldestQEMU):
		l.add(Error, "install a newer one", "%s has version %d.%d; the agent needs %d.%d or later", path, major, minor, oldestQEMU[0], oldestQEMU[1])
	case older(testedQEMU):
		l.add(Note, "", "%s has version %d.%d; the agent is tested with %d.%d and later", path, major, minor, testedQEMU[0], testedQEMU[1])
	default:
		l.ok("%s has version %d.%d", path, major, minor)
	}
}

// ahead is how much later than now something may have been written that this host has written.
const ahead = 5 * time.Minute

// clock looks whether the host's clock is right as far as that can be seen here.
func (l *looker) clock() {
	const mend = "let a time service set the clock: systemctl enable --now chrony, or systemd-timesyncd"
	if file, err := os.Stat(l.config.StatePath(storeFile)); err == nil && time.Until(file.ModTime()) > ahead {
		l.add(Error, mend, "the clock is behind: it says %s, and the store was last written at %s", time.Now().UTC().Format(time.RFC3339), file.ModTime().UTC().Format(time.RFC3339))
		return
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.add(Note, "", "the store's time cannot be seen: %s", err)
	}
	state, err := unix.Adjtimex(&unix.Timex{})
	switch {
	case err != nil:
		l.add(Note, "", "the kernel does not say whether the clock is set by a time service: %s", err)
	case state == unix.TIME_ERROR:
		l.add(Note, mend, "the clock is not set by a time service; the times of tasks, and of certificates, may be wrong")
	default:
		l.ok("the clock is set by a time service")
	}
}

// libvirt looks for what virtual machines need.
func (l *looker) libvirt() {
	if l.config.Libvirt == "" {
		l.ok("this host is to have no virtual machines (vm.libvirt = none)")
		return
	}
	const without = ", or put 'libvirt = none' into section [vm] of the configuration if this host is to have no machines"
	if _, err := os.Stat(l.config.Libvirt); errors.Is(err, fs.ErrNotExist) {
		l.add(Warning, "install and start it: libvirt-daemon-system (Debian) or libvirt-daemon-kvm, systemctl enable --now libvirtd.socket"+without,
			"there is no libvirt, so verbs of machines are refused: %s does not exist", l.config.Libvirt)
		return
	}
	if err := l.askLibvirt(); err != nil {
		l.add(Warning, "systemctl restart libvirtd (or virtqemud)"+without, "%s", strings.TrimSuffix(err.Error(), "\n"))
		return
	}
	missing := false
	if _, err := os.Stat("/dev/kvm"); err != nil {
		missing = true
		l.add(Warning, "switch virtualisation on in the firmware, and load kvm_intel or kvm_amd", "machines run slowly, emulated: there is no /dev/kvm")
	}
	if emulator() == "" {
		missing = true
		l.add(Warning, "install qemu-system-x86 (Debian) or qemu-kvm", "there is no QEMU that machines could run in")
	}
	if !missing {
		l.ok("libvirt answers, and machines can run")
	}
}

// emulator is the program that machines run in, "" if there is none.
func emulator() string {
	for _, name := range []string{"qemu-system-" + machine(), "/usr/libexec/qemu-kvm", "qemu-kvm"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// machine is the host's architecture in QEMU's words.
func machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}
