package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"

	"github.com/beevik/etree"
)

// snapshotParams are those of VM.snapshot.
type snapshotParams struct {
	VM     param.UUID  `json:"vmID"`
	Drives []snapDrive `json:"snapDrives" doc:"the disks: domainID, imageID, baseVolumeID that the machine works on, volumeID that it shall go on on"`
	Memory savedState  `json:"snapMemory" default:"" doc:"where the memory shall lie: six ids as in VM.hibernate; none = only the disks"`
	Frozen param.Bool  `json:"frozen" default:"false" doc:"the guest's file systems are at rest already, and stay so"`
	Job    param.UUID  `json:"jobUUID" default:"" doc:"the id that the task shall have"`
}

// snapDrive names a disk.
type snapDrive struct {
	Domain param.UUID `json:"domainID"`
	Image  param.UUID `json:"imageID"`
	Base   param.UUID `json:"baseVolumeID"`
	Volume param.UUID `json:"volumeID"`
}

func (d snapDrive) base() storageops.VolumeID {
	return storageops.VolumeID{Domain: string(d.Domain), Image: string(d.Image), Volume: string(d.Base)}
}

func (d snapDrive) volume() storageops.VolumeID {
	return storageops.VolumeID{Domain: string(d.Domain), Image: string(d.Image), Volume: string(d.Volume)}
}

func (p snapshotParams) check() error {
	if len(p.Drives) == 0 {
		return code.Errorf(code.InvalidParameter, "parameter \"snapDrives\" is empty; it names the disks")
	}
	if memory, conf := p.Memory.volumes(); p.Memory != "" && memory == conf {
		return code.Errorf(code.InvalidParameter, "parameter \"snapMemory\" names the same volume twice")
	}
	for i, d := range p.Drives {
		if d.Domain.IsBlank() || d.Image.IsBlank() || d.Base.IsBlank() || d.Volume.IsBlank() || d.Base == d.Volume {
			return code.Errorf(code.InvalidParameter, "entry %d of snapDrives needs domainID, imageID, baseVolumeID and another volumeID", i)
		}
		if slices.ContainsFunc(p.Drives[:i], func(o snapDrive) bool { return o.Image == d.Image }) {
			return code.Errorf(code.InvalidParameter, "image %s is in snapDrives twice", d.Image)
		}
	}
	return nil
}

func decodeSnapshot(raw json.RawMessage) (p snapshotParams, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, err
	}
	return p, p.check()
}

func (vms *VMs) snapshot() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Have a virtual machine go on on new volumes, so that those that it worked on stay as they are now.",
		Name: "VM.snapshot", Word: "snapshot", Params: snapshotParams{}, AnswersTrue: true, IDParam: "jobUUID", Forward: true, Class: tasks.ClassVM,
		Contract: tasks.Contract{
			CancellableUntil: "call sent; with memory: dump complete", PointOfNoReturn: "snapshot call (with snapMemory: dump complete)", DecidedBy: "libvirt (with memory)",
			Undo: "thawed, on base volumes, new volumes unused, memory volume empty", Bound: 10*time.Second + virt.GuestWithin,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decodeSnapshot(raw)
			if err != nil {
				return err
			}
			if _, err = vms.alive(ctx, string(p.VM)); err != nil || p.Memory == "" {
				return err
			}
			memory, conf := p.Memory.volumes()
			if _, _, err = vms.volumes.Plain(memory); err == nil {
				_, _, err = vms.volumes.Plain(conf)
			}
			return err
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decodeSnapshot(raw)
			if err != nil {
				return nil, err
			}
			sn := &snapshotting{vms: vms, vm: string(p.VM), drives: p.Drives}
			locks := []tasks.Lock{vmLock(sn.vm)}
			for _, d := range p.Drives {
				locks = append(locks, vms.volumes.Locks(d.volume())...)
			}
			steps := []tasks.Step{sn.look(), sn.freeze(), sn.call(), sn.thaw()}
			switch {
			case p.Memory != "":
				sn.memory = &hibernation{vms: vms, vm: sn.vm}
				sn.memory.memory, sn.memory.conf = p.Memory.volumes()
				locks = append(locks, vms.volumes.Locks(sn.memory.memory, sn.memory.conf)...)
				steps = []tasks.Step{sn.look(), sn.memory.configuration(), sn.dump(), sn.memory.sync()}
			case bool(p.Frozen):
				steps = []tasks.Step{sn.look(), sn.call()}
			}
			return &tasks.Plan{Tag: tasks.TagVirt, Locks: locks, Success: fmt.Sprintf("machine %s goes on on its new volumes", sn.vm), Steps: steps}, nil
		},
	}
}

// snapshotting is one snapshot. Whether it was taken is seen by the volumes that the machine works on.
type snapshotting struct {
	vms    *VMs
	vm     string
	drives []snapDrive
	memory *hibernation // where the memory is put, as a save puts it; nil = nowhere
}

// snapDisks is the plan of the look: the machine's disks, by their names in the guest.
type snapDisks struct {
	New   map[string]string `json:"new"`   // those that go on on another file, with its path
	Other []string          `json:"other"` // those that do not
}

// look finds the disks, under the locks.
func (sn *snapshotting) look() tasks.Step {
	return tasks.Step{
		Name: stepLook,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) {
			if _, err := sn.vms.alive(ctx, sn.vm); err != nil {
				return nil, err
			}
			has, err := sn.vms.disks(ctx, sn.vm)
			if err != nil {
				return nil, err
			}
			out := snapDisks{New: map[string]string{}, Other: []string{}}
			for _, d := range sn.drives {
				base, path, err := sn.vms.volumes.Overlay(d.base(), d.volume())
				if err != nil {
					return nil, err
				}
				target := ""
				for name, file := range has {
					if file == base {
						target = name
					}
				}
				if target == "" {
					return nil, code.Errorf(code.SnapshotFailed, "machine %s has no disk that works on %s now", sn.vm, d.base())
				}
				out.New[target] = path
			}
			for name := range has {
				if out.New[name] == "" {
					out.Other = append(out.Other, name)
				}
			}
			slices.Sort(out.Other)
			if sn.memory == nil {
				return out, nil
			}
			f, err := sn.memory.find(ctx)
			return snapMemory{out, f}, err
		},
		Do: func(ctx context.Context, s *tasks.Scope) error {
			for _, d := range sn.drives {
				if err := sn.vms.volumes.Reach(ctx, s, d.volume()); err != nil {
					return err
				}
			}
			if sn.memory != nil {
				return sn.memory.reach(ctx, s)
			}
			return nil
		},
	}
}

// call is the point of no return: who has sent it must wait for what becomes of it.
func (sn *snapshotting) call() tasks.Step {
	return tasks.Step{
		Name: "snapshot", PointOfNoReturn: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			var d snapDisks
			if _, err := s.PlanOf(stepLook, &d); err != nil {
				return err
			}
			err := sn.vms.hv.Snapshot(ctx, s, sn.vm, d.xml(""))
			if code.Of(err) == code.NoSuchVM {
				return tasks.Permanent(code.Errorf(code.VMIsDown, "machine %s went down", sn.vm), "the new volumes may hold data of the machine")
			}
			return err
		},
		Check: func(ctx context.Context, s *tasks.Scope) (bool, error) {
			var d snapDisks
			if _, err := s.PlanOf(stepLook, &d); err != nil {
				return false, err
			}
			taken, err := sn.taken(ctx, d)
			if code.Of(err) == code.NoSuchVM {
				return false, nil // Do says so
			}
			return taken, err
		},
		Refused: func(err error) bool { return !virt.Unreachable(err) },
	}
}

// taken says whether the machine works on all of its new volumes.
func (sn *snapshotting) taken(ctx context.Context, d snapDisks) (bool, error) {
	has, err := sn.vms.disks(ctx, sn.vm)
	for name, file := range d.New {
		if has[name] != file {
			return false, err
		}
	}
	return err == nil, err
}

// xml describes the snapshot to libvirt; memory is the file that the memory is written to, "" = none.
func (d snapDisks) xml(memory string) string {
	doc := etree.NewDocument()
	root := doc.CreateElement("domainsnapshot")
	if memory != "" {
		e := root.CreateElement("memory")
		e.CreateAttr("snapshot", "external")
		e.CreateAttr("file", memory)
	}
	disks := root.CreateElement("disks")
	disk := func(name, how string) *etree.Element {
		e := disks.CreateElement("disk")
		e.CreateAttr("name", name)
		e.CreateAttr("snapshot", how)
		return e
	}
	for _, name := range sortedKeys(d.New) {
		e := disk(name, "external")
		e.CreateAttr("type", "file")
		e.CreateElement("driver").CreateAttr("type", "qcow2")
		e.CreateElement("source").CreateAttr("file", d.New[name])
	}
	for _, name := range d.Other {
		disk(name, "no")
	}
	text, err := doc.WriteToString()
	if err != nil {
		panic(err) // to a string: never
	}
	return text
}
