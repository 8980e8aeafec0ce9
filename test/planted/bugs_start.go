package main

// startBugs are in what a start does with what it finds.
func startBugs() []bug {
	return []bug{
		{
			name: "a stopped task goes on after a restart",
			why:  "the agent is updated while a stop is under way, and the copy goes on (G2)",
			file: "tasks/start.go", by: proof,
			edits: []edit{{`	r.Tag, r.Who = e.interned(r.Tag), e.interned(r.Who)
`, `	if r.State == Aborting {
		r.State = Running
	}
	r.Tag, r.Who = e.interned(r.Tag), e.interned(r.Who)
`}},
		},
		{
			name: "a restart undoes what was running",
			why:  "each update of the agent cancels all work of the host (G13)",
			file: "tasks/start.go", by: proof,
			edits: []edit{{`	r.Tag, r.Who = e.interned(r.Tag), e.interned(r.Who)
`, `	if r.State == Running {
		r.State = Recovering
	}
	r.Tag, r.Who = e.interned(r.Tag), e.interned(r.Who)
`}},
		},
		{
			name: "the order of the queue is lost in a restart",
			why:  "a delete that was submitted after a copy of the same image runs before it",
			file: "tasks/start.go", by: engine.test("TestRestartKeepsTheQueue"),
			edits: []edit{{`	for _, t := range live {
		t.enter(nil)`, `	for _, t := range slices.Backward(live) {
		t.enter(nil)`}},
		},
		{
			name: "a record that cannot be read prevents the start",
			why:  "one damaged page, and no task of the host can be stopped any more",
			file: "tasks/start.go", by: engine.test("TestDamagedRecord"),
			edits: []edit{{`			} else if err := e.setAside(b.rows[i].ID, b.reasons[i]); err != nil {
				return nil, err
			}
`, `			} else {
				return nil, b.reasons[i]
			}
`}},
		},
		{
			name: "a task does not wait for what the former run left",
			why:  "a qemu-img that could not be killed yet and a new one write to the same volume",
			file: "tasks/start.go", by: engine.test("TestLeftover"),
			edits: []edit{{`			t.attach(w)
`, `			_ = w
`}},
		},
		{
			name: "what is put off runs only after a restart",
			why:  "the trash of a cleared task is not emptied until the agent is restarted",
			file: "tasks/task.go", by: proof,
			edits: []edit{{`	if id := r.Deferred; id != deferred && t.engine.adopt(id) != nil {`, `	if id := r.Deferred; id != deferred && id == "" {`}},
		},
	}
}
