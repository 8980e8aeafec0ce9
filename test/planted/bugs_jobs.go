package main

// jobBugs are in the storage jobs.
func jobBugs() []bug {
	outside := catcher{pkg: "storageops", run: "^TestExternalRefusals$"}
	sparsifying := catcher{pkg: "storageops/copy", run: "^TestSparsify$"}
	verbs := catcher{pkg: "storageops", run: "^TestProve$"}
	jobs := catcher{pkg: "storageops", run: "^TestFenced$"}
	return []bug{
		{
			name: "a job does not ask for its generation",
			why:  "a job that its engine has given up and fenced begins after all",
			file: "storageops/job.go", by: jobs.test("TestJobRefusals"),
			edits: []edit{{`	if err == nil && j.wanted != nil && m.Generation != int(*j.wanted) {
`, `	if err == nil && j.wanted != nil && m.Generation < 0 {
`}},
		},
		{
			name: "a job's last write does not look at the generation",
			why:  "a job that was fenced while it ran publishes its volume, and what the other has done is lost",
			file: "storageops/job.go", by: jobs,
			edits: []edit{{`					if m.Generation != p.Next { // else it was written already, and is written again
						if err := j.mine(p, *m); err != nil {
							return err
						}
					}
`, ``}},
		},
		{
			name: "a template's links are not looked at when its metadata was written",
			why:  "the agent dies between the metadata and its links: the images derived from the template keep the old one for ever",
			file: "storageops/job.go", by: verbs,
			edits: []edit{{` && m.VolType != domain.Shared, err
`, `, err
`}},
		},
		{
			name: "a command of a job does not look at the generation",
			why:  "a job that was fenced changes the file of a volume that is somebody else's",
			file: "storageops/volumecommand.go", by: jobs,
			edits: []edit{{`				if err := c.still(p.jobPlan); err != nil {
					return err
				}
`, ``}},
		},
		{
			name: "an overlay is amended without the layers below it",
			why:  "zeros that a guest wrote over older data are dropped, and it reads that data again",
			file: "storageops/qemuimg/amend.go", by: catcher{pkg: "storageops/qemuimg", run: "^TestAmendKeepsWhatAGuestReads$"},
			edits: []edit{{`img.Node().Argument()`, `img.Alone().Node().Argument()`}},
		},
		{
			name: "a job's copy does not look at the generation between its slices",
			why:  "a copy that was fenced goes on writing into a volume that is somebody else's",
			file: "storageops/job.go", by: jobs.test("TestFencedBetweenSlices"),
			edits: []edit{{`	if err := f.still(); err != nil {
		return err
	}
	return f.work.Checkpoint(state)
`, `	return f.work.Checkpoint(state)
`}},
		},
		{
			name: "a copy is made LEGAL by a write of its own, before its generation",
			why:  "a host that dies in between leaves a volume that is whole, and an engine that waits for its generation",
			file: "storageops/copydata.go", by: verbs.byItsPoints(),
			edits: []edit{{`	return x.lastWrite("publish", func(_ *tasks.Scope, m *domain.VolumeMeta) error {
		m.Legality = domain.Legal
`, `	return x.lastWrite("publish", func(_ *tasks.Scope, m *domain.VolumeMeta) error {
		if d, err := x.domain(); err == nil && m.Legality != domain.Legal {
			m.Legality = domain.Legal
			was := *m
			was.Generation--
			return d.WriteVolumeMeta(x.Image, x.Volume, was)
		}
`}},
		},
		{
			name: "a job's copy leaves the bitmaps behind",
			why:  "the next backup of the copied disk is a full one, though the engine has asked for its bitmaps",
			file: "storageops/copydata.go", by: verbs.byItsPoints(),
			edits: []edit{{`bitmaps: bool(x.Bitmaps), old: true,`, `old: true,`}},
		},
		{
			name: "a sparsification frees what comes behind a run of zeros too",
			why:  "a guest's data is gone, block by block, and no check of any image can see it",
			file: "storageops/copy/sparsify.go", by: sparsifying,
			edits: []edit{{`f.free(zeros, at)`, `f.free(zeros, at+n)`}},
		},
		{
			name: "a sparsification takes what another layer holds for the volume's own",
			why:  "each sparsified overlay is filled with tables of zeros that it has never held, and hides what is merged into its base",
			file: "storageops/copy/sparsify.go", by: sparsifying,
			edits: []edit{{`	if !e.Own {
`, `	if !e.Own && e.Zero {
`}},
		},
		{
			name: "a sparsification writes without the volume's lease",
			why:  "another host that was given the volume is written over by the one that had it",
			file: "storageops/sparsify.go", by: verbs.seeded("storageops/sparsify an overlay/a:"),
			edits: []edit{{`			return x.leased(ctx, s, func(d storageDomain) error {
`, `			return func(do func(d storageDomain) error) error {
				d, err := x.domain()
				if err != nil {
					return err
				}
				return do(d)
			}(func(d storageDomain) error {
`}},
		},
		{
			name: "an external endpoint may be a symbolic link",
			why:  "whoever may write a directory of images has the agent write any file of the host",
			file: "storageops/external.go", by: outside,
			edits: []edit{{`os.Lstat(path)`, `os.Stat(path)`}},
		},
		{
			name: "the header of an external image is believed",
			why:  "an uploaded image names a file of the host as its backing file, and its owner reads that file",
			file: "storageops/outwardcopy.go", by: outside,
			edits: []edit{{`st.images.Verify(ctx, s, img, qemuimg.Expect{})`, `st.images.Info(ctx, s, img)`}},
		},
	}
}
