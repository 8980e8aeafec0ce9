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
		return false, nil
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
	}
}
