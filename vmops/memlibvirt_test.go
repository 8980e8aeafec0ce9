package vmops

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"
)

// memLibvirt is the world's libvirt as one process sees it.
type memLibvirt struct {
	*world
	gate prove.Gate
}

var (
	errGone    = virt.ErrUnreachable("libvirtd has died")
	errInvalid = virt.ErrInvalid("no job is active")
)

func (l memLibvirt) allowed(s *tasks.Scope, effect string) error {
	if s == nil {
		return nil // of a verb that is answered at once
	}
	return l.gate(s, effect)
}

func (l memLibvirt) Watch(string) (wake <-chan struct{}, stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan struct{}, 1)
	l.watchers[ch] = true
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, ch)
	}
}

// with finds a machine.
func (l memLibvirt) with(vm string, f func(*memMachine) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass()
	m := l.machines[vm]
	if m == nil {
		return code.Errorf(code.NoSuchVM, "there is no machine %s", vm)
	}
	return f(m)
}

func (l memLibvirt) State(_ context.Context, vm string) (s virt.State, err error) {
	err = l.with(vm, func(m *memMachine) error { s = m.state; return nil })
	return s, err
}

func (l memLibvirt) XML(_ context.Context, vm string) (xml string, err error) {
	err = l.with(vm, func(m *memMachine) error { xml = l.xmlOf(m); return nil })
	return xml, err
}

func (l memLibvirt) Job(_ context.Context, vm string) (j virt.Job, err error) {
	err = l.with(vm, func(m *memMachine) error {
		if m.job != nil {
			j = virt.Job{Active: true, Done: int64(time.Since(m.job.began)), Total: int64(l.saveTakes), Pass: 1 + int64(time.Since(m.job.began)/time.Second), Left: 1}
		}
		return nil
	})
	return j, err
}

func (l memLibvirt) List(context.Context) (out []virt.Stats, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for vm, m := range l.machines {
		out = append(out, virt.Stats{UUID: vm, Name: "one", State: m.state})
	}
	return out, nil
}

func (l memLibvirt) AllStats(ctx context.Context) ([]virt.Stats, error) { return l.List(ctx) }

func (l memLibvirt) StatsOf(ctx context.Context, vm string) (virt.Stats, error) {
	s, err := l.State(ctx, vm)
	return virt.Stats{UUID: vm, Name: "one", State: s}, err
}

func (l memLibvirt) Create(_ context.Context, xml string, paused bool) error {
	d, err := parseXML(xml)
	if err != nil {
		return err
	}
	return l.start(d.text("uuid"), xml, paused)
}

func (l memLibvirt) Restore(_ context.Context, file string, place func(string) (string, error), paused bool) error {
	l.mu.Lock()
	content := l.now(memoryVolume).content
	l.mu.Unlock()
	if file != volM || !complete([]byte(content)) {
		return errors.New("no saved state")
	}
	xml, err := place(machineXMLOn(volB))
	if err != nil {
		return err
	}
	return l.start(vmID, cmp.Or(xml, machineXMLOn(volB)), paused)
}

func (l memLibvirt) start(vm, xml string, paused bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &memMachine{state: virt.State{Phase: virt.Running}, xml: xml}
	if paused {
		m.state.Phase = virt.Paused
	}
	l.machines[vm] = m
	return nil
}

func (l memLibvirt) Destroy(_ context.Context, vm string, _ bool) error {
	return l.with(vm, func(*memMachine) error {
		delete(l.machines, vm)
		if l.ended != nil {
			l.ended(vm, virt.EndedDestroyed)
		}
		return nil
	})
}

func (l memLibvirt) Shutdown(_ context.Context, vm string, _ bool) error {
	return l.with(vm, func(*memMachine) error {
		delete(l.machines, vm)
		l.ended(vm, virt.EndedShutdown)
		return nil
	})
}

func (l memLibvirt) Suspend(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "pause the machine"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error { m.state.Phase = virt.Paused; return nil })
}

func (l memLibvirt) Resume(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "let the machine go on"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error { m.state = virt.State{Phase: virt.Running}; return nil })
}

func (l memLibvirt) Freeze(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "freeze"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error {
		if l.noGuest {
			return virt.ErrNoGuest("no agent")
		}
		if m.atRest {
			return errors.New("they are at rest already")
		}
		m.atRest = true
		return nil
	})
}

func (l memLibvirt) Thaw(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "thaw"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error {
		if l.noGuest {
			return virt.ErrNoGuest("no agent")
		}
		m.atRest = false
		return nil
	})
}

const snapshotXML = `<domainsnapshot><disks><disk name="vda" snapshot="external" type="file"><driver type="qcow2"/><source file="` + volT +
	`"/></disk><disk name="sda" snapshot="no"/></disks></domainsnapshot>`

func (l memLibvirt) Snapshot(_ context.Context, s *tasks.Scope, vm, xml string) error {
	if err := l.allowed(s, "take the snapshot"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error {
		if xml != snapshotXML || m.xml != machineXMLOn(volB) {
			return code.Errorf(code.General, "libvirt cannot take %s of %s", xml, m.xml)
		}
		m.xml = machineXMLOn(volT)
		return nil
	})
}

// Save pauses the machine, empties the file, and ends when its time has come.
func (l memLibvirt) Save(_ context.Context, s *tasks.Scope, vm, file string) <-chan error {
	return l.dump(s, vm, file, "save the machine", false)
}

// SnapshotMemory does the same, and then lets the machine go on on its new volume.
func (l memLibvirt) SnapshotMemory(_ context.Context, s *tasks.Scope, vm, xml string) <-chan error {
	want := strings.Replace(snapshotXML, "<disks>", `<memory snapshot="external" file="`+volM+`"/><disks>`, 1)
	if xml != want {
		answer := make(chan error, 1)
		answer <- code.Errorf(code.General, "libvirt cannot take %s", xml)
		return answer
	}
	return l.dump(s, vm, volM, "take the snapshot with memory", true)
}

func (l memLibvirt) dump(s *tasks.Scope, vm, file, effect string, goesOn bool) <-chan error {
	answer := make(chan error, 1)
	if err := l.allowed(s, effect); err != nil {
		answer <- err
		return answer
	}
	err := l.with(vm, func(m *memMachine) error {
		if m.job != nil {
			return errInvalid
		}
		m.job = &memJob{task: s.TaskID(), file: file, began: time.Now(), ends: time.Now().Add(l.saveTakes), goesOn: goesOn, paused: m.state.Phase == virt.Paused, answer: answer}
		m.state.Phase = virt.Paused
		l.open = append(l.open, memChange{memoryVolume, memVolume{content: "part of a state"}, true})
		return nil
	})
	if err != nil {
		answer <- err
		return answer
	}
	time.AfterFunc(l.saveTakes, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pass()
	})
	return answer
}

// AbortJob lets the machine go on as before, unless libvirt is done.
func (l memLibvirt) AbortJob(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "cancel the job"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error {
		if m.job == nil || m.job.postCopy {
			return errInvalid
		}
		if l.deaf {
			m.job.ends = time.Now()
			l.pass()
			return nil
		}
		if !m.job.paused {
			m.state.Phase = virt.Running
		}
		if m.job.leaves {
			l.far.drop(vm)
		}
		m.job.end(errors.New("it was cancelled"))
		m.job = nil
		l.wake()
		return nil
	})
}

// memVolumes are the world's volumes as one process sees them.
type memVolumes struct {
	*world
	gate prove.Gate
}

func (memVolumes) Locks(all ...storageops.VolumeID) []tasks.Lock {
	return storageops.VMVolumes{}.Locks(all...)
}

func (memVolumes) Reach(context.Context, *tasks.Scope, storageops.VolumeID) error { return nil }

func (v memVolumes) DiskPath(id storageops.VolumeID) (string, error) {
	if v.metas[id.Volume] != nil {
		return id.Volume, nil
	}
	return "/storage/" + id.Volume, nil
}

func (v memVolumes) Overlay(base, top storageops.VolumeID) (basePath, path string, err error) {
	if base != baseVolume || top != topVolume {
		return "", "", code.Errorf(code.VolumeDoesNotExist, "there is no %s", top)
	}
	return base.Volume, top.Volume, nil
}

func (v memVolumes) Plain(id storageops.VolumeID) (path string, shape domain.Shape, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.volumes[id] == nil {
		return "", shape, code.Errorf(code.VolumeDoesNotExist, "there is no %s", id)
	}
	return id.Volume, v.now(id).shape, nil
}

func (v memVolumes) Read(id storageops.VolumeID, most int64) ([]byte, error) {
	if _, _, err := v.Plain(id); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	content := v.now(id).content
	return []byte(content[:min(most, int64(len(content)))]), nil
}

// Replace is domain.ReplaceContents: the file is emptied, gets its length and its content, and is synced.
func (v memVolumes) Replace(s *tasks.Scope, id storageops.VolumeID, data []byte, shape domain.Shape) error {
	parts := []memVolume{{}, {domain.Shape{Length: shape.Length}, ""}, {shape, string(data)}}
	for i, effect := range []string{"empty the file", "give it its length", "write it"} {
		if err := v.gate(s, effect); err != nil {
			return err
		}
		v.mu.Lock()
		v.open = append(v.open, memChange{id, parts[i], false})
		v.mu.Unlock()
	}
	return v.Sync(s, id)
}

func (v memVolumes) Sync(s *tasks.Scope, id storageops.VolumeID) error {
	if err := v.gate(s, "sync"); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	*v.volumes[id] = v.now(id)
	rest := v.open[:0:0]
	for _, c := range v.open {
		if c.volume != id {
			rest = append(rest, c)
		}
	}
	v.open = rest
	return nil
}

var (
	_ hypervisor = memLibvirt{}
	_ volumes    = memVolumes{}
)
