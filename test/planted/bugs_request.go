package main

// requestBugs are in what clients ask for and are told.
func requestBugs() []bug {
	return []bug{
		{
			name: "a stop is answered before it is recorded",
			why:  "the host loses its power right after the answer, and the copy goes on when it is back (G2)",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`	err := t.change(who, what, mutate, also...)
	if unknown(err) {
`, `	var err error
	t.engine.spawn(func() { _ = t.change(who, what, mutate, also...) })
	if unknown(err) {
`}},
		},
		{
			name: "a stop past the point of no return is answered true",
			why:  "the engine cleans up after a task that completes all the same (G3)",
			file: "tasks/request.go", by: proof,
			edits: []edit{{`		case r.State == Committing:
			return code.Errorf(code.TaskState, "too late`, `		case r.State == Committing && t.verb != nil:
			again = true
			return errStopped
		case r.State == Committing:
			return code.Errorf(code.TaskState, "too late`}},
		},
		{
			name: "a stop past the point of no return stops",
			why:  "the wipe has begun, is broken off, and a half wiped volume is put back in its place",
			file: "tasks/request.go", by: proof,
			edits: []edit{{`		case r.State == Queued && r.Revert == nil, r.State == Running:
`, `		case r.State == Committing:
			r.Cause = &cause{causeStop, code.TaskAborted, t.stoppedMessage(r, o.Who), r.currentName()}
			r.Stop = &request{At: time.Now().UTC(), Who: o.Who, Force: o.Force}
			r.State = Recovering
			return nil
		case r.State == Queued && r.Revert == nil, r.State == Running:
`}},
		},
		{
			name: "a repeated stop is an error",
			why:  "an engine that lost the first answer takes the second for a failed cancel (G9)",
			file: "tasks/request.go", by: proof,
			edits: []edit{{`	if again {
		err = nil
	}
`, `	_ = again
`}},
		},
		{
			name: "a revert does not ask whether the result is used",
			why:  "a volume that a guest writes to is moved to the trash (G8)",
			file: "tasks/request.go", by: model,
			edits: []edit{{`	return t.call(func() error { return r.plan.Unused(ctx, &Scope{t: t, step: -1, rec: r}, r.Finger) })
`, `	return nil
`}},
		},
		{
			name: "a revert takes no locks",
			why:  "the volume is moved to the trash while another task copies from it (G12)",
			file: "tasks/request.go", by: proof,
			edits: []edit{{`e.locks.try(id, t.verb.Class, r.plan.Locks)`, `e.locks.try(id, t.verb.Class, nil)`}},
		},
		{
			name: "a clear forgets what the task put off",
			why:  "the trash of every deleted volume stays until the domain is full",
			file: "tasks/request.go", by: proof,
			edits: []edit{{`err := t.deferred(r, c, EndCleared)
`, `var err error
`}},
		},
		{
			name: "a clear keeps secrets",
			why:  "whoever reads the history a month later has the password",
			file: "tasks/request.go", by: engine.test("TestHistoryHasNoSecrets"),
			edits: []edit{{`r.Params = param.Shown(r.Params)
`, `_ = param.Shown
`}},
		},
		{
			name: "a clear records its reclaim by itself, first",
			why:  "the power fails between the two: the task reads finished and revertible, and its trash is gone",
			file: "tasks/engine.go", by: proof,
			edits: []edit{{`	c.Put = append(c.Put, row)
	c.Log = append(c.Log, store.Entry{Task: next.ID,`, `	if err := e.store.Commit(store.Change{Put: []store.Record{row}}); err != nil {
		return storeError(err)
	}
	c.Log = append(c.Log, store.Entry{Task: next.ID,`}},
		},
		{
			name: "a submit with a known id makes another task",
			why:  "an engine that lost the answer and asks again copies twice, or is refused by its own copy (G9)",
			file: "tasks/engine.go", by: proof,
			edits: []edit{{`		if known, err := e.known(s); known || err != nil {
`, `		if _, err := e.known(s); err != nil {
`}},
		},
		{
			name: "the id of a cleared task is answered as if it were there",
			why:  "the engine believes that its new work is accepted, and nothing runs",
			file: "tasks/engine.go", by: proof,
			edits: []edit{{`			return false, code.Errorf(code.AddTask, "task %s was cleared and`, `			return true, nil
			return false, code.Errorf(code.AddTask, "task %s was cleared and`}},
		},
		{
			name: "a submit of unknown fate is forgotten",
			why:  "the task is on the disk and nobody runs it until the agent is restarted",
			file: "tasks/engine.go", by: engine.test("TestSubmitOfUnknownFate"),
			edits: []edit{{`			e.spawn(func() { e.adoptLater(s.ID) })
`, ``}},
		},
		{
			name: "a fence is only in memory",
			why:  "the engine cancels an action, the agent is restarted, and the next command of the action is taken",
			file: "tasks/flow.go", by: engine.test("TestFlow"),
			edits: []edit{{`	if err := s.Commit(store.Change{Fence: []store.Fence{fence}}); err != nil {
`, `	if err := s.Commit(store.Change{}); err != nil {
`}},
		},
		{
			name: "a fence comes after the stops",
			why:  "the action's next command arrives in between and runs, though the action is cancelled",
			file: "tasks/flow.go", by: engine.test("TestFlowRaces"),
			edits: []edit{{`	outside, err := e.flows.raise(e.store, fence)
`, `	list := e.List(Filter{Flow: flow})
	outside, err := e.flows.raise(e.store, fence)
`}, {`	list := e.List(Filter{Flow: flow})
	slices.Reverse`, `	slices.Reverse`}},
		},
		{
			name: "a cancelled flow stops what works first",
			why:  "what waited for its locks begins, and has to be undone",
			file: "tasks/flow.go", by: engine.test("TestCancelStopsThoseThatWaitFirst"),
			edits: []edit{{`	case s.State == Queued:
		return 0
`, `	case s.State == Queued:
		return 1
`}, {`	case !s.State.Final():
		return 1
`, `	case !s.State.Final():
		return 0
`}},
		},
		{
			name: "a fence is looked at outside of the flow",
			why:  "a submit looks, the cancel puts the fence up and stops what it sees, and the submit is recorded: forgotten",
			file: "tasks/flow.go", by: engine.test("TestFlowRaces"),
			edits: []edit{{`	f.inside[flow]++
	return func() { f.leave(flow) }, nil
`, `	return func() {}, nil
`}},
		},
		{
			name: "a fence is up only when it is recorded",
			why:  "a submit that comes while the disk is slow is neither refused nor stopped",
			file: "tasks/flow.go", by: engine.test("TestFlowRaces"),
			edits: []edit{{`	before, outside := f.put(fence)
	if err := s.Commit(store.Change{Fence: []store.Fence{fence}}); err != nil {
		if !errors.Is(err, store.ErrUnknown) {
			f.set(fence.Flow, before)
		}
		return nil, err
	}
`, `	before, outside := f.put(fence)
	f.set(fence.Flow, before)
	if err := s.Commit(store.Change{Fence: []store.Fence{fence}}); err != nil {
		if errors.Is(err, store.ErrUnknown) {
			f.set(fence.Flow, &fence)
		}
		return nil, err
	}
	f.set(fence.Flow, &fence)
`}},
		},
		{
			name: "a fence keeps clean-up out too",
			why:  "the engine cancels an action and cannot remove what it had made: it cleans up under the same flow",
			file: "tasks/flow.go", by: engine.test("TestFlow"),
			edits: []edit{{`ok && forward && time.Now()`, `ok && time.Now()`}},
		},
		{
			name: "a fence never ends",
			why:  "users choose correlation ids and use them again: the second action of a name is refused for ever",
			file: "tasks/flow.go", by: engine.test("TestFencesComeDown"),
			edits: []edit{{`now.Add(e.tuning.Load().FenceFor)`, `now.Add(1000 * e.tuning.Load().FenceFor)`}},
		},
	}
}
