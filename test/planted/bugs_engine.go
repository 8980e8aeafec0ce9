package main

// The catchers of the engine.
var (
	proof  = catcher{pkg: "tasks/tasktest/prove", run: "^TestProveMock$"}
	engine = catcher{pkg: "tasks", args: []string{"-rapid.shrinktime=0s", "-rapid.nofailfile"}}
	model  = engine.test("TestModel")
	linear = engine.test("TestLinearizable")
)

// engineBugs are in how a record changes, and in how workers end.
func engineBugs() []bug {
	return []bug{
		{
			name: "a change is shown before it is recorded",
			why:  "an engine sees a task finished or stopped, the power fails, and the task is neither",
			file: "tasks/task.go", by: linear,
			edits: []edit{{`	if err := t.engine.store.Commit(c); err != nil {
		if unknown(err) {
			t.doubt = after
		}
		return storeError(err)
	}
	after.version = row.Version
	t.publish(before.Deferred, after)
	return nil
`, `	after.version = row.Version
	t.publish(before.Deferred, after)
	if err := t.engine.store.Commit(c); err != nil {
		if unknown(err) {
			t.doubt = after
		}
		return storeError(err)
	}
	return nil
`}},
		},
		{
			name: "a request that the store refused is answered true",
			why:  "with a full disk every stop is acknowledged and none is recorded",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`	if err := t.engine.store.Commit(c); err != nil {
`, `	if err := t.engine.store.Commit(c); unknown(err) {
`}},
		},
		{
			name: "a change whose fate is unknown is taken for lost",
			why:  "a stop that the store has after all is forgotten, and the task can never be changed again: its version is not the stored one",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`			t.doubt = after
`, `			t.doubt = nil
`}},
		},
		{
			name: "the agent's own changes are tried once",
			why:  "a disk that is full for a second leaves tasks hanging until the agent is restarted",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`		if err = ask(); code.Of(err) != code.TaskPersist {
`, `		if err = ask(); code.Of(err) != code.TaskPersist || !unknown(err) {
`}},
		},
		{
			name: "a stop does not reach the step that runs",
			why:  "a copy of two hours goes on for two hours after its stop",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`	case r.State == Aborting && r.Stop != nil:
		t.interrupt(errStopped)
`, ``}},
		},
		{
			name: "locks are given back when the stop is recorded",
			why:  "another task writes the image while the stopped one is still being undone in it",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`	before, paused := t.state(), t.isPaused()
	if r.State.Final() {
`, `	before, paused := t.state(), t.isPaused()
	if r.State.Final() || r.State == Aborting {
`}},
		},
		{
			name: "a task becomes final before its worker is gone",
			why:  "qemu-img writes into a volume that the engine was told is undone, and that is another's by then",
			file: "tasks/stop.go", by: proof,
			edits: []edit{{`	workers := slices.Clone(t.workers)
	t.mu.Unlock()
	for _, w := range workers {
		select {
		case <-w.Gone():
			continue
`, `	workers := t.workers[:0]
	t.mu.Unlock()
	for _, w := range workers {
		select {
		case <-w.Gone():
			continue
`}},
		},
		{
			name: "workers are never sent SIGKILL",
			why:  "a qemu-img that does not listen to SIGTERM keeps its task aborting for ever",
			file: "tasks/stop.go", by: proof,
			edits: []edit{{`	w.Kill()
}

func (t *task) isForced() bool {`, `}

func (t *task) isForced() bool {`}},
		},
		{
			name: "a worker that is attached after the stop is not ended",
			why:  "the stop comes while qemu-img is being started, and the copy runs to its end",
			file: "tasks/stop.go", by: proof,
			edits: []edit{{`	if interrupted {
		t.engine.spawn`, `	if interrupted && t.engine.ctx.Err() != nil {
		t.engine.spawn`}},
		},
		{
			name: "a forced stop is as patient as any",
			why:  "Task.stop with force waits for the grace of SIGTERM: nothing is left to end a process that swallows it",
			file: "tasks/stop.go", by: engine.test("TestForce"),
			edits: []edit{{`	for _, w := range workers {
		w.Kill()
	}
}

// attach keeps`, `	_ = workers
}

// attach keeps`}, {`	return t.forced
`, `	return false
`}},
		},
		{
			name: "a stuck task is not shown as stuck",
			why:  "nobody learns that a process hangs in the kernel: the task just never ends",
			file: "tasks/stop.go", by: engine.test("TestStuck"),
			edits: []edit{{`		t.stick("")
`, ``}},
		},
		{
			name: "a final state can be left",
			why:  "a task that the engine has read as undone changes again though nobody asked (G10)",
			file: "tasks/state.go", by: engine.test("TestTransitionsAreKept"),
			edits: []edit{{`	{Recovered, Cleared, "clear"},
`, `	{Recovered, Cleared, "clear"},
	{Recovered, Running, "resumed"},
`}},
		},
	}
}
