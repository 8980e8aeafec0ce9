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
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// merges is what merges need of storage; storageops.VMVolumes says what each answers.
type merges interface {
	Merge(leaf, base, top storageops.VolumeID) (storageops.VMMerge, error)
	SetMergeBase(s *tasks.Scope, base storageops.VolumeID, to storageops.VMMergeBase) error
	SetIllegal(s *tasks.Scope, v storageops.VolumeID, illegal bool) error
	SetParent(s *tasks.Scope, v storageops.VolumeID, parent string) error
	EndMerge(s *tasks.Scope, base storageops.VolumeID, leaf bool) error
	Below(v storageops.VolumeID) (string, error)
}

// mergeParams are those of VM.merge.
type mergeParams struct {
	VM    param.UUID   `json:"vmID"`
	Drive volumeParams `json:"drive" doc:"the disk: domainID, imageID, and the volumeID that the machine works on"`
	Base  param.UUID   `json:"baseVolUUID" doc:"the volume that is merged into"`
	Top   param.UUID   `json:"topVolUUID" doc:"the volume on it, whose data it gets"`
	Limit param.Int    `json:"bandwidth" default:"0" doc:"MiB per second; 0 = as fast as it goes"`
	Job   param.UUID   `json:"jobUUID" default:"" doc:"the id that the task shall have"`
}

func (p mergeParams) check() error {
	if err := p.Drive.check("drive"); err != nil {
		return err
	}
	switch {
	case p.Base.IsBlank() || p.Top.IsBlank() || p.Base == p.Top:
		return code.Errorf(code.InvalidParameter, "baseVolUUID and topVolUUID name two volumes, the second on the first")
	case p.Limit < 0:
		return code.Errorf(code.InvalidParameter, "parameter \"bandwidth\": it cannot be less than 0")
	}
	return nil
}

func decodeMerge(raw json.RawMessage) (p mergeParams, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, err
	}
	return p, p.check()
}

const (
	nameMerge   = "VM.merge"
	programQEMU = "qemu"

	stepPrepare = "prepare"
	stepCommit  = "commit"
)

func (vms *VMs) merge() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Write what a volume of a running virtual machine holds into the one below it, and take it out of the chain.",
		Name: nameMerge, Word: "merge", Params: mergeParams{}, AnswersTrue: true, IDParam: "jobUUID", Forward: true, Class: tasks.ClassVM,
		Contract: tasks.Contract{
			CancellableUntil: "internal: job end · leaf: the mark", PointOfNoReturn: "ILLEGAL mark + pivot", DecidedBy: programQEMU, Undo: "VM unaffected, leaf LEGAL",
			Remainder: "chain reads as before through top; base is part merged, so the snapshot that base held is lost and previewing it is refused until the merge is retried",
			Bound:     10 * time.Second,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decodeMerge(raw)
			if err != nil {
				return err
			}
			if _, err = vms.alive(ctx, string(p.VM)); err == nil {
				m := vms.merging(p)
				_, err = vms.volumes.Merge(m.leaf, m.base, m.top)
			}
			return err
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decodeMerge(raw)
			if err != nil {
				return nil, err
			}
			m := vms.merging(p)
			steps := []tasks.Step{m.look(), m.prepare(), m.commit(), m.relink()}
			if m.active() {
				steps = []tasks.Step{m.look(), m.prepare(), m.commit(), m.pivot(), m.relink()}
			}
			return &tasks.Plan{
				Tag: tasks.TagVirt, Locks: append(vms.volumes.Locks(m.top), vmLock(m.vm)), Success: fmt.Sprintf("%s is merged into %s", m.top, m.base), Steps: steps,
			}, nil
		},
	}
}

// merging is one merge. How far it has come libvirt and the chain tell: of a top in the middle, that it is not in the chain any more; of the
// leaf, that the machine works on the base.
type merging struct {
	vms             *VMs
	vm              string
	leaf, base, top storageops.VolumeID
	limit           uint64
}

func (vms *VMs) merging(p mergeParams) *merging {
	of := func(volume param.UUID) storageops.VolumeID {
		return storageops.VolumeID{Domain: string(p.Drive.Domain), Image: string(p.Drive.Image), Volume: string(volume)}
	}
	return &merging{vms, string(p.VM), of(p.Drive.Volume), of(p.Base), of(p.Top), uint64(p.Limit)}
}

// active says whether the machine writes to the top.
func (m *merging) active() bool { return m.leaf == m.top }

// mergePlan is what the look finds.
type mergePlan struct {
	storageops.VMMerge
	Disk string `json:"disk"`
}

func (m *merging) planned(s *tasks.Scope) (p mergePlan, err error) {
	_, err = s.PlanOf(stepLook, &p)
	return p, err
}

// look finds the disk, under the locks.
func (m *merging) look() tasks.Step {
	return tasks.Step{
		Name: stepLook,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) {
			if _, err := m.vms.alive(ctx, m.vm); err != nil {
				return nil, err
			}
			found, err := m.vms.volumes.Merge(m.leaf, m.base, m.top)
			if err != nil {
				return nil, err
			}
			disk, files, err := m.vms.diskOn(ctx, m.vm, found.Leaf)
			if err != nil {
				return nil, err
			}
			if at := slices.Index(files, found.Top); at < 0 || at+1 == len(files) || files[at+1] != found.Base {
				return nil, code.Errorf(code.MergeFailed, "machine %s reads %s through another chain than the metadata says: %v", m.vm, m.leaf, files)
			}
			return mergePlan{found, disk}, nil
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return m.vms.volumes.Reach(ctx, s, m.top) },
	}
}

// prepare marks the base before anything is written into it: what it showed by itself is no more to be relied on, and stays so, once the
// commit may have begun, until one is completed. QEMU makes its file as large as that of the top; its metadata says so before.
func (m *merging) prepare() tasks.Step {
	return tasks.Step{
		Name: stepPrepare,
		Do: func(_ context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil {
				return err
			}
			return m.vms.volumes.SetMergeBase(s, m.base, storageops.VMMergeBase{Capacity: p.Grown, Legality: domain.Illegal, Merging: true})
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil || s.Started(stepCommit) {
				return err
			}
			return m.vms.volumes.SetMergeBase(s, m.base, p.Was)
		},
	}
}

// commit has QEMU write. Of a top in the middle its end decides, and with it the file above names the base. Of the leaf it only gets ready.
func (m *merging) commit() tasks.Step {
	step := tasks.Step{
		Name: stepCommit, DecidedBy: programQEMU, Undone: "the machine goes on as before",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil {
				return err
			}
			j := &jobRun{
				vms: m.vms, vm: m.vm, disk: p.Disk, what: "the merge", fails: code.MergeFailed,
				begin: func(ctx context.Context) <-chan error {
					answer := make(chan error, 1)
					answer <- m.vms.hv.BeginCommit(ctx, s, m.vm, virt.Commit{Disk: p.Disk, Base: p.Base, Top: p.Top, Active: m.active(), Limit: m.limit})
					return answer
				},
				done: func(ctx context.Context) (bool, error) { return m.done(ctx, p) },
			}
			return j.run(ctx, s)
		},
		Remainder: func(*tasks.Scope) string {
			return fmt.Sprintf("%s is part merged: it stays ILLEGAL until the merge is retried; through %s the chain reads as before", m.base, m.top)
		},
	}
	if m.active() {
		step.DecidedBy, step.Asserted = "", true
		step.Undo = func(ctx context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil {
				return err
			}
			return m.vms.withoutJob(ctx, s, m.vm, p.Disk, "the merge")
		}
	}
	return step
}

// done says whether the top is out of the chain. When the machine is down, the file above a top tells.
func (m *merging) done(ctx context.Context, p mergePlan) (bool, error) {
	files, err := m.vms.files(ctx, m.vm, p.Disk)
	switch {
	case code.Of(err) == code.NoSuchVM && p.Child != "":
		child := m.top
		child.Volume = p.Child
		below, err := m.vms.volumes.Below(child)
		return below == m.base.Volume, err
	case code.Of(err) == code.NoSuchVM:
		return false, nil
	case err != nil || len(files) == 0:
		return false, err
	}
	return !slices.Contains(files, p.Top), nil
}

// pivot is the point of no return of a leaf: it is marked, so that nobody starts a machine on it that has been running on the base.
func (m *merging) pivot() tasks.Step {
	return tasks.Step{
		Name: "pivot", PointOfNoReturn: true, Undone: "the leaf is LEGAL",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil {
				return err
			}
			if err := m.vms.volumes.SetIllegal(s, m.top, true); err != nil {
				return err
			}
			c := &changeOver{
				vms: m.vms, vm: m.vm, disk: p.Disk, what: "the merge", fails: code.MergeFailed, done: func(ctx context.Context) (bool, error) { return m.done(ctx, p) },
				lost: fmt.Sprintf("the machine may have been running on %s or on %s, which is ILLEGAL; see which of the two was written last before one of them is deleted", m.base, m.top),
			}
			return c.run(ctx, s)
		},
		Check: func(ctx context.Context, s *tasks.Scope) (bool, error) {
			p, err := m.planned(s)
			if err != nil {
				return false, err
			}
			return m.done(ctx, p)
		},
		Refused: func(err error) bool { return !virt.Unreachable(err) },
		Undo:    func(_ context.Context, s *tasks.Scope) error { return m.vms.volumes.SetIllegal(s, m.top, false) },
	}
}

// relink lets the metadata say what the files do. The top stays, ILLEGAL: the engine deletes it next.
func (m *merging) relink() tasks.Step {
	return tasks.Step{
		Name: "metadata",
		Do: func(_ context.Context, s *tasks.Scope) error {
			p, err := m.planned(s)
			if err != nil {
				return err
			}
			v := m.vms.volumes
			if err := v.Sync(s, m.base); err != nil {
				return err
			}
			if err := v.SetIllegal(s, m.top, true); err != nil {
				return err
			}
			if p.Child != "" {
				child := m.top
				child.Volume = p.Child
				if err := v.SetParent(s, child, m.base.Volume); err != nil {
					return err
				}
			}
			return v.EndMerge(s, m.base, p.Child == "")
		},
	}
}
