package main

// serviceBugs are in how the daemon runs as a service.
func serviceBugs() []bug {
	settings, configuration := catcher{pkg: "agent"}, catcher{pkg: "agent/config"}
	return []bug{
		{
			name: "a drain does not wait for submits that are being recorded",
			why:  "the drain says that nothing is under way, the host is taken down, and a task begins",
			file: "tasks/drain.go", by: engine.test("TestDrainMeetsSubmit"),
			edits: []edit{{`	if g.inside == 0 {
		close(g.empty)
		g.empty = nil
	}
	return outside
`, `	close(g.empty)
	g.empty = nil
	return outside
`}},
		},
		{
			name: "a wedged engine feeds the watchdog",
			why:  "the daemon answers nobody for ever, and systemd does not restart it",
			file: "tasks/pulse.go", by: engine.test("TestWedged"),
			edits: []edit{{`		e.mu.Lock()
		e.mu.Unlock() //nolint:staticcheck // that it could be taken is all that counts
`, ``}},
		},
		{
			name: "a wrong file changes what is right in it",
			why:  "half of a configuration is in force, and nobody has written it",
			file: "agent/settings.go", by: settings.test("TestReload"),
			edits: []edit{{`			s.log.Error().Str("problem", strings.TrimSpace(line)).Msg("the configuration is refused; what was in force stays")
		}
		return
`, `			s.log.Error().Str("problem", strings.TrimSpace(line)).Msg("the configuration is refused; what was in force stays")
		}
`}},
		},
		{
			name: "a policy that was read again is not asked",
			why:  "an administrator takes a right away, and it is there until the next restart",
			file: "agent/settings.go", by: settings.test("TestReload"),
			edits: []edit{{`	s.now.Access.Become(next.Access)
	policy := s.now.Access // which the transports ask
`, `	policy := s.now.Access // which the transports ask
`}},
		},
		{
			name: "the file goes before those of conf.d",
			why:  "what an administrator puts into conf.d has no effect",
			file: "agent/config/read.go", by: configuration.test("TestParts"),
			edits: []edit{{`				given[name] = assignment{key.String(), origin}
`, `				if _, there := given[name]; !there {
					given[name] = assignment{key.String(), origin}
				}
`}},
		},
	}
}
