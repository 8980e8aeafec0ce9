package main

// workerBugs are in the real copy and in what is done with processes.
func workerBugs() []bug {
	copying := catcher{pkg: "storageops/copy", run: "^TestAFailedSync$"}
	leftovers := catcher{pkg: "internal/proc", run: "^TestReusedPidIsSpared$"}
	return []bug{
		{
			name: "a real copy records a slice that is not synced",
			why:  "the power fails, the copy goes on behind the slice, and the image has a hole",
			file: "storageops/copy/run.go", by: copying,
			edits: []edit{{`	if err := r.keeper.sync(); err != nil {
		return r.lost(err)
	}
	return r.env.Checkpoint(next)
`, `	return r.env.Checkpoint(next)
`}},
		},
		{
			name: "a real copy goes on where a sync has failed",
			why:  "the kernel has dropped the slices since the last sync, and the second sync says yes",
			file: "storageops/copy/run.go", by: copying,
			edits: []edit{{`		return errors.Join(err, r.taint())
`, `		return err
`}},
		},
		{
			name: "a leftover is known by its pid alone",
			why:  "after a crash of the agent the pid is a guest's QEMU, and the start kills it",
			file: "internal/proc/group.go", by: leftovers,
			edits: []edit{{`leader = err == nil && st.start == g.rec.Start
`, `leader = err == nil && st.start > 0
`}},
		},
		{
			name: "a record of an earlier boot is believed",
			why:  "the same after a reboot: pids and start times begin anew",
			file: "internal/proc/leftovers.go", by: leftovers,
			edits: []edit{{`	if g.rec.Boot != m.boot {
`, `	if g.rec.Boot == "" {
`}},
		},
	}
}
