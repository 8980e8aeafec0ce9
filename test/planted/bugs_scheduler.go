package main

// schedulerBugs are in the table of locks.
func schedulerBugs() []bug {
	locks := engine.test("TestLockTable")
	return []bug{
		{
			name: "an exclusive lock is given while others share it",
			why:  "a volume is deleted while another task copies from its image (G12)",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`	has := q.exclusive == 0 && (!exclusive || len(q.places) == 0)
`, `	has := q.exclusive == 0
`}},
		},
		{
			name: "a lock is shared while one has it for itself",
			why:  "a copy reads an image while another task changes its chain (G12)",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`	has := q.exclusive == 0 && (!exclusive || len(q.places) == 0)
`, `	has := !exclusive || len(q.places) == 0
`}},
		},
		{
			name: "shared locks overtake one that waits for itself",
			why:  "on a template that is always being copied from, a delete never gets its turn",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`	has := q.exclusive == 0 && (!exclusive || len(q.places) == 0)
	q.places = append(q.places, place{c, exclusive})
`, `	has := len(q.places) == 0 || !exclusive && !q.places[0].exclusive
	if at := len(q.places); has {
		q.places = slices.Insert(q.places, min(at, q.open), place{c, exclusive})
	} else {
		q.places = append(q.places, place{c, exclusive})
	}
`}},
		},
		{
			name: "who waits behind a lock that is given back is not told",
			why:  "the next task waits for an image that nobody has",
			file: "tasks/locks.go", by: proof,
			edits: []edit{{`		if f.blocked--; f.blocked == 0 && f.state == claimBlocked {
`, `		if f.blocked--; f.blocked < 0 && f.state == claimBlocked {
`}},
		},
		{
			name: "a stopped task keeps its place in the queue",
			why:  "a task that has ended before it began blocks all that came after it (G12)",
			file: "tasks/stop.go", by: proof,
			edits: []edit{{`	if c != nil {
		t.engine.locks.leave(c)
	}
`, `	if c != nil && c.state == claimGranted {
		t.engine.locks.leave(c)
	}
`}},
		},
		{
			name: "slots are not given back",
			why:  "after two copies no copy ever starts again",
			file: "tasks/locks.go", by: model,
			edits: []edit{{`	lt.dropSlot(c)
	lt.uncount(c)
	c.state = claimLeft
`, `	lt.uncount(c)
	c.state = claimLeft
`}},
		},
		{
			name: "a paused task keeps its slot",
			why:  "with as many paused copies as there are slots no copy starts",
			file: "tasks/pause.go", by: engine.test("TestRestartWithOnePaused"),
			edits: []edit{{`	t.engine.locks.yield(c)
`, ``}},
		},
		{
			name: "slots go to whoever came last",
			why:  "with a steady stream of copies the first one never starts",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`func(a, b *claim) int { return cmp.Compare(a.seq, b.seq) })`, `func(a, b *claim) int { return cmp.Compare(b.seq, a.seq) })`}},
		},
		{
			name: "slots that become free at once go by key",
			why:  "of two copies that waited for one image, the later one starts",
			file: "tasks/locks.go", by: locks.test("TestSlotsGoByArrival"),
			edits: []edit{{`			lt.makeReady(f.claim)
			classes = append(classes, f.class)
`, `			lt.makeReady(f.claim)
			lt.serve(lt.classes[f.class])
`}},
		},
		{
			name: "locks are taken one by one",
			why:  "a task that waits for one image lets another past it at a second: two tasks run at once on both",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`	lt.waiting++
	if c.blocked == 0 {
		lt.makeReady(c)
`, `	lt.waiting++
	if c.blocked < len(c.locks) || c.blocked == 0 {
		lt.makeReady(c)
`}},
		},
		{
			name: "the limit of the queue is not kept",
			why:  "a client that submits in a loop fills the store instead of being refused",
			file: "tasks/locks.go", by: locks,
			edits: []edit{{`	if limit > 0 && lt.waiting+len(lt.seats) >= limit && !lt.free(class, locks) {
`, `	if limit > 0 && lt.waiting+len(lt.seats) > limit && !lt.free(class, locks) {
`}},
		},
	}
}
