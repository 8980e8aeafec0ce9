//go:build vm

package vmops_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/vmtest"
)

// withMemory are the parameters of a snapshot of both, on a volume that is made for it.
func (c *chain) withMemory() map[string]any {
	params := c.grow()
	params["snapMemory"] = saved
	return params
}

// preview makes a volume on the one that the last snapshot keeps, as an engine does that goes back to it.
func (c *chain) preview() string {
	c.a.t.Helper()
	base, vol := c.volumes[len(c.volumes)-2], c.name()
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", map[bool]string{true: "raw", false: "qcow2"}[len(c.volumes) == 2],
		c.a.path(imgDisk, vol), "16M").CombinedOutput()
	if err != nil {
		c.a.t.Fatalf("%v\n%s", err, out)
	}
	c.write(vol, base, domain.FormatCOW)
	return vol
}

// whileDump waits until the memory volume grows, or the task has ended. Libvirt does not tell of its job when it is asked too early.
func (a *agent) whileDump(task string) {
	a.t.Helper()
	for {
		data, err := os.ReadFile(a.path(imgMem, volMem))
		must(a.t, err)
		if s, err := a.Summary(task); err != nil || strings.HasPrefix(string(data), "LibvirtQemudPart") || s.State.Final() {
			return
		}
	}
}

// TestRealSnapshotWithMemory: a guest goes on on a new volume, and what it was at that moment is resumed on another one; stopped at every record, and in the
// middle; the agent dies at every record; libvirtd is killed. It must never start to count anew.
func TestRealSnapshotWithMemory(t *testing.T) {
	c, g := newDisk(t, func(g *vmtest.Guest) { g.Memory, g.Fill = 320, 120 }) // so that there is time to stop it
	defer func() { c.a.close() }()
	taken := func() {
		t.Helper()
		c.taken()
		c.onTop()
		if head, err := exec.Command("head", "-c", "16", c.a.path(imgMem, volMem)).Output(); err != nil || string(head) != "LibvirtQemudSave" {
			t.Errorf("the memory volume begins with %q, %v", head, err)
		}
		before := g.Count()
		g.Counts(before)
		must(t, c.a.empty())
	}
	untaken := func(before int) {
		t.Helper()
		c.onTop()
		c.shrink()
		c.a.untouched()
		g.Counts(before)
	}
	t.Run("stopped at every record", func(t *testing.T) {
		everyStop(t, c, func() (string, func(tasks.View)) {
			before := g.Count()
			return c.a.raw("VM.snapshot", c.withMemory()), func(v tasks.View) {
				if v.State == tasks.Finished {
					taken()
					return
				}
				untaken(before)
			}
		})
	})
	t.Run("stopped in the middle", func(t *testing.T) {
		worst, cancelled := time.Duration(0), 0
		for range 6 {
			before := g.Count()
			task := c.a.submit("VM.snapshot", c.withMemory())
			c.a.whileDump(task)
			answer := c.a.Stop(task, tasks.StopOptions{Who: "tester"})
			from := time.Now()
			v := c.a.ended(task)
			worst = max(worst, time.Since(from))
			c.a.judge(t, 0, answer, v)
			if v.State == tasks.Finished {
				taken()
				continue
			}
			cancelled++
			untaken(before)
		}
		t.Logf("%d of 6 were cancelled; from the answer to the stop to the end: %v at worst", cancelled, worst)
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		everyDeath(t, c, func() (string, func(tasks.View)) {
			return c.a.raw("VM.snapshot", c.withMemory()), func(v tasks.View) {
				if v.State != tasks.Finished {
					t.Fatalf("ended %s: %s", v.State, v.Message)
				}
				taken()
			}
		})
	})
	t.Run("libvirtd is killed", func(t *testing.T) {
		before := g.Count()
		task := c.a.submit("VM.snapshot", c.withMemory())
		c.a.whileDump(task)
		libvirtd.Kill()
		must(t, libvirtd.Restart())
		v := c.a.ended(task)
		t.Logf("when libvirtd was killed the task ended %s: %s", v.State, v.Message)
		if v.State == tasks.Finished {
			taken()
			return
		}
		untaken(before)
	})
	t.Run("to the end, and resumed", func(t *testing.T) {
		before := g.Count()
		if v := c.a.ended(c.a.submit("VM.snapshot", c.withMemory())); v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		c.taken()
		then := g.Count()
		g.Counts(then + 20)
		_, err := c.a.call("VM.destroy", map[string]any{"vmID": vmID})
		must(t, err)
		last := g.Count()
		resumed := *g
		resumed.Disk, resumed.Format = c.a.path(imgDisk, c.preview()), "qcow2"
		c.a.create(&resumed, map[string]any{"hiberVolHandle": saved})
		for g.Count() >= last { // until it counts as it did then
			if s := c.a.stats(); s.Status != "Up" {
				t.Fatalf("the machine is %s", s.Status)
			}
		}
		if n := g.Count(); n < before || n > then+20 {
			t.Errorf("it counts %d, and was saved between %d and %d", n, before, then)
		}
		if files := c.files(); c.a.path(imgDisk, files[0]) != resumed.Disk {
			t.Errorf("it works on %v", files)
		}
	})
	_, err := c.a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
	if _, err := c.a.call("VM.getStats", map[string]any{"vmID": vmID}); code.Of(err) != code.NoSuchVM {
		t.Errorf("when it is destroyed: %v", err)
	}
}
