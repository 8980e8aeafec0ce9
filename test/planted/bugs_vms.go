package main

// vmBugs are in the verbs of virtual machines.
func vmBugs() []bug {
	verbs := catcher{pkg: "vmops", run: "^TestProve$"}
	ends := catcher{pkg: "vmops", run: "^TestMigrationEnds$"}
	return []bug{
		{
			name: "a cancel that libvirt has taken counts as its answer",
			why:  "the task reads cancelled and its memory volume is emptied while libvirt still writes to it",
			file: "vmops/jobrun.go", by: verbs,
			edits: []edit{{`			j.abort(ctx, s)
		}
		return job.Ready && !stopped && j.until == nil, nil
`, `			j.abort(ctx, s)
		}
		return stopped, nil
`}},
		},
		{
			name: "a save that had finished when it was to be cancelled is not looked for",
			why:  "the machine is down and its state is complete, and the undo empties it",
			file: "vmops/jobrun.go", by: verbs,
			edits: []edit{{`	case done:
		return true, nil
	case gone:
`, `	case gone && done:
		return true, code.Errorf(code.TaskAborted, "%s was cancelled", j.what)
	case gone:
`}},
		},
		{
			name: "what libvirt has written is not synced",
			why:  "the machine is called saved, the power fails, and its state is gone",
			file: "vmops/hibernate.go", by: verbs,
			edits: []edit{{`return h.vms.volumes.Sync(s, h.memory) },
`, `return nil },
`}},
		},
		{
			name: "a machine that libvirt has left paused is forgotten",
			why:  "libvirtd dies in a save, the stop reads recovered, and the guest stands still",
			file: "vmops/hibernate.go", by: verbs,
			edits: []edit{{`	if err := h.goOn(ctx, s, f); err != nil {
		return err
	}
	return h.vms.volumes.Replace(s, h.memory`, `	return h.vms.volumes.Replace(s, h.memory`}},
		},
		{
			name: "a guest that was frozen by an agent that died is not thawed",
			why:  "the agent dies between the freeze and its record; the snapshot is stopped, and the guest stands still",
			file: "vmops/freeze.go", by: verbs,
			edits: []edit{{`	if err != nil || !began || a.Known && !a.AtRest {
`, `	if err != nil || !began || !a.AtRest {
`}},
		},
		{
			name: "a snapshot that libvirt refused is taken for one that it took",
			why:  "the task reads finished, and the machine writes on to the volume that was to stay as it is",
			file: "vmops/snapshot.go", by: verbs,
			edits: []edit{{`		if has[name] != file {
`, `		if has[name] == "" && file != "" {
`}},
		},
		{
			name: "a stop is not told to a step whose work goes on in another program",
			why:  "the agent dies while it is being stopped; the merge reads recovered, and QEMU goes on with it",
			file: "tasks/verb.go", by: catcher{pkg: "vmops", run: "^TestMergeStoppedOverRestart$"},
			edits: []edit{{`return s.DecidedBy != "" || s.Asserted }
`, `return s.DecidedBy != "" }
`}},
		},
		{
			name: "the leaf is marked only after the machine has changed over",
			why:  "the agent dies between the two; the machine goes down, and is started on the leaf that it has left",
			file: "vmops/merge.go", by: verbs,
			edits: []edit{{`			if err := m.vms.volumes.SetIllegal(s, m.top, true); err != nil {
				return err
			}
			c := &changeOver{
`, `			c := &changeOver{
`}},
		},
		{
			name: "the job of a merge that QEMU refused to end is left behind",
			why:  "the task reads recovered, and QEMU writes on to a volume that nobody has a lock of any more",
			file: "vmops/merge.go", by: verbs,
			edits: []edit{{`			return m.vms.withoutJob(ctx, s, m.vm, p.Disk, "the merge")
`, `			return ctx.Err()
`}, {`			p, err := m.planned(s)
			if err != nil {
				return err
			}
			return ctx.Err()
`, `			return ctx.Err()
`}},
		},
		{
			name: "the base of a merge shows itself as LEGAL while QEMU writes to it",
			why:  "the agent dies in the merge, and the snapshot that the base held is taken for whole",
			file: "vmops/merge.go", by: verbs,
			edits: []edit{{`Legality: domain.Illegal, Merging: true})
`, `Legality: domain.Legal, Merging: true})
`}},
		},
		{
			name: "what QEMU has merged is not synced",
			why:  "the base is LEGAL, the power fails, and a part of it is as before",
			file: "vmops/merge.go", by: verbs,
			edits: []edit{{`			if err := v.Sync(s, m.base); err != nil {
				return err
			}
`, ``}},
		},
		{
			name: "a mirror that is ready changes over though nobody has asked",
			why:  "what is below the replica is not copied yet, and the guest reads nothing",
			file: "vmops/replicate.go", by: catcher{pkg: "vmops", run: "^TestReplicateFinish$"},
			edits: []edit{{`fails: code.ReplicationFailed, until: asked,
`, `fails: code.ReplicationFailed,
`}, {`			asked, over := r.vms.await(r.task)
`, `			_, over := r.vms.await(r.task)
`}},
		},
		{
			name: "a replica is LEGAL before all of it is on stable storage",
			why:  "the source is deleted, the power fails, and a part of the disk is gone",
			file: "vmops/replicate.go", by: verbs,
			edits: []edit{{`			if err := r.vms.volumes.Sync(s, r.replica); err != nil {
				return err
			}
`, ``}},
		},
		{
			name: "a machine that libvirt has left paused is taken for one that has not gone",
			why:  "libvirtd dies at the switch-over, and the machine goes on on both hosts",
			file: "vmops/migrating.go", by: verbs,
			edits: []edit{{`		if state.Phase != virt.Paused || b.Paused && refused`, `		if state.Phase != virt.Paused || !b.Paused || refused`}},
		},
		{
			name: "a machine on the destination that has not come from here is removed",
			why:  "the destination has refused, since it has a machine of that id, and the stop ends that one",
			file: "vmops/arrival.go", by: verbs,
			edits: []edit{{`	case a.Here == machineArrived && !mine:
`, `	case a.Here == machineArrived && !mine && bool(p.Off):
`}, {`	if !bool(p.Sent) && !bool(p.Off) {
`, `	if a := p.Off; bool(a) && !bool(p.Sent) {
`}},
		},
		{
			name: "post-copy is entered before it is recorded",
			why:  "a stop is taken while part of the memory is on each host already",
			file: "vmops/converge.go", by: ends,
			edits: []edit{{`s.Decide(entered{true})`, `s.Checkpoint(entered{true})`}},
		},
		{
			name: "what libvirt has kept of a machine that has gone is left there",
			why:  "the task reads finished, and somebody lets the machine go on here, too",
			file: "vmops/migrating.go", by: ends,
			edits: []edit{{`			return m.vms.hv.Remove(ctx, s, m.vm)
`, `			return nil
`}},
		},
		{
			name: "the destination is not told that the machine stays",
			why:  "the stop reads recovered, and a paused machine waits on the destination for ever",
			file: "vmops/migrating.go", by: verbs,
			edits: []edit{{`		case code.Of(err) == code.MigrationNotActive: // it has nothing of this migration
`, `		case err == nil || code.Of(err) != 0: // it has nothing of this migration
`}},
		},
		{
			name: "that a machine shall leave is recorded after its task is submitted",
			why:  "the agent dies in between, the maintenance is stopped, and the machine leaves all the same",
			file: "vmops/maintaining.go", by: verbs,
			edits: []edit{{`	if !maps.Equal(before, x.Going) {
		if err := s.Checkpoint(x); err != nil {
			return 0, err
		}
	}
`, `	defer func() {
		if err == nil && !maps.Equal(before, x.Going) {
			err = s.Checkpoint(x)
		}
	}()
`}},
		},
		{
			name: "a migration of the maintenance that was stopped is not waited for",
			why:  "the maintenance reads recovered while a machine is still on its way",
			file: "vmops/maintaining.go", by: verbs,
			edits: []edit{{`		case err != nil || t.State.Final():
			return t, err
		}
		s.Note(fmt.Sprintf("waiting for the end of`, `		case err != nil || t.State != "":
			return t, err
		}
		s.Note(fmt.Sprintf("waiting for the end of`}},
		},
		{
			name: "a machine that is resumed from a snapshot works on the volumes of then",
			why:  "the snapshot is overwritten, and the guest finds another disk than the one that was asked for",
			file: "vmops/create.go", by: catcher{pkg: "vmops", run: "^TestResume$"},
			edits: []edit{{`		changed = true
`, `		changed = disk == nil
`}},
		},
	}
}
