//go:build vm

package vmops_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/vmtest"
)

// newDisk makes a guest whose disk is the first volume of a chain, and starts it.
func newDisk(t *testing.T, as ...func(*vmtest.Guest)) (*chain, *vmtest.Guest) {
	t.Helper()
	c := &chain{a: newAgent(t)}
	d, err := c.a.domains.Get(sd)
	must(t, err)
	_, err = d.CreateImageDir(imgDisk)
	must(t, err)
	g := libvirtd.Guest(t, vmID)
	for _, f := range as {
		f(g)
	}
	c.adopt(g)
	c.a.create(g, nil)
	g.Counts(3)
	return c, g
}

// snapshots has the machine go on on n new volumes.
func (c *chain) snapshots(n int) {
	c.a.t.Helper()
	for range n {
		if v := c.a.ended(c.a.submit("VM.snapshot", c.grow())); v.State != tasks.Finished {
			c.a.t.Fatalf("the snapshot ended %s: %s", v.State, v.Message)
		}
		c.taken()
	}
}

func (c *chain) mergeParams(base, top string) map[string]any {
	return map[string]any{
		"vmID": vmID, "drive": map[string]any{"poolID": pool, "domainID": sd, "imageID": imgDisk, "volumeID": c.top(), "device": "disk"},
		"baseVolUUID": base, "topVolUUID": top, "bandwidth": "0",
	}
}

// files are the chain that the machine works on, without their directory.
func (c *chain) files() (out []string) {
	c.a.t.Helper()
	xml, err := c.a.libvirt.XML(c.a.t.Context(), vmID)
	must(c.a.t, err)
	for _, file := range filesOf(xml) {
		out = append(out, filepath.Base(file))
	}
	return out
}

// filesOf are the files of the chain that a machine works on.
func filesOf(xml string) (out []string) {
	for _, part := range strings.Split(xml, "<source file='")[1:] {
		file, _, _ := strings.Cut(part, "'")
		if strings.Contains(file, imgDisk) {
			out = append(out, file)
		}
	}
	return out
}

// meta is that of a volume of the disk.
func (c *chain) meta(vol string) domain.VolumeMeta {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	m, err := d.ReadVolume(imgDisk, vol)
	must(c.a.t, err)
	return m
}

// merged fails unless the top is out of the chain, as libvirt, the files and the metadata say; then it deletes the top, as an engine does.
func (c *chain) merged(base, top, child string) {
	c.a.t.Helper()
	files := c.files()
	want := []string{base}
	if child != "" {
		want = []string{child, base}
	}
	if strings.Join(files[:len(want)], " ") != strings.Join(want, " ") {
		c.a.t.Errorf("the machine works on %v, not on %v", files, want)
	}
	if m := c.meta(base); m.Legality != domain.Legal || m.Merging || child == "" && m.VolType != domain.Leaf {
		c.a.t.Errorf("the base is %+v", m)
	}
	if m := c.meta(top); m.Legality != domain.Illegal {
		c.a.t.Errorf("the top is %+v", m)
	}
	if child != "" {
		out, err := exec.Command("qemu-img", "info", "-U", c.a.path(imgDisk, child)).CombinedOutput()
		if m := c.meta(child); m.PUUID != base || err != nil || !strings.Contains(string(out), "backing file: "+base+" ") {
			c.a.t.Errorf("the child is %+v, and its file, %v:\n%s", m, err, out)
		}
	}
	c.remove(top)
}

// unmerged fails unless the machine goes on on its chain as before, whose base may be part merged.
func (c *chain) unmerged(files []string, base string) {
	c.a.t.Helper()
	if now := c.files(); strings.Join(now, " ") != strings.Join(files, " ") {
		c.a.t.Errorf("the machine works on %v, and worked on %v", now, files)
	}
	for _, v := range files {
		if m := c.meta(v); m.Legality != domain.Legal && (v != base || !m.Merging) {
			c.a.t.Errorf("volume %s is %+v", v, m)
		}
	}
	c.idle()
}

// idle fails if the disk has a job.
func (c *chain) idle() {
	c.a.t.Helper()
	if j, err := c.a.libvirt.BlockJob(c.a.t.Context(), vmID, "vda"); err != nil || j.Active {
		c.a.t.Errorf("the disk has the job %+v, %v", j, err)
	}
}

// TestRealMerge: volumes in the middle of a guest's chain, and its leaf, are merged; stopped at every record; the agent dies at every
// record; libvirtd is killed. It is one guest all the time: it must never start to count anew.
func TestRealMerge(t *testing.T) {
	c, g := newDisk(t)
	defer func() { c.a.close() }()
	for _, kind := range []struct {
		name   string
		middle bool
	}{{"in the middle", true}, {"the leaf", false}} {
		// chain makes one to merge in, and says of what.
		chain := func() (base, top, child string) {
			for len(c.volumes) < 3 {
				c.snapshots(1)
			}
			if kind.middle {
				return c.volumes[0], c.volumes[1], c.volumes[2]
			}
			return c.volumes[1], c.volumes[2], ""
		}
		finished := func(base, top, child string) {
			t.Helper()
			c.merged(base, top, child)
			before := g.Count()
			g.Counts(before)
		}
		t.Run(kind.name+" to the end", func(t *testing.T) {
			base, top, child := chain()
			if v := c.a.ended(c.a.submit("VM.merge", c.mergeParams(base, top))); v.State != tasks.Finished {
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
			finished(base, top, child)
		})
		t.Run(kind.name+" stopped at every record", func(t *testing.T) {
			everyStop(t, c, func() (string, func(v tasks.View)) {
				base, top, child := chain()
				files, before := c.files(), g.Count()
				return c.a.raw("VM.merge", c.mergeParams(base, top)), func(v tasks.View) {
					if v.State == tasks.Finished {
						finished(base, top, child)
						return
					}
					c.unmerged(files, base)
					g.Counts(before)
				}
			})
		})
		t.Run(kind.name+" stopped in the middle", func(t *testing.T) {
			worst, cancelled, times := time.Duration(0), 0, 20
			if kind.middle {
				times = 6
			}
			for range times {
				base, top, child := chain()
				files, before := c.files(), g.Count()
				task := c.a.submit("VM.merge", c.mergeParams(base, top))
				for {
					j, err := c.a.libvirt.BlockJob(t.Context(), vmID, "vda")
					if s, gone := c.a.Summary(task); err != nil || j.Active || gone != nil || s.State.Final() {
						break
					}
				}
				answer := c.a.Stop(task, tasks.StopOptions{Who: "tester"})
				from := time.Now()
				v := c.a.ended(task)
				worst = max(worst, time.Since(from))
				c.a.judge(t, 0, answer, v)
				if v.State == tasks.Finished {
					finished(base, top, child)
					continue
				}
				cancelled++
				c.unmerged(files, base)
				g.Counts(before)
			}
			t.Logf("%d of %d merges were cancelled; from the answer to the stop to the end: %v at worst", cancelled, times, worst)
		})
		t.Run(kind.name+", the agent dies at every record", func(t *testing.T) {
			everyDeath(t, c, func() (string, func(v tasks.View)) {
				base, top, child := chain()
				return c.a.raw("VM.merge", c.mergeParams(base, top)), func(v tasks.View) {
					if v.State != tasks.Finished {
						t.Fatalf("ended %s: %s", v.State, v.Message)
					}
					finished(base, top, child)
				}
			})
		})
		t.Run(kind.name+", libvirtd is killed", func(t *testing.T) {
			base, top, child := chain()
			files, before := c.files(), g.Count()
			c.a.onceAtCommit(6, func() {
				libvirtd.Kill()
				must(t, libvirtd.Restart())
			})
			v := c.a.ended(c.a.submit("VM.merge", c.mergeParams(base, top)))
			t.Logf("when libvirtd was killed the task ended %s: %s", v.State, v.Message)
			if v.State == tasks.Finished {
				finished(base, top, child)
				return
			}
			c.unmerged(files, base)
			g.Counts(before)
		})
	}
	c.destroyed()
}
