package main

// verbBugs are in the mock verb, in the storage verbs and in what they stand on.
func verbBugs() []bug {
	verbs := catcher{pkg: "storageops", run: "^TestProve$"}
	domain := catcher{pkg: "storageops/domain", run: "^TestDyingAnywhere$"}
	repairs := catcher{pkg: "storageops"}
	return []bug{
		{
			name: "a checkpoint comes before its data is synced",
			why:  "the power fails, the copy goes on from its checkpoint, and the slice before it is zeros",
			file: "tasks/tasktest/mock/step.go", by: proof,
			edits: []edit{{`		w.sync(part)
`, ``}},
		},
		{
			name: "an effect is not synced before the step is done",
			why:  "the task reads finished, the power fails, and the volume has no directory entry",
			file: "tasks/tasktest/mock/step.go", by: proof,
			edits: []edit{{`	w.sync(there)
	return nil
`, `	return nil
`}},
		},
		{
			name: "an undo is not synced",
			why:  "the task reads undone, the power fails, and what was removed is back",
			file: "tasks/tasktest/mock/step.go", by: proof,
			edits: []edit{{`	w.sync(names...)
	w.forgetJob(effect)
`, `	w.forgetJob(effect)
`}},
		},
		{
			name: "Check says yes when the effect is seen, not when it is safe",
			why:  "the rename is in the page cache only; the step is passed over, and a power cut takes it back",
			file: "tasks/tasktest/mock/step.go", by: proof,
			edits: []edit{{`m.k.FailAt == 0 && m.world.synced(there), nil
`, `m.k.FailAt == 0 && m.world.has(there), nil
`}},
		},
		{
			name: "an undo trusts that its step was begun to the end",
			why:  "a crash between the record and the effect: the undo fails on a file that was never made",
			file: "storageops/target.go", by: verbs,
			edits: []edit{{`			if absent(err) {
				return nil // the file was not made yet
			}
			return err
`, `			return err
`}},
		},
		{
			name: "an undo removes what was there before",
			why:  "a failed create takes the directory of an image with it that it found, and all its volumes",
			file: "storageops/target.go", by: verbs,
			edits: []edit{{`		if err := s.Plan(&p); err != nil || p.Existed {
`, `		if err := s.Plan(&p); err != nil {
`}},
		},
		{
			name: "an undo leaves the parent as it is",
			why:  "the parent of a volume that is gone stays INTERNAL: no guest can write to it any more",
			file: "storageops/target.go", by: verbs,
			edits: []edit{{`func(p parentWas) string { return p.VolType })
`, `func(p parentWas) string { return domain.Internal })
`}},
		},
		{
			name: "a replaced volume does not come back",
			why:  "a copy over an old volume is stopped, and both are gone",
			file: "storageops/copyvolume.go", by: verbs,
			edits: []edit{{`return i.Label == labelReplaced })`, `return i.Label == labelMade })`}},
		},
		{
			name: "a volume is LEGAL before its data is there",
			why:  "an engine that looks, or finds it after a power cut, starts a guest on half a disk",
			file: "storageops/copyvolume.go", by: verbs,
			edits: []edit{{`t.metadataStep(domain.Illegal)`, `t.metadataStep(domain.Legal)`}},
		},
		{
			name: "a copy is made LEGAL before its data",
			why:  "the same, by steps in the wrong order",
			file: "storageops/copyvolume.go", by: verbs,
			edits: []edit{{`t.dataStep(), t.parentStep(), t.legalStep(string(p.VolType))`, `t.legalStep(string(p.VolType)), t.parentStep(), t.dataStep()`}},
		},
		{
			name: "a reverted task empties its trash at once",
			why:  "what was made is unlinked before anybody has accepted the revert",
			file: "storageops/target.go", by: verbs.byItsPoints(),
			edits: []edit{{`!checked || end == tasks.EndReverted {`, `!checked {`}},
		},
		{
			name: "the trash of a stopped copy is never emptied",
			why:  "each cancelled copy takes its room for good",
			file: "storageops/target.go", by: verbs,
			edits: []edit{{`	if started = s.Started(stepFile); end == tasks.EndCleared {
`, `	if end == tasks.EndCleared {
`}},
		},
		{
			name: "a copy writes without its lease",
			why:  "another agent, or an orphan of this one, writes the same volume at the same time",
			file: "storageops/source.go", by: verbs.seeded("storageops/copy a chain to raw/a:restart@29"),
			edits: []edit{{`		Do: t.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			var last`, `		Do: (func(ctx context.Context, s *tasks.Scope) error {
			m, err := t.made(s)
			if err != nil {
				return err
			}
			var last`}},
		},
		{
			name: "a delete moves nothing back",
			why:  "a stop of a delete loses the volume",
			file: "storageops/delete.go", by: verbs,
			edits: []edit{{`			return d.Trash().Restore(x.task, nil)
`, `			_ = d
			return nil
`}},
		},
		{
			name: "a wipe begins before its point of no return",
			why:  "a stop puts back a volume whose data is half zeros",
			file: "storageops/delete.go", by: verbs,
			edits: []edit{{`		Name: "wipe", PointOfNoReturn: true, Slices: true,
`, `		Name: "wipe", Slices: true,
`}},
		},
		{
			name: "a wiped volume can be reverted",
			why:  "the engine gets its volume back, full of zeros",
			file: "storageops/delete.go", by: verbs,
			edits: []edit{{`	if x.wipe {
		return code.Errorf(code.NotRevertible,`, `	if x.wipe && x.volumes == nil {
		return code.Errorf(code.NotRevertible,`}},
		},
		{
			name: "a revert of a repair writes over what was changed since",
			why:  "a volume's new generation is lost, and a storage job that was counted out writes to it after all",
			file: "storageops/repair.go", by: repairs.test("TestRepairIsNotTakenBackOverChanges"),
			edits: []edit{{`		if err != nil || !bytes.Equal(text, r.After) {
`, `		if err != nil || bytes.Equal(text, nil) {
`}},
		},
		{
			name: "a repair believes what it is told to repair",
			why:  "the domain was put right since it was checked, and a whole volume goes to the trash",
			file: "storageops/repair.go", by: repairs.test("TestRepairRefusals"),
			edits: []edit{{`		case f == nil:
			return p, code.Errorf(code.TaskState, "%s is not found (any more); check the domain again", want)
`, `		case f == nil:
			p.Trash = append(p.Trash, domain.Entry{Task: x.task, Label: want.Path, Path: want.Path})
			continue
`}},
		},
		{
			name: "what a task of VDSM has finished counts as never completed",
			why:  "a disk that VDSM has made and is being deleted goes to the trash with the task that made it, as unfinished",
			file: "storageops/vdsmtasks/task.go", by: catcher{pkg: "storageops/vdsmtasks"}.test("TestMade"),
			edits: []edit{{`	if t.Success() {
		return nil
	}
	var out []Place
`, `	var out []Place
`}},
		},
		{
			name: "files move to the trash before its manifest",
			why:  "the agent dies in between, and nothing says where the files of a vanished volume belong",
			file: "storageops/domain/trash.go", by: domain,
			edits: []edit{{`	if err := tr.write(m); err != nil {
		return err
	}
	return tr.move(m, it)
`, `	if err := tr.move(m, it); err != nil {
		return err
	}
	return tr.write(m)
`}},
		},
		{
			name: "the directory that a file left is not synced",
			why:  "after a power cut the volume is in its image and in the trash",
			file: "storageops/domain/trash.go", by: domain,
			edits: []edit{{`	} else if there {
		if err := t.sync(from); err != nil {
`, `	} else if there && from == "" {
		if err := t.sync(from); err != nil {
`}},
		},
	}
}
