package main

// workerBugs are in the real copy and in what is done with processes.
func workerBugs() []bug {
	copying := catcher{pkg: "storageops/copy", run: "^TestAFailedSync$"}
	leftovers := catcher{pkg: "internal/proc", run: "^TestReusedPidIsSpared$"}
	leases := catcher{pkg: "storageops/lease", run: "^(TestAWorkerKeepsIt|TestOneHolder|TestReleaseWhileProcessesStart)$"}
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
			name: "a worker does not get its task's lease",
			why:  "the agent is killed, its qemu-img hangs in the kernel and writes on later, into a volume that another host has been given",
			file: "storageops/images.go", by: catcher{pkg: "storageops", run: "^TestOrphanKeepsTheLease$"},
			edits: []edit{{`slices.Concat(spec.Files, leases)
`, `slices.Clone(spec.Files)
`}},
		},
		{
			name: "a lease is unlocked before its worker is gone",
			why:  "the same when the task ends by itself: unlocking takes the lock from everybody who has it",
			file: "storageops/lease/lease.go", by: leases,
			edits: []edit{{`func give(f *os.File) {
`, `func give(f *os.File) {
	_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
`}},
		},
		{
			name: "a lease's file is removed though a worker has it",
			why:  "the next one makes a new file and locks that: two write one volume",
			file: "storageops/lease/lease.go", by: leases,
			edits: []edit{{`	if lock(f) != nil {
		return nil
	}
	if named`, `	_ = lock(f)
	if named`}},
		},
		{
			name: "a lease is taken on a file that was removed",
			why:  "the same, by one who opened the old file a moment before",
			file: "storageops/lease/lease.go", by: leases,
			edits: []edit{{`	return os.SameFile(held, now), nil
`, `	return held != nil && now != nil, nil
`}},
		},
		{
			name: "a lease that is given up is held by a process that was just being started",
			why:  "the next task of the volume is told that somebody writes it, and fails",
			file: "storageops/lease/lease.go", by: leases,
			edits: []edit{{`	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
`, `	defer syscall.Getpid()
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
