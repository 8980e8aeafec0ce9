package main

// mergeBugs are in the verbs that merge, grow and delete volumes of a chain.
func mergeBugs() []bug {
	verbs := catcher{pkg: "storageops", run: "^TestProve$"}
	return []bug{
		{
			name: "a chain is rebased before its top is ILLEGAL",
			why:  "a stop is taken when a child has left the top already, and what guests read of the two is no more the same",
			file: "storageops/finalizemerge.go", by: verbs.seeded("storageops/finalize a merge/a:stop@9"),
			edits: []edit{{`f.illegalStep(), f.rebaseStep(), f.relinkStep()`, `f.rebaseStep(), f.illegalStep(), f.relinkStep()`}},
		},
		{
			name: "a base is merged into while it is LEGAL",
			why:  "an engine previews a snapshot that is half overwritten",
			file: "storageops/merge.go", by: verbs.seeded("storageops/merge/a:"),
			edits: []edit{{`m.Legality, m.Merging = domain.Illegal, true })`, `m.Merging = true })`}},
		},
		{
			name: "a base that is part merged is LEGAL again",
			why:  "the merge is stopped, and the snapshot that is lost is shown as if it were whole",
			file: "storageops/merge.go", by: verbs.seeded("storageops/merge/a:stop@17"),
			edits: []edit{{`			if s.Started(stepCommit) {
`, `			if s.Started(stepCommit) && s.Started("legal") {
`}},
		},
		{
			name: "an extension that is stopped leaves the metadata as it was",
			why:  "the file is longer than anybody knows of, and what it takes is in no account",
			file: "storageops/grow.go", by: verbs.seeded("storageops/extend raw preallocated/a:stop@11"),
			edits: []edit{{`	if length > p.Length {
`, `	if length > p.To {
`}},
		},
		{
			name: "a merge that was prepared and stopped leaves the base's file long",
			why:  "what the task has changed is not as if it had never been submitted",
			file: "storageops/preparemerge.go", by: verbs.seeded("storageops/prepare a merge into raw/a:stop@10"),
			edits: []edit{{`	if err := g.st.images.Shrink(ctx, s, img, p.Length); err != nil {
`, `	if err := g.st.images.Shrink(ctx, s, img, p.To); err != nil {
`}},
		},
		{
			name: "a parent goes to the trash before its child",
			why:  "who looks meanwhile finds a volume whose chain is broken",
			file: "storageops/deletevolumes.go", by: verbs.byItsPoints(),
			edits: []edit{{`cmp.Or(depth(b)-depth(a), `, `cmp.Or(depth(a)-depth(b), `}},
		},
	}
}
