//go:build vm

package vmops_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/vmops/vmtest"
)

const imgDisk = "aaaaaaaa-0000-4000-8000-000000000003"

// chain is the volumes of a guest's disk, each on the one before.
type chain struct {
	a    *agent
	tops int
}

func (c *chain) volume(n int) string { return fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", 100+n) }

// grow puts a volume on top of the chain, as Volume.create does, and returns the drive that VM.snapshot takes.
func (c *chain) grow() map[string]any {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	base, top := c.volume(c.tops), c.volume(c.tops+1)
	format := "qcow2"
	if c.tops == 0 {
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
	top := c.volume(c.tops + 1)
	for _, suffix := range []string{".meta", ""} {
		must(c.a.t, os.Remove(c.a.path(imgDisk, top)+suffix))
	}
	must(c.a.t, d.UpdateVolumeMeta(imgDisk, c.volume(c.tops), func(m *domain.VolumeMeta) error { m.VolType = domain.Leaf; return nil }))
}

// onTop fails unless the machine works on the nth volume now.
func (c *chain) onTop(n int) {
	c.a.t.Helper()
	xml, err := c.a.libvirt.XML(c.a.t.Context(), vmID)
	must(c.a.t, err)
	live, _, _ := strings.Cut(xml, "<backingStore")
	if !strings.Contains(live, c.a.path(imgDisk, c.volume(n))) {
		c.a.t.Errorf("the machine does not work on volume %d of its chain:\n%s", n, live)
	}
}

// TestRealSnapshot: a guest without an agent goes on on new volumes, again and again; stopped at every record; the agent dies at every
// record; libvirtd is killed.
func TestRealSnapshot(t *testing.T) {
	c := &chain{a: newAgent(t)}
	defer func() { c.a.close() }()
	d, err := c.a.domains.Get(sd)
	must(t, err)
	_, err = d.CreateImageDir(imgDisk)
	must(t, err)
	g := libvirtd.Guest(t, vmID)
	must(t, os.Rename(g.Disk, c.a.path(imgDisk, c.volume(0))))
	g.Disk = c.a.path(imgDisk, c.volume(0))
	c.write(c.volume(0), domain.BlankUUID, domain.FormatRaw)
	c.a.create(g, nil)
	g.Counts(3)
	// taken is called when a snapshot was taken: what is below stays as it is.
	taken := func(g *vmtest.Guest) {
		t.Helper()
		c.tops++
		c.onTop(c.tops)
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
		for n := int64(1); ; n++ {
			before := g.Count()
			answer, id := make(chan error, 1), make(chan string, 1)
			var once sync.Once
			a := c.a
			count := a.atCommit(n, func() error {
				once.Do(func() { go func() { answer <- a.Stop(<-id, tasks.StopOptions{Who: "tester"}) }() })
				return nil
			})
			task := a.submit("VM.snapshot", c.grow())
			id <- task
			v := a.ended(task)
			over := count.Load() < n
			a.atCommit(1<<40, nil)
			if !over {
				a.judge(t, n, <-answer, v)
			}
			if v.State == tasks.Finished {
				taken(g)
			} else {
				c.onTop(c.tops)
				c.shrink()
				g.Counts(before)
			}
			if t.Failed() {
				t.Fatalf("stopped behind record %d", n)
			}
			if over {
				return
			}
		}
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		for n := int64(2); ; n++ {
			dead := make(chan struct{})
			var once sync.Once
			a := c.a
			count := a.atCommit(n, func() error {
				once.Do(func() { close(dead) })
				return store.ErrUnavailable
			})
			task := a.submit("VM.snapshot", c.grow())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = a.Wait(t.Context(), task, tasks.Ended)
			}()
			select {
			case <-dead:
			case <-ended:
			}
			over := count.Load() < n
			c.a = a.crash()
			if v := c.a.ended(task); v.State != tasks.Finished {
				t.Fatalf("died at record %d: ended %s: %s", n, v.State, v.Message)
			}
			taken(g)
			if over {
				return
			}
		}
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
	_, err = c.a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
	out, err := exec.Command("qemu-img", "check", "-q", c.a.path(imgDisk, c.volume(c.tops))).CombinedOutput()
	if err != nil {
		t.Errorf("the last volume: %v\n%s", err, out)
	}
}
