package vmops

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// snapMemory is the plan of the look of a snapshot with memory.
type snapMemory struct {
	snapDisks
	found
}

// dump has libvirt write the machine's memory to the memory volume, as a save does, and then have it go on on its new volumes. It stands still
// meanwhile, so that both are of one moment. The guest's file systems are not brought to rest: what is resumed from the memory would find
// them so, and nobody would thaw them.
func (sn *snapshotting) dump() tasks.Step {
	return tasks.Step{
		Name: "memory", DecidedBy: "libvirt", Undone: "the machine goes on on its volumes, the memory volume is empty again",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			defer sn.vms.do(sn.vm, statusSaving)()
			var p snapMemory
			if _, err := s.PlanOf(stepLook, &p); err != nil {
				return err
			}
			j := &jobRun{
				vms: sn.vms, vm: sn.vm, what: "the snapshot", fails: code.SnapshotFailed,
				begin: func(ctx context.Context) <-chan error { return sn.vms.hv.SnapshotMemory(ctx, s, sn.vm, p.xml(p.Path)) },
				done:  func(ctx context.Context) (bool, error) { return sn.dumped(ctx, p.snapDisks) },
			}
			return j.run(ctx, s)
		},
		Undo: sn.memory.unsave,
	}
}

// dumped says whether the machine works on its new volumes, which it does only behind a complete dump. When it has gone down since, the
// memory tells: what a guest may have written to the new volumes is not thrown away.
func (sn *snapshotting) dumped(ctx context.Context, d snapDisks) (bool, error) {
	taken, err := sn.taken(ctx, d)
	if code.Of(err) != code.NoSuchVM {
		return taken, err
	}
	head, err := sn.vms.volumes.Read(sn.memory.memory, int64(len(savedMagic)))
	return complete(head), err
}
