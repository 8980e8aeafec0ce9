//go:build vm

package vmops_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/vmtest"
)

// elsewhere is the domain that a disk is moved to, and back from.
const elsewhere = "11111111-2222-4333-8444-666666666666"

// moving is a guest whose disk, a leaf on a base, is moved from one domain to the other.
type moving struct {
	*chain
	g    *vmtest.Guest
	from string
	to   string
}

func (m *moving) path(sd, vol string) string {
	return filepath.Join(m.a.dir, "root", sd, "images", imgDisk, vol)
}

func newMoving(t *testing.T) *moving {
	c, g := newDisk(t)
	c.snapshots(1)
	_, err := c.a.domains.Create(domain.CreateSpec{
		UUID: elsewhere, Path: filepath.Join(c.a.dir, "root"), Name: "other", Type: domain.TypeLocalFS, Class: "Data", Version: 5,
	})
	must(t, err)
	return &moving{c, g, sd, elsewhere}
}

// replica makes the chain anew in the other domain, as Image.cloneStructure and Image.syncData do, and returns the parameters of both verbs.
func (m *moving) replica() (start, back map[string]any) {
	m.a.t.Helper()
	d, err := m.a.domains.Get(m.to)
	must(m.a.t, err)
	if _, err := d.ImagePath(imgDisk); err == nil {
		must(m.a.t, os.RemoveAll(filepath.Dir(m.path(m.to, "x"))))
	}
	_, err = d.CreateImageDir(imgDisk)
	must(m.a.t, err)
	base, leaf := m.volumes[0], m.volumes[1]
	m.run("qemu-img", "convert", "-U", "-f", "raw", "-O", "raw", m.path(m.from, base), m.path(m.to, base))
	m.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "raw", m.path(m.to, leaf), "16M")
	for vol, meta := range map[string]domain.VolumeMeta{
		base: {Format: domain.FormatRaw, PUUID: domain.BlankUUID, VolType: domain.Internal}, leaf: {Format: domain.FormatCOW, PUUID: base, VolType: domain.Leaf},
	} {
		meta.Capacity, meta.CTime, meta.DiskType, meta.Domain, meta.Image = 16<<20, time.Unix(1700000000, 0), "DATA", m.to, imgDisk
		meta.Legality, meta.Type = domain.Legal, domain.Sparse
		must(m.a.t, d.SetMode(imgDisk, vol))
		must(m.a.t, d.WriteVolumeMeta(imgDisk, vol, meta))
	}
	disk := func(sd string) map[string]any {
		return map[string]any{"poolID": pool, "domainID": sd, "imageID": imgDisk, "volumeID": leaf, "device": "disk"}
	}
	return map[string]any{"vmID": vmID, "srcDisk": disk(m.from), "dstDisk": disk(m.to), "needExtend": "false"},
		map[string]any{"vmID": vmID, "srcDisk": disk(m.from), "dstDisk": disk(m.from)}
}

func (m *moving) run(name string, args ...string) {
	m.a.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		m.a.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// finish asks as an engine does that has no patience: until the mirror is over.
func (m *moving) finish(params map[string]any) func(context.Context, *agent) {
	raw, err := json.Marshal(params)
	must(m.a.t, err)
	return func(ctx context.Context, a *agent) {
		for _, c := range a.vms.Calls() {
			if c.Name == "VM.diskReplicateFinish" {
				_, _ = c.Answer(ctx, raw) // 40 as long as it is not ready
			}
		}
	}
}

// moved fails unless the guest goes on in the other domain, and then that is where it is.
func (m *moving) moved() {
	m.a.t.Helper()
	before := m.g.Count()
	m.on(m.to)
	m.g.Counts(before + 1)
	m.from, m.to = m.to, m.from
}

// stayed fails unless the guest goes on where it was, and the replica is no disk.
func (m *moving) stayed(begun bool) {
	m.a.t.Helper()
	before := m.g.Count()
	m.on(m.from)
	m.idle()
	d, err := m.a.domains.Get(m.to)
	must(m.a.t, err)
	if v, err := d.ReadVolume(imgDisk, m.volumes[1]); err != nil || begun != (v.Legality == domain.Illegal) {
		m.a.t.Errorf("the replica is %+v, %v", v, err)
	}
	m.g.Counts(before)
}

// on fails unless the machine works in a domain.
func (m *moving) on(sd string) {
	m.a.t.Helper()
	xml, err := m.a.libvirt.XML(m.a.t.Context(), vmID)
	must(m.a.t, err)
	if files := filesOf(xml); len(files) != 2 || files[0] != m.path(sd, m.volumes[1]) || files[1] != m.path(sd, m.volumes[0]) {
		m.a.t.Errorf("the machine works on %v, not in %s", files, sd)
	}
	d, err := m.a.domains.Get(sd)
	must(m.a.t, err)
	if v, err := d.ReadVolume(imgDisk, m.volumes[1]); err != nil || v.Legality != domain.Legal {
		m.a.t.Errorf("what the machine works on is %+v, %v", v, err)
	}
}

// TestRealReplication: the disk of a guest is moved to another domain, and back; stopped at every record, and in the middle; the agent dies at every
// record; libvirtd is killed. It is one guest all the time: it must never start to count anew.
func TestRealReplication(t *testing.T) {
	m := newMoving(t)
	defer func() { m.a.close() }()
	t.Run("to the end, and both are the same", func(t *testing.T) {
		start, _ := m.replica()
		task := m.a.submit("VM.diskReplicateStart", start)
		for {
			if j, err := m.a.libvirt.BlockJob(t.Context(), vmID, "vda"); err != nil || j.Ready {
				break
			}
		}
		must(t, m.a.libvirt.Suspend(t.Context(), vmID))
		_, err := m.a.call("VM.diskReplicateFinish", start)
		must(t, err)
		if v := m.a.ended(task); v.State != tasks.Finished {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		m.run("qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", m.path(m.from, m.volumes[1]), m.path(m.to, m.volumes[1]))
		must(t, m.a.libvirt.Resume(t.Context(), vmID))
		m.moved()
	})
	t.Run("given up by its verb", func(t *testing.T) {
		start, back := m.replica()
		task := m.a.submit("VM.diskReplicateStart", start)
		for {
			if j, err := m.a.libvirt.BlockJob(t.Context(), vmID, "vda"); err != nil || j.Active {
				break
			}
		}
		_, err := m.a.call("VM.diskReplicateFinish", back)
		must(t, err)
		if v := m.a.ended(task); v.State != tasks.Recovered {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		m.stayed(true)
	})
	t.Run("stopped at every record", func(t *testing.T) {
		everyStop(t, m.chain, func() (string, func(tasks.View)) {
			start, _ := m.replica()
			m.during = m.finish(start)
			return m.a.raw("VM.diskReplicateStart", start), func(v tasks.View) {
				if v.State == tasks.Finished {
					m.moved()
					return
				}
				m.stayed(len(v.Remainder) > 0)
			}
		})
	})
	t.Run("stopped in the middle", func(t *testing.T) {
		worst := time.Duration(0)
		for n := range 20 {
			start, _ := m.replica()
			task := m.a.submit("VM.diskReplicateStart", start)
			for {
				if j, err := m.a.libvirt.BlockJob(t.Context(), vmID, "vda"); err != nil || j.Active && (n%2 == 0 || j.Ready) {
					break
				}
			}
			must(t, m.a.Stop(task, tasks.StopOptions{Who: "tester"}))
			from := time.Now()
			v := m.a.ended(task)
			worst = max(worst, time.Since(from))
			if v.State != tasks.Recovered {
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
			m.stayed(true)
		}
		t.Logf("20 mirrors were cancelled; from the answer to the stop to the end: %v at worst", worst)
	})
	t.Run("the agent dies at every record", func(t *testing.T) {
		everyDeath(t, m.chain, func() (string, func(tasks.View)) {
			start, _ := m.replica()
			m.during = m.finish(start)
			return m.a.raw("VM.diskReplicateStart", start), func(v tasks.View) {
				if v.State != tasks.Finished {
					t.Fatalf("ended %s: %s", v.State, v.Message)
				}
				m.moved()
			}
		})
	})
	t.Run("libvirtd is killed", func(t *testing.T) {
		start, _ := m.replica()
		m.during = m.finish(start)
		task := m.a.submit("VM.diskReplicateStart", start)
		for {
			if j, err := m.a.libvirt.BlockJob(t.Context(), vmID, "vda"); err != nil || j.Active {
				break
			}
		}
		libvirtd.Kill()
		must(t, libvirtd.Restart())
		over := m.asking(m.a, task)
		v := m.a.ended(task)
		over()
		t.Logf("when libvirtd was killed the task ended %s: %s", v.State, v.Message)
		if v.State == tasks.Finished {
			m.moved()
			return
		}
		m.stayed(true)
	})
	_, err := m.a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(t, err)
	m.run("qemu-img", "check", "-q", m.path(m.from, m.volumes[1]))
}
