package vmops

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

const (
	vmID  = "dddddddd-0000-4000-8000-000000000001"
	sdID  = "11111111-2222-4333-8444-555555555555"
	spID  = "22222222-2222-4333-8444-555555555555"
	imgM  = "aaaaaaaa-0000-4000-8000-000000000001"
	volM  = "bbbbbbbb-0000-4000-8000-000000000001"
	imgC  = "aaaaaaaa-0000-4000-8000-000000000002"
	volC  = "bbbbbbbb-0000-4000-8000-000000000002"
	imgD  = "aaaaaaaa-0000-4000-8000-000000000003"
	volB  = "bbbbbbbb-0000-4000-8000-000000000003" // the machine works on it
	volT  = "bbbbbbbb-0000-4000-8000-000000000004" // on that, and empty
	volR  = "bbbbbbbb-0000-4000-8000-000000000006" // a replica
	volL  = "bbbbbbbb-0000-4000-8000-000000000005" // on that, in a chain
	saved = sdID + "," + spID + "," + imgM + "," + volM + "," + imgC + "," + volC
)

var (
	memoryVolume = storageops.VolumeID{Domain: sdID, Image: imgM, Volume: volM}
	baseVolume   = storageops.VolumeID{Domain: sdID, Image: imgD, Volume: volB}
	topVolume    = storageops.VolumeID{Domain: sdID, Image: imgD, Volume: volT}
	confVolume   = storageops.VolumeID{Domain: sdID, Image: imgC, Volume: volC}
)

// world is a libvirt and some volumes in memory. It implements prove.World. What libvirt does goes on by the clock, whatever becomes
// of the agent: a job's end is worked out when somebody looks.
type world struct {
	saveTakes time.Duration
	deaf      bool   // libvirt has finished the job when it is told to cancel it
	breaks    int    // how many saves libvirtd dies in
	noGuest   bool   // the guest has no agent
	refuses   bool   // QEMU does not change over
	copying   bool   // what is below a replica
	asks      bool   // the client asks for the end of a mirror, again and again
	ends      func() // called when a commit of a volume in the middle has ended
	far       farHost
	house     house

	mu       sync.Mutex
	machines map[string]*memMachine
	volumes  map[storageops.VolumeID]*memVolume
	metas    map[string]*memMeta // of a chain, by volume; nil = there is none
	disk     memDisk
	open     []memChange // unsynced, in their order
	watchers map[chan struct{}]bool
	ended    func(vm string, how virt.Ended)
}

type memMachine struct {
	state  virt.State
	xml    string
	atRest bool // the guest's file systems
	job    *memJob
}

type memJob struct {
	task, file string
	began      time.Time
	ends       time.Time
	paused     bool // the machine was before
	goesOn     bool // it does when it is saved, on the new volume
	leaves     bool // it goes to the other host
	postCopy   bool
	answer     chan error
}

type memVolume struct {
	shape   domain.Shape
	content string
}

// memChange is a write to a volume that is not on stable storage yet. What libvirt writes survives the agent.
type memChange struct {
	volume  storageops.VolumeID
	after   memVolume
	libvirt bool
}

func newMachine(phase virt.Phase) func() prove.World {
	return func() prove.World { return newWorld(phase) }
}

func newWorld(phase virt.Phase) *world {
	return &world{
		saveTakes: 2300 * time.Millisecond, // at no moment at which something else happens
		machines:  map[string]*memMachine{vmID: {state: virt.State{Phase: phase}, xml: machineXMLOn(volB)}},
		volumes: map[storageops.VolumeID]*memVolume{
			memoryVolume: {shape: domain.Shape{Length: 1 << 30, Reserved: true}},
			confVolume:   {shape: domain.Shape{Length: 1 << 20}},
		},
		watchers: map[chan struct{}]bool{},
	}
}

func machineXMLOn(volume string) string {
	return "<domain><name>one</name><uuid>" + vmID + "</uuid><devices><disk><source file='" + volume + "'/><target dev='vda'/></disk>" +
		"<disk device='cdrom'><target dev='sda'/></disk></devices></domain>"
}

// Verbs are those of one process.
func (w *world) Verbs(gate prove.Gate) []*tasks.Verb {
	vms := newVMs(memLibvirt{w, gate}, memVolumes{w, gate}, zerolog.Nop())
	vms.peers, vms.crew, vms.closed = memPeers{w, gate}, memCrew{w, gate}, memClosure{w, gate}
	if w.asks {
		w.ask(vms, 100)
	}
	return vms.Verbs()
}

// now is what a reader of a volume sees; the lock is held.
func (w *world) now(v storageops.VolumeID) memVolume {
	out := *w.volumes[v]
	for _, c := range w.open {
		if c.volume == v {
			out = c.after
		}
	}
	return out
}

// pass lets the jobs end whose time has come; the lock is held.
func (w *world) pass() {
	w.house.pass(w)
	w.passBlock()
	for _, vm := range slices.Sorted(maps.Keys(w.machines)) {
		m := w.machines[vm]
		if j := m.job; j != nil && !time.Now().Before(j.ends) {
			m.job = nil
			if j.leaves {
				w.arrive(vm, m, j)
				continue
			}
			if w.breaks > 0 { // the guest stays as it is
				w.breaks--
				j.end(errGone)
				w.wake()
				continue
			}
			w.open = append(w.open, memChange{memoryVolume, memVolume{domain.Shape{Length: 4 << 20}, savedMagic + " of " + vm}, true})
			if j.goesOn {
				m.xml = machineXMLOn(volT)
				if !j.paused {
					m.state.Phase = virt.Running
				}
				j.end(nil)
				w.wake()
				continue
			}
			delete(w.machines, vm)
			j.end(nil)
			w.wake()
			if w.ended != nil {
				w.ended(vm, virt.EndedSaved)
			}
		}
	}
}

func (j *memJob) end(err error) {
	if j.answer != nil {
		j.answer <- err
	}
}

func (w *world) wake() {
	for ch := range w.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Seen lists the machines and the volumes.
func (w *world) Seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass()
	var out []string
	for vm, m := range w.machines {
		line := fmt.Sprintf("machine %s %v", vm, m.state)
		if m.job != nil {
			line += ", being saved"
		}
		if m.atRest {
			line += ", its file systems at rest"
		}
		if strings.Contains(m.xml, volT) {
			line += ", on the new volume"
		}
		out = append(out, line)
	}
	out = append(out, w.chainSeen()...)
	out = append(append(out, w.far.seen()...), w.house.seen()...)
	for v := range w.volumes {
		n := w.now(v)
		out = append(out, fmt.Sprintf("%s %v %q", v, n.shape, n.content))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// Unsynced counts what a crash may lose.
func (w *world) Unsynced() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.house.dirty {
		return len(w.open) + 1
	}
	return len(w.open)
}

// Crash ends the agent: libvirt and what it does go on.
func (w *world) Crash(keep func() bool) prove.World {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := &world{saveTakes: w.saveTakes, deaf: w.deaf, breaks: w.breaks, noGuest: w.noGuest, machines: map[string]*memMachine{}, volumes: map[storageops.VolumeID]*memVolume{}, watchers: map[chan struct{}]bool{}}
	for vm, m := range w.machines {
		n := *m
		if m.job != nil {
			j := *m.job
			j.answer = nil // nobody waits for it any more
			n.job = &j
		}
		next.machines[vm] = &n
	}
	next.far, next.house = w.far.after(next), w.house.after(keep)
	for v, m := range w.volumes {
		n := *m
		next.volumes[v] = &n
	}
	next.disk, next.refuses, next.asks, w.asks = w.disk, w.refuses, w.asks, false
	next.goOn(w.metas)
	for _, c := range w.open {
		if kept := keep(); kept || c.libvirt {
			after := c.after
			next.volumes[c.volume] = &after
		}
	}
	return next
}

// Alive names the jobs that libvirt does for a task.
func (w *world) Alive(task string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass()
	for vm, m := range w.machines {
		if m.job != nil && m.job.task == task {
			out = append(out, "the save of "+vm)
		}
	}
	if j := w.disk.job; j != nil && j.task == task {
		out = append(out, "the job of the disk")
	}
	return out
}

// Published is a saved state that a resume would take: it is there only when the machine is not.
func (w *world) Published() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass()
	switch {
	case w.far.agent != nil:
		return w.runs()
	case w.house.tasks != nil:
		return nil
	}
	if _, runs := w.machines[vmID]; runs {
		return w.chainPublished()
	}
	return []string{fmt.Sprintf("the machine is down, its state is %q", w.now(memoryVolume).content)}
}
