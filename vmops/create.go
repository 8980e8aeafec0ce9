package vmops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// createParams are those of VM.create.
type createParams struct {
	VM     param.UUID `json:"vmID"`
	Params machineXML `json:"vmParams" doc:"xml, launchPaused; to resume also memoryDumpVolume and memoryConfVolume, or hiberVolHandle"`
}

// machineXML is what is read of vmParams; all else that engines send is history.
type machineXML struct {
	XML    string        `json:"xml"`
	Paused param.Bool    `json:"launchPaused,omitempty"`
	Memory *volumeParams `json:"memoryDumpVolume,omitempty"`
	Conf   *volumeParams `json:"memoryConfVolume,omitempty"`
	Saved  savedState    `json:"hiberVolHandle,omitempty"`
}

// resumes says whether the machine was saved, and where.
func (p machineXML) resumes() (memory, conf storageops.VolumeID, saved bool, err error) {
	switch {
	case p.Saved != "":
		memory, conf = p.Saved.volumes()
		return memory, conf, true, nil
	case (p.Memory == nil) != (p.Conf == nil):
		return memory, conf, false, code.Errorf(code.InvalidParameter, "memoryDumpVolume and memoryConfVolume belong together")
	case p.Memory != nil:
		return p.Memory.id(), p.Conf.id(), true, nil
	}
	return memory, conf, false, nil
}

// created is VDSM's answer: the start goes on, and VM.getStats tells what becomes of it.
type created struct {
	VM     string `json:"vmId"`
	Name   string `json:"vmName"`
	Status string `json:"status"`
	XML    string `json:"xml"`
}

// launch is a start that was checked.
type launch struct {
	vm, xml string
	paused  bool
	file    string // the saved state; "" = none
	locks   []tasks.Lock
}

// create starts a machine, or resumes one that was saved. What can be seen at once is refused; the start itself goes on after the answer.
func (vms *VMs) create(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p createParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if err := vms.refused(); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	d, err := parseXML(p.Params.XML)
	if err != nil {
		return nil, err
	}
	if err := d.identify(vm); err != nil {
		return nil, err
	}
	state, err := vms.hv.State(ctx, vm)
	switch {
	case vms.expected(vm):
		return nil, code.Errorf(code.VMExists, "virtual machine %s is on its way to this host", vm)
	case err == nil && state.Alive() || vms.launching(vm):
		return nil, code.Errorf(code.VMExists, "virtual machine %s runs already", vm)
	case err != nil && code.Of(err) != code.NoSuchVM:
		return nil, err
	}
	if err := d.place(vms.volumes.DiskPath); err != nil {
		return nil, err
	}
	l := launch{vm: vm, paused: bool(p.Params.Paused)}
	if l.xml, err = d.String(); err != nil {
		return nil, err
	}
	status := statusLaunching
	memory, conf, saved, err := p.Params.resumes()
	if err != nil {
		return nil, err
	}
	if saved {
		status = statusRestoring
		if err := vms.resumable(&l, memory, conf); err != nil {
			return nil, err
		}
	}
	release, err := vms.hold("the start of machine "+vm, l.locks)
	if err != nil {
		return nil, err
	}
	if !vms.beginLaunch(vm, status) {
		release()
		return nil, code.Errorf(code.VMExists, "virtual machine %s is being started already", vm)
	}
	vms.running.Go(func() {
		defer release()
		vms.launch(l)
	})
	return created{vm, d.text("name"), status, l.xml}, nil
}

// resumable finds the saved state.
func (vms *VMs) resumable(l *launch, memory, conf storageops.VolumeID) error {
	data, err := vms.volumes.Read(conf, maxSavedConf)
	if err != nil {
		return err
	}
	c, err := decodeSaved(data, l.vm)
	if err != nil {
		return err
	}
	if c.Memory != memory {
		return code.Errorf(code.InvalidParameter, "the configuration belongs to the memory in %s, not in %s", c.Memory, memory)
	}
	head, err := vms.volumes.Read(memory, int64(len(savedMagic)))
	if err != nil {
		return err
	}
	if !complete(head) {
		return code.Errorf(code.InvalidParameter, "the memory in %s is not complete: the save was cancelled or failed", memory)
	}
	l.paused = l.paused || c.Paused
	l.locks = vms.volumes.Locks(memory, conf)
	l.file, _, err = vms.volumes.Plain(memory)
	return err
}

// beginLaunch notes that a machine is being started, unless it is already.
func (vms *VMs) beginLaunch(vm, status string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	if vms.ctx.Err() != nil {
		return false
	}
	m := vms.of(vm)
	if m.doing == statusLaunching || m.doing == statusRestoring {
		return false
	}
	m.doing, m.exit, m.byAdmin, m.dropped = status, nil, false, false
	return true
}

// launch starts the machine and notes what became of it.
func (vms *VMs) launch(l launch) {
	var err error
	if l.file == "" {
		err = vms.hv.Create(vms.ctx, l.xml, l.paused)
	} else {
		err = vms.hv.Restore(vms.ctx, l.file, l.place, l.paused)
	}
	if virt.Unreachable(err) {
		err = vms.settle(l.vm, err)
	}
	if err != nil {
		vms.log.Warn().Err(err).Str("vm", l.vm).Msg("a machine did not start")
	}
	vms.launched(l.vm, err)
}

// place puts the disks of a machine that is resumed where the launch has them: what was saved with a snapshot goes on on other volumes than
// those that it worked on, which hold what they held then. "" = they are the same.
func (l launch) place(saved string) (string, error) {
	want, err := parseXML(l.xml)
	if err != nil {
		return "", err
	}
	d, err := parseXML(saved)
	if err != nil {
		return "", err
	}
	changed := false
	for _, disk := range d.root.FindElements("./devices/disk") {
		target := disk.SelectElement("target")
		if target == nil {
			continue
		}
		there := want.root.FindElement("./devices/disk/target[@dev='" + target.SelectAttrValue("dev", "") + "']")
		if there == nil || fileOf(there.Parent()) == "" || fileOf(there.Parent()) == fileOf(disk) {
			continue
		}
		for _, name := range []string{"source", "driver", "backingStore"} { // the last libvirt finds out
			if old := disk.SelectElement(name); old != nil {
				disk.RemoveChild(old)
			}
			if e := there.Parent().SelectElement(name); e != nil {
				disk.AddChild(e.Copy())
			}
		}
		changed = true
	}
	if !changed {
		return "", nil
	}
	return d.String()
}

// settle finds out what became of a start that libvirt did not answer, once it answers again.
func (vms *VMs) settle(vm string, failure error) error {
	for vms.ctx.Err() == nil {
		s, err := vms.hv.State(vms.ctx, vm)
		switch {
		case err == nil && s.Alive():
			return nil
		case !virt.Unreachable(err):
			return failure
		}
		select {
		case <-time.After(time.Second):
		case <-vms.ctx.Done():
		}
	}
	return failure
}
