package vmops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
	"vdsm-agent/vmops/virt"
)

// This is the host that a machine comes to. The one that it leaves decides, and asks; what has come libvirt tells. Kept in memory is only what
// lets this host expect a machine that libvirt does not show yet, and refuse a request that comes later than the end of its migration.

// arrivalParams are those of VM.migrationCreate.
type arrivalParams struct {
	VM       param.UUID `json:"vmID"`
	Params   arriving   `json:"params" doc:"the machine: _srcDomXML is its description on the host that it comes from"`
	Incoming param.Int  `json:"incomingLimit" default:"0" doc:"how many machines may be on their way to this host; 0 = any number"`
	Task     param.UUID `json:"sourceTask" default:"" doc:"the task of the host that it comes from"`
}

// arriving is what is read of the machine that is expected.
type arriving struct {
	VM  param.UUID `json:"vmId,omitempty"`
	XML string     `json:"_srcDomXML"`
}

// expecting is VDSM's answer. The port is libvirt's to choose: 0.
type expecting struct {
	Params arriving `json:"params"`
	Port   int      `json:"migrationPort"`
}

// arrivalOf are the parameters of VM.migrationArrival.
type arrivalOf struct {
	VM   param.UUID `json:"vmID"`
	Task param.UUID `json:"sourceTask" default:"" doc:"the task of the host that it comes from"`
}

// arrival is its answer.
type arrival struct {
	Here string `json:"here"`
}

// What there is of a machine on the host that it comes to.
const (
	machineAbsent  = "no"      // libvirt does not have it
	machineComing  = "coming"  // libvirt waits for its state
	machineStopped = "stopped" // it came not to its end, and libvirt waits for nothing
	machineArrived = "yes"
)

// dismissParams are those of VM.migrationDismiss.
type dismissParams struct {
	VM   param.UUID `json:"vmID"`
	Task param.UUID `json:"sourceTask" default:"" doc:"the task of the host that it came from"`
	Sent param.Bool `json:"sent" default:"true" doc:"it may have come; otherwise it is only expected no more"`
	Off  param.Bool `json:"sourceOff" default:"false" doc:"whoever asks knows that the host that it came from is off"`
}

// coming is a machine that is expected.
type coming struct {
	task  param.UUID
	since time.Time
}

// keepExpected is how long one is expected that libvirt does not show.
const keepExpected = 10 * time.Minute

// dismissed are the tasks of other hosts that expect nothing any more.
type dismissed map[param.UUID]time.Time

// keepDismissed is longer than any request is on its way.
const keepDismissed = time.Hour

func (vms *VMs) migrationCreate(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p arrivalParams
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
	if err := d.samePlaces(vms.volumes.DiskPath); err != nil {
		return nil, err
	}
	state, err := vms.hv.State(ctx, vm)
	switch {
	case err == nil && state.Alive() || vms.launching(vm):
		return nil, code.Errorf(code.VMExists, "virtual machine %s is on this host already", vm)
	case err != nil && code.Of(err) != code.NoSuchVM:
		return nil, err
	}
	all, err := vms.hv.List(ctx)
	if err != nil {
		return nil, err
	}
	return expecting{Params: p.Params}, vms.expect(p, all)
}

// expect notes that a machine will come.
func (vms *VMs) expect(p arrivalParams, all []virt.Stats) error {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	if _, over := vms.dismissed[p.Task]; over && p.Task != "" {
		return code.Errorf(code.MigrationNotActive, "the migration of task %s has ended", p.Task)
	}
	vms.prune()
	m := vms.of(string(p.VM))
	switch {
	case m.comes != nil && m.comes.task == p.Task:
		return nil // it is asked again
	case m.comes != nil:
		return code.Errorf(code.MigrationInProgress, "virtual machine %s is on its way to this host by task %s", p.VM, m.comes.task)
	}
	more := map[string]bool{}
	for vm, m := range vms.machines {
		if m.comes != nil {
			more[vm] = true
		}
	}
	for _, s := range all {
		if s.State.Incoming() {
			more[s.UUID] = true
		}
	}
	if p.Incoming > 0 && len(more) >= int(p.Incoming) {
		return code.Errorf(code.MigrationLimit, "%d machines are on their way to this host, and no more may be", len(more))
	}
	m.comes, m.exit, m.byAdmin, m.dropped = &coming{p.Task, time.Now()}, nil, false, false
	return nil
}

// expected says whether a machine is to come.
func (vms *VMs) expected(vm string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.machines[vm]
	return m != nil && m.comes != nil
}

// unexpect forgets that one is to come that libvirt does not have; false: it was not.
func (vms *VMs) unexpect(vm string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.machines[vm]
	if m == nil || m.comes == nil {
		return false
	}
	delete(vms.machines, vm)
	return true
}

func (vms *VMs) migrationArrival(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p arrivalOf
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	a, err := vms.arrivalOf(ctx, string(p.VM))
	if err != nil {
		return nil, err
	}
	if a.Here == machineArrived {
		vms.mu.Lock()
		if m := vms.machines[string(p.VM)]; m != nil {
			m.comes = nil
		}
		vms.mu.Unlock()
	}
	return a, nil
}

// arrivalOf says what libvirt has of a machine.
func (vms *VMs) arrivalOf(ctx context.Context, vm string) (arrival, error) {
	_, err := vms.hv.Job(ctx, vm) // first: a machine whose job ends between the two has arrived, or is not there
	coming := virt.Invalid(err)
	if err != nil && !coming && code.Of(err) != code.NoSuchVM {
		return arrival{}, err
	}
	state, err := vms.hv.State(ctx, vm)
	switch {
	case code.Of(err) == code.NoSuchVM || err == nil && !state.Alive():
		return arrival{machineAbsent}, nil
	case err != nil:
		return arrival{}, err
	case coming:
		return arrival{machineComing}, nil
	case state.Incoming() || state.Broken():
		return arrival{machineStopped}, nil
	}
	return arrival{machineArrived}, nil
}

func (vms *VMs) migrationDismiss(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p dismissParams
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	mine, others := vms.dismiss(vm, p)
	if others {
		return nil, code.Errorf(code.MigrationNotActive, "virtual machine %s is expected on this host from another task", vm)
	}
	if !bool(p.Sent) && !bool(p.Off) {
		if mine {
			vms.unexpect(vm)
		}
		return nil, nil
	}
	a, err := vms.arrivalOf(ctx, vm)
	if err != nil {
		return nil, err
	}
	if a.Here == machineAbsent {
		vms.unexpect(vm)
		return nil, nil
	}
	state, err := vms.hv.State(ctx, vm)
	switch {
	case err != nil:
		return nil, err
	case state.Phase != virt.Paused:
		return nil, code.Errorf(code.MigrationInProgress, "virtual machine %s runs on this host, and is not ended", vm)
	case a.Here == machineArrived && !mine:
		return nil, code.Errorf(code.VMExists, "there is a paused virtual machine %s on this host, and it is not known that it has come by this migration; look at it, and end it by VM.destroy", vm)
	}
	if err := vms.hv.Destroy(ctx, vm, false); err != nil && code.Of(err) != code.NoSuchVM {
		return nil, err
	}
	vms.drop(vm)
	return nil, nil
}

// dismiss notes that a task expects nothing any more. mine: the machine is expected from it. others: it is expected from another one.
func (vms *VMs) dismiss(vm string, p dismissParams) (mine, others bool) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	for task, at := range vms.dismissed {
		if time.Since(at) > keepDismissed {
			delete(vms.dismissed, task)
		}
	}
	if p.Task != "" {
		vms.dismissed[p.Task] = time.Now()
	}
	m := vms.machines[vm]
	if m == nil || m.comes == nil {
		return false, false
	}
	mine = m.comes.task == p.Task || bool(p.Off)
	return mine, !mine
}

// samePlaces refuses a machine whose volumes are not in the same places on this host, or not at all. Of files that are no volumes libvirt finds
// out.
func (d description) samePlaces(path func(storageops.VolumeID) (string, error)) error {
	for _, source := range d.root.FindElements("./devices/disk/source[@file]") {
		file := source.SelectAttrValue("file", "")
		found := volumePath.FindStringSubmatch(file)
		if found == nil {
			continue
		}
		p, err := path(storageops.VolumeID{Domain: found[1], Image: found[2], Volume: found[3]})
		if err != nil {
			return err
		}
		if p != file {
			return code.Errorf(code.MigrationError, "a disk of the machine is %s on its host, and %s on this one; both must reach the domain under the same path", file, p)
		}
	}
	return nil
}
