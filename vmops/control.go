package vmops

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// Calls are the verbs that are answered at once.
func (vms *VMs) Calls() []tasks.Call {
	return []tasks.Call{
		{
			Name: "VM.create", Role: access.Operate, Doc: "Start a virtual machine, or resume one whose state VM.hibernate has saved.",
			Params: createParams{}, Result: created{}, Locks: machineLock, Answer: vms.create,
		},
		{
			Name: "VM.destroy", Role: access.Operate, Doc: "End a virtual machine as a power cut does, and forget how it ended.",
			Params: destroyParams{}, Locks: machineLock, Answer: vms.destroy,
		},
		{
			Name: "VM.shutdown", Role: access.Operate, Doc: "Ask the guest of a virtual machine to go down by itself, or to start again.",
			Params: shutdownParams{}, Locks: machineLock, Answer: vms.shutdown,
		},
		{
			Name: "VM.pause", Role: access.Operate, Doc: "Stop the processors of a virtual machine.",
			Params: vmParams{}, Result: vmList{}, Locks: machineLock, Answer: vms.onMachine(vms.pause),
		},
		{
			Name: "VM.cont", Role: access.Operate, Doc: "Let the processors of a paused virtual machine go on.",
			Params: vmParams{}, Result: vmList{}, Locks: machineLock, Answer: vms.onMachine(vms.cont),
		},
		{
			Name: "VM.freeze", Role: access.Operate, Doc: "Have the guest's agent bring the file systems of a virtual machine to rest.",
			Params: vmParams{}, Result: vmList{}, Locks: machineLock, Answer: vms.onMachine(vms.freezeNow),
		},
		{
			Name: "VM.thaw", Role: access.Operate, Doc: "Have the guest's agent let the file systems of a virtual machine go on.",
			Params: vmParams{}, Result: vmList{}, Locks: machineLock, Answer: vms.onMachine(vms.thawNow),
		},
		{
			Name: "VM.migrateCancel", Role: access.Operate, Doc: "Cancel the migration of a virtual machine, as Task.stop of its task does.",
			Params: vmParams{}, Cancels: true, Answer: vms.migrateCancel,
		},
		{
			Name: "VM.migrateChangeParams", Role: access.Operate, Doc: "Change how fast the state of a virtual machine is sent to another host.",
			Params: changeParams{}, Answer: vms.migrateChange,
		},
		{
			Name: "VM.getMigrationStatus", Role: access.Observe, Doc: "Answer how the last migration of a virtual machine to another host stands.",
			Params: vmParams{}, Result: migrationStatus{}, Answer: vms.migrationStatus,
		},
		{
			Name: "VM.migrationCreate", Role: access.Operate, Doc: "Make ready for a virtual machine that comes from another host, whose agent asks this.",
			Params: arrivalParams{}, Result: expecting{}, Locks: machineLock, Answer: vms.migrationCreate,
		},
		{
			Name: "VM.migrationArrival", Role: access.Operate, Doc: "Answer whether a virtual machine has come from another host, whose agent asks this.",
			Params: arrivalOf{}, Result: arrival{}, Ours: true, Answer: vms.migrationArrival,
		},
		{
			Name: "VM.migrationDismiss", Role: access.Operate, Doc: "Remove what has come of a virtual machine that stays on another host, whose agent asks this. One that runs is never ended.",
			Params: dismissParams{}, Ours: true, Locks: machineLock, Answer: vms.migrationDismiss,
		},
		{
			Name: "VM.diskReplicateFinish", Role: access.Operate, Doc: "Have a virtual machine go on on the replica of its disk, or, if dstDisk is srcDisk, give the mirror up.",
			Params: replicateParams{}, Answer: vms.replicateFinish,
		},
		{
			Name: "VM.getStats", Role: access.Observe, Doc: "Answer what a virtual machine does and uses.",
			Params: vmParams{}, Result: []Stats{}, Answer: vms.getStats,
		},
		{
			Name: "VM.getInfo", Role: access.Observe, Doc: "Answer what a virtual machine is.",
			Params: vmParams{}, Result: Definition{}, Answer: vms.getInfo,
		},
		{
			Name: "Host.leaveMaintenance", Role: access.Operate, Ours: true, Doc: "Have this host take new work again. Machines that have left stay where they are.",
			Params: param.None{}, Locks: func(json.RawMessage) ([]tasks.Lock, error) { return []tasks.Lock{maintenanceLock}, nil }, Answer: vms.leaveMaintenance,
		},
		{
			Name: "Host.getVMList", Role: access.Observe, Doc: "List the virtual machines of this host.",
			Params: listParams{}, Result: []any{}, Answer: vms.list,
		},
		{
			Name: "Host.getVMFullList", Role: access.Observe, Doc: "Answer what each virtual machine of this host is.",
			Params: fullListParams{}, Result: []Definition{}, Answer: vms.fullList,
		},
		{
			Name: "Host.getAllVmStats", Role: access.Observe, Doc: "Answer what each virtual machine of this host does and uses.",
			Params: param.None{}, Result: []Stats{}, Answer: vms.allStats,
		},
	}
}

// machineLock is held while something is done with a machine at once: no task of it runs meanwhile.
func machineLock(raw json.RawMessage) ([]tasks.Lock, error) {
	var p vmParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	return []tasks.Lock{vmLock(string(p.VM))}, nil
}

// vmList is what VDSM answers where there is nothing to say.
type vmList struct {
	List struct{} `json:"vmList"`
}

// onMachine makes a call of what is done with a machine that is alive.
func (vms *VMs) onMachine(do func(ctx context.Context, vm string) error) func(context.Context, json.RawMessage) (any, error) {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var p vmParams
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return nil, err
		}
		if _, err := vms.alive(ctx, string(p.VM)); err != nil {
			return nil, err
		}
		return vmList{}, do(ctx, string(p.VM))
	}
}

func (vms *VMs) pause(ctx context.Context, vm string) error { return vms.hv.Suspend(ctx, nil, vm) }

func (vms *VMs) cont(ctx context.Context, vm string) error {
	s, err := vms.hv.State(ctx, vm)
	if err != nil || s.Phase == virt.Running {
		return err
	}
	return vms.hv.Resume(ctx, nil, vm)
}

type destroyParams struct {
	VM       param.UUID `json:"vmID"`
	Graceful param.Int  `json:"gracefulAttempts" default:"1" doc:"how often QEMU is asked to end before it is killed"`
}

// destroy ends a machine, and forgets one that is down.
func (vms *VMs) destroy(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p destroyParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	s, err := vms.hv.State(ctx, vm)
	if code.Of(err) == code.NoSuchVM || err == nil && !s.Alive() {
		if vms.launching(vm) {
			return nil, code.Errorf(code.ResourceUnavailable, "virtual machine %s is being started, and libvirt does not show it yet; try again", vm)
		}
		if !vms.forget(vm) && !vms.unexpect(vm) {
			return nil, code.Errorf(code.NoSuchVM, "there is no virtual machine %s on this host", vm)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if a, err := vms.arrivalOf(ctx, vm); err != nil || a.Here == machineComing {
		if err == nil {
			err = code.Errorf(code.MigrationInProgress, "virtual machine %s is on its way to this host; VM.migrateCancel on the host that it comes from ends that. "+
				"If that host is known to be off, VM.migrationDismiss with sourceOff removes what has come", vm)
		}
		return nil, err
	}
	for range max(0, min(p.Graceful, 3)) {
		if err = vms.hv.Destroy(ctx, vm, true); err == nil || virt.Unreachable(err) {
			break
		}
	}
	if err != nil || p.Graceful <= 0 {
		err = vms.hv.Destroy(ctx, vm, false)
	}
	if err != nil && code.Of(err) != code.NoSuchVM && !virt.Invalid(err) {
		return nil, err
	}
	vms.drop(vm)
	return nil, nil
}

// shutdownParams are those of VM.shutdown. The guest is asked by its power button, which knows no delay and no message.
type shutdownParams struct {
	VM     param.UUID `json:"vmID"`
	Reboot param.Bool `json:"reboot" default:"false" doc:"start again instead of going down"`
}

func (vms *VMs) shutdown(ctx context.Context, raw json.RawMessage) (any, error) {
	var p shutdownParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	if _, err := vms.alive(ctx, vm); err != nil {
		return nil, err
	}
	vms.mu.Lock()
	vms.of(vm).byAdmin = !bool(p.Reboot)
	vms.mu.Unlock()
	return nil, vms.hv.Shutdown(ctx, vm, bool(p.Reboot))
}
