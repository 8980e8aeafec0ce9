package main

// runBugs are in how steps are done and undone.
func runBugs() []bug {
	return []bug{
		{
			name: "the plan of a step is recorded after its effect",
			why:  "the agent dies after it made a volume of which its records know nothing: it is never removed",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`	what := fmt.Sprintf("step %s starts", step.Name)
	if step.PointOfNoReturn {
`, `	what := fmt.Sprintf("step %s starts", step.Name)
	if r := t.record().clone(); !step.PointOfNoReturn && r.State == Running {
		r.Steps[i].State, r.Steps[i].Plan = StepStarted, plan
		t.rec.Store(r)
		return nil
	}
	if step.PointOfNoReturn {
`}},
		},
		{
			name: "a step is recorded as done when it starts",
			why:  "after a crash the step is passed over: the copy is finished with a hole in it",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`		r.stepsDone(i, now)
		r.Steps[i].State, r.Steps[i].Plan, r.Steps[i].Started = StepStarted, plan, now
`, `		r.Steps[i].State, r.Steps[i].Plan, r.Steps[i].Started = StepStarted, plan, now
		r.stepsDone(i+1, now)
`}},
		},
		{
			name: "a finish does not look whether a stop came first",
			why:  "the last step ends as the stop arrives; the table of moves refuses, and the task hangs in aborting (G3)",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`		if r.State == Aborting {
			return errStopped
		}
		r.stepsDone(len(r.Steps), time.Now().UTC())
`, `		r.stepsDone(len(r.Steps), time.Now().UTC())
`}},
		},
		{
			name: "a task commits although its stop is recorded",
			why:  "a stop and the point of no return at the same moment: both are acknowledged (G3)",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`		switch {
		case r.State == Aborting:
			return errStopped
		case r.Paused != nil: // while the plan was made
`, `		switch {
		case r.Paused != nil: // while the plan was made
`}},
		},
		{
			name: "an effect past the point of no return comes before its record",
			why:  "the wipe begins, the agent dies, and the stop that comes then is accepted though the data is gone",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`		if step.PointOfNoReturn {
			r.State = Committing
		}
`, ``}},
		},
		{
			name: "a refused commit is taken for done",
			why:  "the lease was lost, nothing was published, and the engine reads success",
			file: "tasks/run.go", by: engine.test("TestEnds"),
			edits: []edit{{`		if step.Refused != nil && step.Refused(failure) {
`, `		if step.Refused != nil && step.Refused(failure) {
			return true, nil
		}
		if step.Refused != nil && step.Refused(failure) {
`}},
		},
		{
			name: "a commit that fails is undone instead of tried again",
			why:  "the stop was refused as too late, so the engine counts on the result; it is taken back (G3)",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`	t.log().Warn().Err(failure).Str("step", step.Name).Msg("a step past the point of no return failed; trying again")
`, `	if ctx.Err() == nil {
		return true, t.persist("the undo begins", func(r *record) error {
			r.State = Recovering
			r.Cause = &cause{causeError, code.Of(failure), failure.Error(), step.Name}
			return nil
		})
	}
`}},
		},
		{
			name: "an error goes before a stop that is recorded",
			why:  "the engine that stopped the task reads an error of the storage, and reports a failure (G14)",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`		if r.State != Running {
			return errStopped // a stop is recorded: it goes before the error (G14)
		}
`, ``}},
		},
		{
			name: "the answer of the program that decides is not recorded",
			why:  "the migration has switched over, the agent dies, and the stop then undoes a guest that runs elsewhere",
			file: "tasks/run.go", by: proof,
			edits: []edit{{`	if step.DecidedBy == "" {
		return nil
	}
	defer t.endBound()
`, `	if step.DecidedBy == "" || i >= 0 {
		return nil
	}
	defer t.endBound()
`}},
		},
		{
			name: "the undo begins with the first step",
			why:  "the image's directory is removed before the volume in it: the undo fails, or takes the volume with it",
			file: "tasks/undo.go", by: proof,
			edits: []edit{{`	for i := len(t.plan().Steps) - 1; i >= 0; i-- {
		if t.record().pending(i)`, `	for i := range t.plan().Steps {
		if t.record().pending(i)`}},
		},
		{
			name: "the progress of an undo is not recorded",
			why:  "an agent that dies again and again begins every undo anew, and may never end it",
			file: "tasks/undo.go", by: proof,
			edits: []edit{{`	return t.persist(what, func(r *record) error {
		r.Steps[i].State, r.Steps[i].Error = StepUndone, ""
`, `	if r := t.record().clone(); failure == nil && remainder == "" {
		r.Steps[i].State = StepUndone
		t.rec.Store(r)
		return nil
	}
	return t.persist(what, func(r *record) error {
		r.Steps[i].State, r.Steps[i].Error = StepUndone, ""
`}},
		},
		{
			name: "the undo ends at the first step that fails",
			why:  "one file that cannot be removed leaves all that came before it too",
			file: "tasks/undo.go", by: proof,
			edits: []edit{{`			if err := t.undoStep(ctx, i); err != nil {
				return err
			}
`, `			if err := t.undoStep(ctx, i); err != nil {
				return err
			}
			if t.record().Steps[i].State == StepUndoFailed {
				break
			}
`}},
		},
		{
			name: "what an undo could not remove is forgotten",
			why:  "the task reads cleanly undone, and a volume is left that nobody will remove (G7)",
			file: "tasks/undo.go", by: proof,
			edits: []edit{{`			r.Residue = append(r.Residue, fmt.Sprintf("%s: %s", step.Name, failure))
`, ``}},
		},
		{
			name: "the trash is emptied though the undo has failed",
			why:  "what the undo could not bring back is unlinked, and the revert that would try again finds nothing",
			file: "tasks/undo.go", by: proof,
			edits: []edit{{`		if r.State == Failed {
			return nil // what could not be put back must not be destroyed
		}
`, ``}},
		},
		{
			name: "the undo begins while the program that decides is at work",
			why:  "libvirt migrates the guest while the agent removes the disks of the destination",
			file: "tasks/undo.go", by: proof.seeded("mock/decided elsewhere alone, cancelled/a:stop@4:late,crash@+1:k1"),
			edits: []edit{{`	if i := t.record().current(); i < len(t.plan().Steps) && t.mustAsk(i) {
`, `	if i := t.record().current(); i < 0 && t.mustAsk(i) {
`}},
		},
	}
}
