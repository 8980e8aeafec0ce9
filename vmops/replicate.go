package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"

	"github.com/beevik/etree"
)

// replicas is what replications need of storage; storageops.VMVolumes says what each answers.
type replicas interface {
	ReplicaLocks(source, replica storageops.VolumeID) []tasks.Lock
	Replica(source, replica storageops.VolumeID) (storageops.VMReplica, error)
	ReplicaReady(replica storageops.VolumeID) error
}

// replicateParams are those of VM.diskReplicateStart and VM.diskReplicateFinish.
type replicateParams struct {
	VM     param.UUID   `json:"vmID"`
	Source volumeParams `json:"srcDisk" doc:"the disk: domainID, imageID, and the volumeID that the machine works on"`
	Dest   volumeParams `json:"dstDisk" doc:"domainID, imageID and volumeID of the replica"`
}

func (p replicateParams) check() error {
	if err := p.Source.check("srcDisk"); err != nil {
		return err
	}
	return p.Dest.check("dstDisk")
}

const (
	nameReplicate = "VM.diskReplicateStart"
	stepMirror    = "mirror"
)

func decodeReplicate(raw json.RawMessage) (p replicateParams, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, err
	}
	return p, p.check()
}

func decodeReplicateStart(raw json.RawMessage) (p replicateParams, err error) {
	if p, err = decodeReplicate(raw); err == nil && p.Source.id() == p.Dest.id() {
		err = code.Errorf(code.InvalidParameter, "srcDisk and dstDisk are the same volume")
	}
	return p, err
}

func (vms *VMs) replicate() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Mirror a disk of a running virtual machine into another volume, until VM.diskReplicateFinish has the machine go on on it, or not.",
		Name: nameReplicate, Word: "diskReplicate", Params: replicateParams{}, AnswersTrue: true, Forward: true, Class: tasks.ClassVM,
		Contract: tasks.Contract{
			CancellableUntil: "pivot, in any phase (VDSM only when in sync)", PointOfNoReturn: "pivot", DecidedBy: programQEMU,
			Undo: "VM on source, mirror gone, replica torn down", Remainder: "replica ILLEGAL; it holds a part of the disk", Bound: 10 * time.Second,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decodeReplicateStart(raw)
			if err != nil {
				return err
			}
			if _, err = vms.alive(ctx, string(p.VM)); err == nil {
				_, err = vms.volumes.Replica(p.Source.id(), p.Dest.id())
			}
			return err
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decodeReplicateStart(raw)
			if err != nil {
				return nil, err
			}
			r := &replication{vms, id, string(p.VM), p.Source.id(), p.Dest.id()}
			return &tasks.Plan{
				Tag: tasks.TagVirt, Locks: append(vms.volumes.ReplicaLocks(r.source, r.replica), vmLock(r.vm)),
				Success: fmt.Sprintf("machine %s goes on on %s", r.vm, r.replica), Steps: []tasks.Step{r.look(), r.mark(), r.mirror(), r.pivot(), r.legal()},
			}, nil
		},
	}
}

// replication is one mirror. Whether its machine has changed over is seen by the file that it works on.
type replication struct {
	vms             *VMs
	task, vm        string
	source, replica storageops.VolumeID
}

// replicaPlan is what the look finds.
type replicaPlan struct {
	storageops.VMReplica
	Disk string `json:"disk"`
}

func (r *replication) planned(s *tasks.Scope) (p replicaPlan, err error) {
	_, err = s.PlanOf(stepLook, &p)
	return p, err
}

// look finds the disk, under the locks.
func (r *replication) look() tasks.Step {
	return tasks.Step{
		Name: stepLook,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) {
			if _, err := r.vms.alive(ctx, r.vm); err != nil {
				return nil, err
			}
			found, err := r.vms.volumes.Replica(r.source, r.replica)
			if err != nil {
				return nil, err
			}
			disk, _, err := r.vms.diskOn(ctx, r.vm, found.Source)
			return replicaPlan{found, disk}, err
		},
		Do: func(ctx context.Context, s *tasks.Scope) error {
			if err := r.vms.volumes.Reach(ctx, s, r.source); err != nil {
				return err
			}
			return r.vms.volumes.Reach(ctx, s, r.replica)
		},
	}
}

// mark lets nobody take the replica for a disk before it is one.
func (r *replication) mark() tasks.Step {
	return tasks.Step{
		Name: stepPrepare,
		Do:   func(_ context.Context, s *tasks.Scope) error { return r.vms.volumes.SetIllegal(s, r.replica, true) },
		Undo: func(_ context.Context, s *tasks.Scope) error {
			if s.Started(stepMirror) {
				return nil
			}
			return r.vms.volumes.SetIllegal(s, r.replica, false)
		},
	}
}

// mirror copies, and then keeps the replica as the source is, until VM.diskReplicateFinish asks for the change.
func (r *replication) mirror() tasks.Step {
	return tasks.Step{
		Name: stepMirror, Asserted: true, Undone: "the machine works on its source",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := r.planned(s)
			if err != nil {
				return err
			}
			asked, over := r.vms.await(r.task)
			defer over()
			j := &jobRun{
				vms: r.vms, vm: r.vm, disk: p.Disk, what: "the mirror", fails: code.ReplicationFailed, until: asked,
				begin: func(ctx context.Context) <-chan error {
					answer := make(chan error, 1)
					answer <- r.vms.hv.BeginMirror(ctx, s, r.vm, p.Disk, p.xml())
					return answer
				},
				done: func(ctx context.Context) (bool, error) { return r.done(ctx, p) },
			}
			return j.run(ctx, s)
		},
		Undo: func(ctx context.Context, s *tasks.Scope) error {
			p, err := r.planned(s)
			if err != nil {
				return err
			}
			return r.vms.withoutJob(ctx, s, r.vm, p.Disk, "the mirror")
		},
		Remainder: func(*tasks.Scope) string {
			return fmt.Sprintf("%s is ILLEGAL: it holds a part of the disk; mirror again, or delete it", r.replica)
		},
	}
}

// done says whether the machine works on the replica.
func (r *replication) done(ctx context.Context, p replicaPlan) (bool, error) {
	files, err := r.vms.files(ctx, r.vm, p.Disk)
	if code.Of(err) == code.NoSuchVM {
		return false, nil // it is looked at elsewhere
	}
	return len(files) > 0 && files[0] == p.Path, err
}

func (r *replication) pivot() tasks.Step {
	return tasks.Step{
		Name: "pivot", PointOfNoReturn: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := r.planned(s)
			if err != nil {
				return err
			}
			c := &changeOver{
				vms: r.vms, vm: r.vm, disk: p.Disk, what: "the mirror", fails: code.ReplicationFailed, done: func(ctx context.Context) (bool, error) { return r.done(ctx, p) },
				lost: fmt.Sprintf("the machine may have been running on %s or on %s, which is ILLEGAL; see which of the two was written last before one of them is deleted", r.source, r.replica),
			}
			return c.run(ctx, s)
		},
		Check: func(ctx context.Context, s *tasks.Scope) (bool, error) {
			p, err := r.planned(s)
			if err != nil {
				return false, err
			}
			return r.done(ctx, p)
		},
		Refused: func(err error) bool { return !virt.Unreachable(err) },
	}
}

// legal publishes the replica, once all of it is on stable storage.
func (r *replication) legal() tasks.Step {
	return tasks.Step{
		Name: "legal",
		Do: func(_ context.Context, s *tasks.Scope) error {
			if err := r.vms.volumes.Sync(s, r.replica); err != nil {
				return err
			}
			return r.vms.volumes.SetIllegal(s, r.replica, false)
		},
	}
}

// xml describes the replica to libvirt.
func (p replicaPlan) xml() string {
	doc := etree.NewDocument()
	disk := doc.CreateElement("disk")
	disk.CreateAttr("type", "file")
	disk.CreateElement("driver").CreateAttr("type", p.Format)
	disk.CreateElement("source").CreateAttr("file", p.Path)
	text, err := doc.WriteToString()
	if err != nil {
		panic(err) // to a string: never
	}
	return text
}
