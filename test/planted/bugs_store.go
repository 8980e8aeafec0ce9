package main

// storeBugs are in the store that is on disk.
func storeBugs() []bug {
	store := catcher{pkg: "tasks/store"}
	return []bug{
		{
			name: "nothing is synced before the answer",
			why:  "whatever was answered in the seconds before a power cut is gone (G1, G2)",
			file: "tasks/store/sqlite.go", by: store.test("TestPowerCutAtEachOperation"),
			edits: []edit{{`PRAGMA synchronous = FULL;`, `PRAGMA synchronous = OFF;`}},
		},
		{
			name: "the log is synced only when it is moved into the file",
			why:  "the same, with the setting that most take for safe in WAL mode",
			file: "tasks/store/sqlite.go", by: store.test("TestPowerCutAtEachOperation"),
			edits: []edit{{`PRAGMA synchronous = FULL;`, `PRAGMA synchronous = NORMAL;`}},
		},
		{
			name: "a failed sync is answered as a no",
			why:  "the client repeats under another id what is recorded already, and two copies run",
			file: "tasks/store/writer.go", by: store.test("TestGroup"),
			edits: []edit{{`s.path, err, ErrUnknown)`, `s.path, err, ErrUnavailable)`}},
		},
		{
			name: "a failed sync is answered as a yes",
			why:  "the kernel has dropped the pages, and the client believes they are on the disk",
			file: "tasks/store/writer.go", by: store.test("TestGroup"),
			edits: []edit{{`	err := w.commit.Exec()
	if err == nil {
		return nil
	}
`, `	err := w.commit.Exec()
	if err == nil || failedSync(err) != nil {
		return nil
	}
`}},
		},
		{
			name: "the file is trusted after a failed sync",
			why:  "pages that never reached the disk are marked clean: all later answers build on them",
			file: "tasks/store/writer.go", by: store.test("TestGroup"),
			edits: []edit{{`	if lost != nil {
		s.distrust(lost)
	}
`, ``}},
		},
		{
			name: "the log of a process that died is trusted at the start",
			why:  "part of it may be in the page cache only; what is written after it goes with it in a power cut",
			file: "tasks/store/recover.go", by: store.test("TestStartAfterFailedSyncThenPowerCut"),
			edits: []edit{{`		err = s.disk.resync(s.path + "-wal")
`, `		err = nil
`}},
		},
		{
			name: "the log of the old file stays when a new one takes its place",
			why:  "SQLite replays the pages of the old file into the new one",
			file: "tasks/store/recover.go", by: store.test("TestStorageFailsInRecovery"),
			edits: []edit{{`	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
`, `	for _, suffix := range []string{"-journal"} {
`}},
		},
		{
			name: "a change that conflicts leaves half of itself",
			why:  "the record of a task is refused, and its line in the audit trail is written",
			file: "tasks/store/writer.go", by: store.test("TestGroup"),
			edits: []edit{{`	if err != nil && !w.conn.GetAutocommit() {
		if e := w.rollbackTo.Exec(); e != nil {
`, `	if err != nil && w.conn.GetAutocommit() {
		if e := w.rollbackTo.Exec(); e != nil {
`}},
		},
		{
			name: "versions are not compared",
			why:  "two changes of a task at the same moment: the second overwrites the first, a stop for instance",
			file: "tasks/store/writer.go", by: store.test("TestSQLiteConforms"),
			edits: []edit{{`WHERE id = ?1 AND version = ?2 - 1`, `WHERE id = ?1`}},
		},
		{
			name: "a full disk is taken for a broken one",
			why:  "each request on a full disk has the whole store written anew, for which there is no room",
			file: "tasks/store/writer.go", by: store.test("TestFullDiskIsANo"),
			edits: []edit{{`	if err := w.conn.CacheFlush(); err != nil {
`, `	if err := w.conn.CacheFlush(); err != nil && !full(err) {
`}},
		},
	}
}
