//go:build vm

package vmops_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/vmtest"
)

const imgDisk = "aaaaaaaa-0000-4000-8000-000000000003"

// chain is the volumes of a guest's disk, each on the one before. The machine works on the last.
type chain struct {
	a       *agent
	volumes []string
	next    string // what grow has made
	made    int
	during  func(context.Context, *agent) // done again and again while a task of everyStop or everyDeath runs; nil = nothing
}

// name is that of a volume that was not there before.
func (c *chain) name() string {
	c.made++
	return fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", 100+c.made)
}

func (c *chain) top() string { return c.volumes[len(c.volumes)-1] }

// taken makes the volume that grow has made the one that the machine works on.
func (c *chain) taken() { c.volumes = append(c.volumes, c.next) }

// grow puts a volume on top of the chain, as Volume.create does, and returns the drive that VM.snapshot takes.
func (c *chain) grow() map[string]any {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	base, top := c.top(), c.name()
	c.next = top
	format := "qcow2"
	if len(c.volumes) == 1 {
		format = "raw"
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", format, c.a.path(imgDisk, top), "16M").CombinedOutput()
	if err != nil {
		c.a.t.Fatalf("%v\n%s", err, out)
	}
	must(c.a.t, d.UpdateVolumeMeta(imgDisk, base, func(m *domain.VolumeMeta) error { m.VolType = domain.Internal; return nil }))
	c.write(top, base, domain.FormatCOW)
	return map[string]any{"vmID": vmID, "snapDrives": []map[string]any{{"domainID": sd, "imageID": imgDisk, "baseVolumeID": base, "volumeID": top}}}
}

func (c *chain) write(vol, parent, format string) {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	must(c.a.t, d.SetMode(imgDisk, vol))
	must(c.a.t, d.WriteVolumeMeta(imgDisk, vol, domain.VolumeMeta{
		Capacity: 16 << 20, CTime: time.Unix(1700000000, 0), DiskType: "DATA", Domain: sd, Format: format, Image: imgDisk, Legality: domain.Legal,
		PUUID: parent, Type: domain.Sparse, VolType: domain.Leaf,
	}))
}

// shrink takes the unused top away.
func (c *chain) shrink() {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	for _, suffix := range []string{".meta", ""} {
		must(c.a.t, os.Remove(c.a.path(imgDisk, c.next)+suffix))
	}
	must(c.a.t, d.UpdateVolumeMeta(imgDisk, c.top(), func(m *domain.VolumeMeta) error { m.VolType = domain.Leaf; return nil }))
}

// onTop fails unless the machine works on the last volume now.
func (c *chain) onTop() {
	c.a.t.Helper()
	xml, err := c.a.libvirt.XML(c.a.t.Context(), vmID)
	must(c.a.t, err)
	live, _, _ := strings.Cut(xml, "<backingStore")
	if !strings.Contains(live, c.a.path(imgDisk, c.top())) {
		c.a.t.Errorf("the machine does not work on the last volume of its chain:\n%s", live)
	}
}

// TestRealSnapshot: a guest without an agent goes on on new volumes, again and again; stopped at every record; the agent dies at every
// record; libvirtd is killed.
func TestRealSnapshot(t *testing.T) {
	c, g := newDisk(t)
	defer func() { c.a.close() }()
	// taken is called when a snapshot was taken: what is below stays as it is.
	taken := func(g *vmtest.Guest) {
		t.Helper()
		c.taken()
		c.onTop()
		below, before := g.OnDisk(), g.Count()
		g.Counts(before + 2)
		if g.OnDisk() != below {
			t.Errorf("the guest still writes to its first volume")
		}
	}
	t.Run("to the end", func(t *testing.T) {
		if v := c.a.ended(c.a.submit("VM.snapshot", c.grow())); v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		taken(g)
	})
	t.Run("stopped at every record", func(t *testing.T) {
		everyStop(t, c, func() (string, func(tasks.View)) {
			before := g.Count()
			return c.a.raw("VM.snapshot", c.grow()), func(v tasks.View) {
				if v.State == tasks.Finished {
					taken(g)
					return
				}
				c.onTop()
				c.shrink()
				g.Counts(before)
			}
		})
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		everyDeath(t, c, func() (string, func(tasks.View)) {
			return c.a.raw("VM.snapshot", c.grow()), func(v tasks.View) {
				if v.State != tasks.Finished {
					t.Fatalf("ended %s: %s", v.State, v.Message)
				}
				taken(g)
			}
		})
	})
	t.Run("libvirtd is killed", func(t *testing.T) {
		params := c.grow()
		var once sync.Once
		c.a.atCommit(5, func() error { // it is to take the snapshot next
			once.Do(func() {
				libvirtd.Kill()
				must(t, libvirtd.Restart())
			})
			return nil
		})
		v := c.a.ended(c.a.submit("VM.snapshot", params))
		if v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		taken(g)
	})
	_, err := c.a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
	out, err := exec.Command("qemu-img", "check", "-q", c.a.path(imgDisk, c.top())).CombinedOutput()
	if err != nil {
		t.Errorf("the last volume: %v\n%s", err, out)
	}
}
