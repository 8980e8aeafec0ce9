package vmops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// memDisk is the disk of the world's machine that jobs work on: its chain, as QEMU has it open.
type memDisk struct {
	files []string // what the machine writes to first
	job   *memBlockJob
}

// memBlockJob is a job of QEMU on the disk. It goes on by the clock, whatever becomes of the agent.
type memBlockJob struct {
	task      string
	base, top string
	active    bool // it gets ready, and waits
	mirror    bool // into another file, the base
	began     time.Time
	ends      time.Time // or is ready
	pivots    time.Time // it changes over then; zero = it was not asked to
}

// memMeta is the metadata of a volume of the chain, and what its file names as the one below it.
type memMeta struct {
	parent, file string
	leaf         bool
	base         storageops.VMMergeBase
}

const (
	commitTakes = 1700 * time.Millisecond // at no moment at which something else happens
	pivotTakes  = 330 * time.Millisecond
)

// newChain is a world whose machine works on the last of the volumes, each on the one before.
func newChain(volumes ...string) *world {
	w := newWorld(virt.Running)
	w.metas = map[string]*memMeta{}
	parent := domain.BlankUUID
	for i, v := range volumes {
		capacity := int64(10 + i) // each larger than the one below
		w.metas[v] = &memMeta{parent, parent, i == len(volumes)-1, storageops.VMMergeBase{Capacity: capacity, Legality: domain.Legal}}
		w.volumes[onDisk(v)] = &memVolume{domain.Shape{Length: capacity}, "data of " + v}
		w.disk.files = append([]string{v}, w.disk.files...)
		parent = v
	}
	return w
}

func onDisk(volume string) storageops.VolumeID {
	return storageops.VolumeID{Domain: sdID, Image: imgD, Volume: volume}
}

// chainXML describes a machine with such a disk.
func chainXML(files []string, ready string) string {
	below := "<backingStore/>"
	for _, f := range slices.Backward(files[1:]) {
		below = "<backingStore type='file'><source file='" + f + "'/>" + below + "</backingStore>"
	}
	if ready != "" {
		below += "<mirror ready='" + ready + "'/>"
	}
	return "<domain><name>one</name><uuid>" + vmID + "</uuid><devices><disk><source file='" + files[0] + "'/>" + below + "<target dev='vda'/></disk>" +
		"<disk device='cdrom'><target dev='sda'/></disk></devices></domain>"
}

// passBlock lets the job end, get ready or change over whose time has come; the lock is held.
func (w *world) passBlock() {
	j := w.disk.job
	switch {
	case j == nil || time.Now().Before(j.ends):
		return
	case w.breaks > 0: // QEMU could not write
		w.breaks--
		w.endBlock()
	case !j.active:
		at := slices.Index(w.disk.files, j.top)
		w.metas[w.disk.files[at-1]].file = j.base
		w.written(j.base, "data of "+j.top)
		w.disk.files = slices.Delete(slices.Clone(w.disk.files), at, at+1)
		w.endBlock()
		if w.ends != nil {
			w.ends()
		}
	case !j.pivots.IsZero() && !time.Now().Before(j.pivots):
		w.written(j.base, "data of "+j.top)
		w.disk.files = slices.Clone(w.disk.files[1:])
		if j.mirror {
			w.disk.files = []string{j.base}
		}
		w.endBlock()
	}
}

func (w *world) endBlock() {
	w.disk.job = nil
	w.wake()
}

// written is what QEMU has written to a file of the chain. It survives the agent, and not a power cut before it is synced.
func (w *world) written(volume, content string) {
	w.open = append(w.open, memChange{onDisk(volume), memVolume{w.now(onDisk(volume)).shape, content}, true})
}

// later lets the world move when d has passed.
func (w *world) later(d time.Duration) {
	time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pass()
		w.wake()
	})
}

// chainSeen lists the disk and the metadata of its volumes.
func (w *world) chainSeen() (out []string) {
	if w.metas == nil {
		return nil
	}
	out = append(out, fmt.Sprintf("disk %v", w.disk.files))
	if w.disk.job != nil {
		out = append(out, "disk has a job")
	}
	for v, m := range w.metas {
		out = append(out, fmt.Sprintf("metadata of %s %+v", v, *m))
	}
	return out
}

// chainPublished are the volumes that are LEGAL: what they hold, or for a leaf, where the machine works.
func (w *world) chainPublished() (out []string) {
	for v, m := range w.metas {
		if m.base.Legality != domain.Legal {
			continue
		}
		out = append(out, fmt.Sprintf("%s holds %q", v, w.now(onDisk(v)).content))
		if m.leaf {
			out = append(out, fmt.Sprintf("the leaf %s, the machine works on %s", v, w.disk.files[0]))
		}
	}
	return out
}

func (l memLibvirt) BeginCommit(_ context.Context, s *tasks.Scope, vm string, c virt.Commit) error {
	if err := l.allowed(s, "begin the commit"); err != nil {
		return err
	}
	return l.with(vm, func(*memMachine) error {
		at := slices.Index(l.disk.files, c.Top)
		switch {
		case l.disk.job != nil:
			return errors.New("the disk has a job already")
		case c.Disk != "vda" || at < 0 || at+1 >= len(l.disk.files) || l.disk.files[at+1] != c.Base || c.Active != (at == 0):
			return fmt.Errorf("libvirt cannot commit %+v in %v", c, l.disk.files)
		}
		l.disk.job = &memBlockJob{task: s.TaskID(), base: c.Base, top: c.Top, active: c.Active, began: time.Now(), ends: time.Now().Add(commitTakes)}
		l.written(c.Base, "part merged")
		l.later(commitTakes)
		return nil
	})
}

func (l memLibvirt) BeginMirror(_ context.Context, s *tasks.Scope, vm, disk, xml string) error {
	if err := l.allowed(s, "begin the mirror"); err != nil {
		return err
	}
	return l.with(vm, func(*memMachine) error {
		want := `<disk type="file"><driver type="raw"/><source file="` + volR + `"/></disk>`
		switch {
		case l.disk.job != nil:
			return errors.New("the disk has a job already")
		case disk != "vda" || xml != want || l.disk.files[0] != volB:
			return fmt.Errorf("libvirt cannot mirror %s of %v into %s", disk, l.disk.files, xml)
		}
		l.disk.job = &memBlockJob{task: s.TaskID(), base: volR, top: volB, active: true, mirror: true, began: time.Now(), ends: time.Now().Add(commitTakes)}
		l.written(volR, "part mirrored")
		l.later(commitTakes)
		return nil
	})
}

func (l memLibvirt) BlockJob(_ context.Context, vm, _ string) (job virt.Job, err error) {
	err = l.with(vm, func(*memMachine) error {
		if j := l.disk.job; j != nil {
			job = virt.Job{
				Active: true, Done: int64(time.Since(j.began)), Total: int64(commitTakes),
				Ready: j.active && !time.Now().Before(j.ends) && j.pivots.IsZero(), Pivoting: !j.pivots.IsZero(),
			}
		}
		return nil
	})
	return job, err
}

// AbortBlockJob ends it, unless QEMU is done.
func (l memLibvirt) AbortBlockJob(_ context.Context, s *tasks.Scope, vm, _ string) error {
	if err := l.allowed(s, "cancel the job of the disk"); err != nil {
		return err
	}
	return l.with(vm, func(*memMachine) error {
		if l.disk.job == nil {
			return errInvalid
		}
		if l.deaf {
			l.disk.job.ends = time.Now()
			l.passBlock()
		}
		if l.disk.job != nil {
			l.endBlock()
		}
		return nil
	})
}

// Pivot changes over after a while, and answers then.
func (l memLibvirt) Pivot(ctx context.Context, s *tasks.Scope, vm, _ string) error {
	if err := l.allowed(s, "pivot"); err != nil {
		return err
	}
	err := l.with(vm, func(*memMachine) error {
		j := l.disk.job
		switch {
		case j == nil || !j.active || time.Now().Before(j.ends) || !j.pivots.IsZero():
			return virt.ErrInvalid("it is not ready")
		case l.refuses:
			return errors.New("QEMU does not change over")
		}
		j.pivots = time.Now().Add(pivotTakes)
		l.later(pivotTakes)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-time.After(pivotTakes):
		return nil
	case <-ctx.Done():
		return virt.ErrUnreachable("the agent goes")
	}
}

func (v memVolumes) Merge(leaf, base, top storageops.VolumeID) (m storageops.VMMerge, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, t := v.metas[base.Volume], v.metas[top.Volume]
	if b == nil || t == nil || t.parent != base.Volume {
		return m, code.Errorf(code.ImageIsNotLegalChain, "%s is not on %s", top, base)
	}
	m = storageops.VMMerge{Base: base.Volume, Top: top.Volume, Leaf: leaf.Volume, Was: b.base, Grown: max(b.base.Capacity, t.base.Capacity)}
	for name, c := range v.metas {
		if c.parent == top.Volume {
			m.Child = name
		}
	}
	return m, nil
}

// change is one write of a volume's metadata, which is on stable storage when it returns.
func (v memVolumes) change(s *tasks.Scope, id storageops.VolumeID, effect string, f func(m *memMeta)) error {
	if err := v.gate(s, effect); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.metas[id.Volume])
	return nil
}

func (v memVolumes) SetMergeBase(s *tasks.Scope, id storageops.VolumeID, to storageops.VMMergeBase) error {
	return v.change(s, id, "write the base's metadata", func(m *memMeta) { m.base = to })
}

func (v memVolumes) SetIllegal(s *tasks.Scope, id storageops.VolumeID, illegal bool) error {
	return v.change(s, id, fmt.Sprintf("mark the top: %v", illegal), func(m *memMeta) {
		m.base.Legality = domain.Legal
		if illegal {
			m.base.Legality = domain.Illegal
		}
	})
}

func (v memVolumes) SetParent(s *tasks.Scope, id storageops.VolumeID, parent string) error {
	return v.change(s, id, "write the child's parent", func(m *memMeta) { m.parent = parent })
}

func (v memVolumes) EndMerge(s *tasks.Scope, id storageops.VolumeID, leaf bool) error {
	return v.change(s, id, "mark the base: merged", func(m *memMeta) {
		m.base.Legality, m.base.Merging = domain.Legal, false
		m.leaf = m.leaf || leaf
	})
}

func (v memVolumes) Below(id storageops.VolumeID) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.metas[id.Volume].file, nil
}

// xmlOf describes a machine as it is now; the lock is held.
func (w *world) xmlOf(m *memMachine) string {
	switch j := w.disk.job; {
	case w.metas == nil:
		return m.xml
	case j == nil || !j.active || time.Now().Before(j.ends):
		return chainXML(w.disk.files, "")
	case j.pivots.IsZero():
		return chainXML(w.disk.files, "yes")
	}
	return chainXML(w.disk.files, "pivot")
}

// goOn lets the metadata of the chain and what QEMU does be in the world after a crash.
func (w *world) goOn(metas map[string]*memMeta) {
	if metas != nil {
		w.metas = map[string]*memMeta{}
	}
	for v, m := range metas {
		again := *m
		w.metas[v] = &again
	}
	if j := w.disk.job; j != nil {
		again := *j
		w.disk.job = &again
		w.later(time.Until(j.ends))
		if !j.pivots.IsZero() {
			w.later(time.Until(j.pivots))
		}
	}
}

// ask is a client that asks for the end of the mirror, as engines do until it is ready.
func (w *world) ask(vms *VMs, times int) {
	time.AfterFunc(930*time.Millisecond, func() {
		w.mu.Lock()
		j, again := w.disk.job, w.asks && times > 0
		ready := again && j != nil && !time.Now().Before(j.ends)
		w.mu.Unlock()
		if ready {
			vms.askTo(j.task)
		}
		if again {
			w.ask(vms, times-1)
		}
	})
}

func (memVolumes) ReplicaLocks(source, replica storageops.VolumeID) []tasks.Lock {
	return storageops.VMVolumes{}.ReplicaLocks(source, replica)
}

func (v memVolumes) Replica(source, replica storageops.VolumeID) (storageops.VMReplica, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.metas[source.Volume] == nil || v.metas[replica.Volume] == nil {
		return storageops.VMReplica{}, code.Errorf(code.VolumeDoesNotExist, "there is no %s or %s", source, replica)
	}
	return storageops.VMReplica{Source: source.Volume, Path: replica.Volume, Format: "raw"}, nil
}

func (v memVolumes) ReplicaReady(replica storageops.VolumeID) error {
	if v.copying {
		return code.Errorf(code.PrepareIllegalVolume, "what is below %s is being copied", replica)
	}
	return nil
}
