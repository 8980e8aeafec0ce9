package main

// vmBugs are in the verbs of virtual machines.
func vmBugs() []bug {
	verbs := catcher{pkg: "vmops", run: "^TestProve$"}
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
			edits: []edit{{`			if err := h.goOn(ctx, s, f); err != nil {
				return err
			}
			return h.vms.volumes.Replace(s, h.memory`, `			return h.vms.volumes.Replace(s, h.memory`}},
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
			edits: []edit{{`			if has[name] != file {
`, `			if has[name] == "" && file != "" {
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
	}
}
