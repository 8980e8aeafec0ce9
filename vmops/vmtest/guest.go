//go:build vm

package vmtest

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// Guest is a machine of a host: it counts on its console, and in the first block of its disk.
type Guest struct {
	t       *testing.T
	UUID    string
	Name    string
	Disk    string // its file
	Format  string // its format; "" = raw
	Console string
	Memory  int // MiB
	Fill    int // MiB of it that are like no others
	Dirty   int // MiB of it that are written all the time
	guest   string
}

// Guest makes the files of a guest; nothing runs yet.
func (h *Host) Guest(t *testing.T, uuid string) *Guest {
	t.Helper()
	dir, err := guestDir()
	if err != nil {
		t.Fatal(err)
	}
	name := "vm-" + uuid[:8]
	g := &Guest{t: t, UUID: uuid, Name: name, Disk: filepath.Join(h.Dir, name+".img"), Console: filepath.Join(h.Dir, name+".log"), Memory: 160, guest: dir}
	_ = os.Remove(g.Console) // of a guest before
	f, err := os.Create(g.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	return g
}

// XML describes the machine.
func (g *Guest) XML() string {
	fill := ""
	if g.Fill > 0 {
		fill = fmt.Sprintf(" fill=%d", g.Fill)
	}
	if g.Dirty > 0 {
		fill += fmt.Sprintf(" dirty=%d", g.Dirty)
	}
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid>
  <memory unit='MiB'>%d</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s/kernel</kernel><initrd>%s/initrd</initrd><cmdline>console=ttyS0 quiet panic=-1%s</cmdline></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>Nehalem</model></cpu>
  <on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='%s' append='on'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>`, g.Name, g.UUID, g.Memory, g.guest, g.guest, fill, cmp.Or(g.Format, "raw"), g.Disk, g.Console)
}

// Count is the last number that the guest has written to its console.
func (g *Guest) Count() int {
	g.t.Helper()
	f, err := os.Open(g.Console)
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	last := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "count "); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
				last = n
			}
		}
	}
	return last
}

// Counts waits until the guest has counted further than from.
func (g *Guest) Counts(from int) {
	g.t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(filepath.Dir(g.Console)); err != nil {
		g.t.Fatal(err)
	}
	for g.Count() <= from {
		select {
		case <-w.Events:
		case err := <-w.Errors:
			g.t.Fatal(err)
		case <-g.t.Context().Done():
			g.t.Fatalf("the guest %s counts no further than %d", g.Name, g.Count())
		}
	}
}

// OnDisk is the number in the first block of the disk.
func (g *Guest) OnDisk() int {
	g.t.Helper()
	f, err := os.Open(g.Disk)
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 16)
	if _, err := f.ReadAt(b, 0); err != nil {
		g.t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.Trim(string(b), "\x00\n")) // nothing yet is 0
	return n
}
