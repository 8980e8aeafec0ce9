package vmops

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// leaves is what is remembered of a migration while it goes on.
type leaves struct {
	percent   int
	task      string // for which another bandwidth was asked for since it was submitted; "" = none
	bandwidth uint64
}

// leaving notes that a machine leaves; what was asked for meanwhile is forgotten with its end.
func (vms *VMs) leaving(vm string) (undo func()) {
	over := vms.do(vm, statusLeaving)
	return func() {
		over()
		vms.mu.Lock()
		defer vms.mu.Unlock()
		if m := vms.machines[vm]; m != nil {
			m.leaves = leaves{}
		}
	}
}

// leavingBy notes how far it has come.
func (vms *VMs) leavingBy(vm string, job virt.Job) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	if job.Total > 0 {
		vms.of(vm).leaves.percent = int(100 * min(job.Done, job.Total) / job.Total)
	}
}

// bandwidth is what was asked for while the migration had not begun.
func (vms *VMs) bandwidth(vm, task string) (mib uint64, changed bool) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	l := vms.of(vm).leaves
	return l.bandwidth, l.task == task
}

// migrationOf finds the last task of one of the verbs that works, or worked, with a machine. Those that have not ended go before.
func (vms *VMs) migrationOf(vm string, verbs ...string) (last tasks.View, found bool) {
	for _, verb := range verbs {
		for _, t := range vms.tasks().List(tasks.Filter{Verb: verb}) {
			v, err := vms.tasks().Get(t.ID)
			var p vmParams
			if err != nil || param.Decode(v.Params, &p, param.Lenient) != nil || string(p.VM) != vm {
				continue
			}
			if !found || last.State.Final() || !v.State.Final() {
				last, found = v, true
			}
		}
	}
	return last, found
}

// migrateCancel stops the task, as Task.stop does: it waits for a slot, the destination is being prepared, or libvirt sends. As with VDSM it also
// ends a save.
func (vms *VMs) migrateCancel(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p vmParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	t, found := vms.migrationOf(string(p.VM), migrateVerb, "VM.hibernate")
	if !found || t.State.Final() {
		return nil, code.Errorf(code.MigrationNotActive, "virtual machine %s is neither being migrated nor saved", p.VM)
	}
	err := vms.tasks().Stop(t.ID, tasks.StopOptions{Who: tasks.Asker(ctx)})
	if code.Of(err) == code.TaskState {
		return nil, code.Errorf(code.MigrationCancel, "task %s: %w", t.ID, err)
	}
	return nil, err
}

// changeParams are those of VM.migrateChangeParams.
type changeParams struct {
	VM     param.UUID `json:"vmID"`
	Params struct {
		Bandwidth *param.Int `json:"maxBandwidth,omitempty"`
	} `json:"params" doc:"maxBandwidth, in MiB per second; 0 = as much as there is"`
}

// unbounded is libvirt's word for no limit.
const unbounded = 9007199254740991 / (1 << 20)

func (vms *VMs) migrateChange(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p changeParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if p.Params.Bandwidth == nil || *p.Params.Bandwidth < 0 {
		return nil, code.Errorf(code.InvalidParameter, "parameter \"params\" must have maxBandwidth, in MiB per second")
	}
	vm := string(p.VM)
	t, found := vms.migrationOf(vm, migrateVerb)
	if !found || t.State.Final() {
		return nil, code.Errorf(code.MigrationNotActive, "virtual machine %s is not being migrated", vm)
	}
	mib := uint64(*p.Params.Bandwidth)
	vms.mu.Lock()
	l := &vms.of(vm).leaves
	l.task, l.bandwidth = t.ID, mib
	vms.mu.Unlock()
	job, err := vms.hv.Job(ctx, vm)
	if err != nil || !job.Active {
		return nil, err // it begins with that
	}
	if mib == 0 {
		mib = unbounded
	}
	return nil, vms.hv.SetBandwidth(ctx, vm, mib)
}

// migrationStatus is VDSM's answer.
type migrationStatus struct {
	Status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
	Progress int `json:"progress"` // percent
}

func (vms *VMs) migrationStatus(_ context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p vmParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	t, found := vms.migrationOf(vm, migrateVerb)
	if !found {
		return nil, code.Errorf(code.MigrationNotActive, "no migration of virtual machine %s is known on this host", vm)
	}
	var out migrationStatus
	out.Status.Code, out.Status.Message = int(t.Code), t.Message
	if t.Stopped || t.State == tasks.Aborting {
		out.Status.Code = int(code.MigrationCancel)
	}
	vms.mu.Lock()
	if m := vms.machines[vm]; m != nil && m.doing == statusLeaving {
		out.Progress = m.leaves.percent
	}
	vms.mu.Unlock()
	if t.State == tasks.Finished {
		out.Progress = 100
	}
	return out, nil
}
