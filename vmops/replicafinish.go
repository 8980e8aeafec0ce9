package vmops

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// await lets a task be asked to go on by askTo, until over is called.
func (vms *VMs) await(task string) (asked <-chan struct{}, over func()) {
	ch := make(chan struct{}, 1)
	vms.mu.Lock()
	defer vms.mu.Unlock()
	vms.awaited[task] = ch
	return ch, func() {
		vms.mu.Lock()
		defer vms.mu.Unlock()
		delete(vms.awaited, task)
	}
}

// askTo asks a task to go on; false: it does not wait for that.
func (vms *VMs) askTo(task string) bool {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	ch := vms.awaited[task]
	if ch == nil {
		return false
	}
	select {
	case ch <- struct{}{}:
	default: // it was asked already
	}
	return true
}

// replicateFinish has a machine go on on the replica, or, if dstDisk is srcDisk, go on as before, whatever the mirror does. It is answered when that
// is so. A replica that is not as its source yet: 40.
func (vms *VMs) replicateFinish(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	p, err := decodeReplicate(raw)
	if err != nil {
		return nil, err
	}
	if _, err := vms.alive(ctx, string(p.VM)); err != nil {
		return nil, err
	}
	id, task, err := vms.replicationOf(p)
	if err != nil {
		return nil, err
	}
	back := p.Source.id() == p.Dest.id()
	switch {
	case id == "":
		return nil, vms.worksOn(ctx, p)
	case back:
		if err := vms.tasks().Stop(id, tasks.StopOptions{Who: "VM.diskReplicateFinish"}); err != nil {
			return nil, err
		}
	case task.Dest.id() != p.Dest.id():
		return nil, code.Errorf(code.InvalidParameter, "the disk is mirrored into %s, not into %s", task.Dest.id(), p.Dest.id())
	default:
		if err := vms.finishNow(ctx, id, p); err != nil {
			return nil, err
		}
	}
	s, err := vms.tasks().Wait(ctx, id, tasks.Ended)
	if err != nil || (s.State == tasks.Finished) != back && s.State != tasks.Failed {
		return nil, err
	}
	return nil, code.Errorf(max(s.Code, code.ReplicationFailed), "%s", s.Message)
}

// replicationOf finds the task that mirrors the disk; "" = none.
func (vms *VMs) replicationOf(p replicateParams) (string, replicateParams, error) {
	for _, s := range vms.tasks().List(tasks.Filter{Tag: tasks.TagVirt, Verb: nameReplicate}) {
		if s.State.Final() {
			continue
		}
		v, err := vms.tasks().Get(s.ID)
		if err != nil {
			continue // it was cleared meanwhile
		}
		of, err := decodeReplicate(v.Params)
		if err != nil {
			return "", of, err
		}
		if of.VM == p.VM && of.Source.id() == p.Source.id() {
			return s.ID, of, nil
		}
	}
	return "", replicateParams{}, nil
}

// worksOn is the answer when nothing mirrors the disk: it is as it is to be already, or 88.
func (vms *VMs) worksOn(ctx context.Context, p replicateParams) error {
	want, err := vms.volumes.DiskPath(p.Dest.id())
	if err != nil {
		return err
	}
	if _, _, err := vms.diskOn(ctx, string(p.VM), want); err != nil {
		return code.Errorf(code.NotReplicating, "no task mirrors %s of machine %s: %w", p.Source.id(), p.VM, err)
	}
	return nil
}

// finishNow asks the task to change over, if it can.
func (vms *VMs) finishNow(ctx context.Context, id string, p replicateParams) error {
	v, err := vms.tasks().Get(id)
	if err != nil || v.PastPointOfNoReturn {
		return err
	}
	if err := vms.volumes.ReplicaReady(p.Dest.id()); err != nil {
		return err
	}
	found, err := vms.volumes.Replica(p.Source.id(), p.Dest.id())
	if err != nil {
		return err
	}
	disk, _, err := vms.diskOf(ctx, string(p.VM), found.Source)
	if err != nil {
		return err
	}
	job, err := vms.hv.BlockJob(ctx, string(p.VM), disk)
	if err != nil {
		return err
	}
	if !job.Ready || !vms.askTo(id) {
		return code.Errorf(code.ResourceUnavailable, "%s is not as %s yet; ask again", p.Dest.id(), p.Source.id())
	}
	return nil
}
