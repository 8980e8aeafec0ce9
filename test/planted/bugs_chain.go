package main

// chainBugs are in the verbs on whole chains.
func chainBugs() []bug {
	verbs := catcher{pkg: "storageops", run: "^TestProve$"}
	return []bug{
		{
			name: "a chain is LEGAL before its data is there",
			why:  "the agent dies in the copy; an engine that looks finds a LEGAL image in both domains, one of them half empty",
			file: "storageops/moveimage.go", by: verbs.seeded("storageops/copy an image/a:restart@50"),
			edits: []edit{{`c.metadataStep(domain.Illegal)`, `c.metadataStep(domain.Legal)`}},
		},
		{
			name: "the next volume goes on from the checkpoint of the one before it",
			why:  "after a restart volumes count as copied that are empty",
			file: "storageops/parts.go", by: verbs.seeded("storageops/copy an image/a:restart@54"),
			edits: []edit{{`		if i > last.Item {
			last.State = nil
		}
`, ``}},
		},
		{
			name: "an overlay of a chain is copied with what is below it",
			why:  "every layer of a moved chain holds all of the layers below: its snapshots cannot be told apart by what they hold",
			file: "storageops/source.go", by: verbs.test("TestMovedChain"),
			edits: []edit{{`	spec.Dest.Backing, err = layersOf(d, t.Image, chain)
`, `	_, err = layersOf(d, t.Image, chain)
`}},
		},
		{
			name: "bitmaps stay behind",
			why:  "the next backup of a moved disk is a full one",
			file: "storageops/chain.go", by: verbs.test("TestMovedChain"),
			edits: []edit{{`bitmaps: true`, `bitmaps: false`}},
		},
		{
			name: "a move forgets what it has replaced",
			why:  "the image that was in the place stays in the trash for ever",
			file: "storageops/moveimage.go", by: verbs.seeded("storageops/move over an old image/a:restart@30"),
			edits: []edit{{`		return reclaimTask("", c.task, c.postZero)
`, `		return reclaimTask(c.source, c.task, c.postZero)
`}},
		},
		{
			name: "a stopped sync makes the destination LEGAL again",
			why:  "what VDSM does: a guest is started on a disk that is half old and half new",
			file: "storageops/syncdata.go", by: verbs.seeded("storageops/sync a chain/a:stop@25"),
			edits: []edit{{`			if s.Started(stepCopy) {
				return nil
			}
`, ``}},
		},
		{
			name: "a sync does not see that it was fenced",
			why:  "a task that another host has taken over publishes what it has copied",
			file: "storageops/chain.go", by: verbs.test("TestSyncIsFenced"),
			edits: []edit{{`	if m.Generation != want {
`, `	if m.Generation < want {
`}},
		},
		{
			name: "a revert does not see that a moved chain was used",
			why:  "a guest has written to the disk where it is now; the revert brings back the old one",
			file: "storageops/chain.go", by: verbs.test("TestMovedChain"),
			edits: []edit{{`what := then.Volumes[l.Volume].Differs(now); what != ""`, `what := then.Volumes[l.Volume].Differs(now); what == "-"`}},
		},
	}
}
