package main

// jobBugs are in the storage jobs.
func jobBugs() []bug {
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
	}
}
