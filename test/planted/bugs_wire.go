package main

// wireBugs are in what travels: engines that meet one of these throw, wait for seconds, or hear nothing any more.
func wireBugs() []bug {
	frames := catcher{pkg: "rpc/stomp"}
	secure := catcher{pkg: "rpc/remote"}
	requests := catcher{pkg: "rpc"}
	return []bug{
		{
			name: "a frame is written in two pieces",
			why:  "the engine's client meets headers without a byte of the body, throws, and drops the connection",
			file: "rpc/stomp/wire.go", by: frames.test("TestMessages"),
			edits: []edit{{`	err := stream.Write(w.conn, *buf)
`, `	err := stream.Write(w.conn, (*buf)[:len(*buf)-size(body)-1])
	if err == nil {
		err = stream.Write(w.conn, (*buf)[len(*buf)-size(body)-1:])
	}
`}},
		},
		{
			name: "the engine's client gets small frames without a pause",
			why:  "two of them come in one read, the second is stuck, and from then on every answer is one late",
			file: "rpc/stomp/java.go", by: secure.test("TestJavaIsServed"),
			edits: []edit{{`missing := LeastBody - size(body)`, `missing := -size(body)`}, {`<-time.After(max(Collect, Pause-since))`, `_ = since`},
				{`w.paced.Load() && left > 0`, `w.paced.Load() && left > Pause`}},
		},
		{
			name: "events are sent as soon as somebody subscribes",
			why:  "a large one comes with CONNECTED in one read, and the engine's client drops the connection",
			file: "rpc/stomp/session.go", by: frames.test("TestEventsAreHeldBack"),
			edits: []edit{{`wanted := s.settled && `, `wanted := `}},
		},
		{
			name: "an idle connection gets heart-beats only",
			why:  "after four hours the buffer of the engine's client is full of line feeds, and it is deaf for good",
			file: "rpc/stomp/java.go", by: frames.test("TestJavaStaysAwake"),
			edits: []edit{{`beatsToFrame = 900`, `beatsToFrame = 1 << 30`}},
		},
		{
			name: "connections end in order",
			why:  "the engine's client does not notice: its calls hang until its heart-beat is missing, and it spins a processor",
			file: "rpc/stomp/wire.go", by: secure.test("TestShutdownResets"),
			edits: []edit{{`		_ = socket.SetLinger(0) // if it is closed already, it needs no reset
`, ``}},
		},
		{
			name: "TLS begins with small records",
			why:  "the engine's client unwraps one each second: an answer of 15 KB takes three",
			file: "rpc/certs/certs.go", by: secure.test("TestOneRecord"),
			edits: []edit{{`DynamicRecordSizingDisabled: true,`, `DynamicRecordSizingDisabled: false,`}},
		},
		{
			name: "a role is not looked at",
			why:  "a monitor that may look stops tasks",
			file: "rpc/connection.go", by: requests.test("TestRoles"),
			edits: []edit{{`if c.peer.Role >= m.Role {`, `if c.peer.Role >= m.Role || m.Name != "" {`}},
		},
		{
			name: "whole percents are integers",
			why:  "the engine casts the progress of a job to a Double, throws, and loses all jobs of the host",
			file: "rpc/wire/job.go", by: requests.test("TestCompatibility"),
			edits: []edit{{`		text += ".0"
`, ``}},
		},
		{
			name: "a ping waits for its turn",
			why:  "a connection that is full of waits is taken for a dead host",
			file: "rpc/hostverbs.go", by: requests.test("TestBusyConnection"),
			edits: []edit{{`Name: "Host.ping2", Role: access.Observe, Instant: true,`, `Name: "Host.ping2", Role: access.Observe,`}},
		},
		{
			name: "a connection that has ended is a listener again",
			why:  "the agent writes events for nobody until its end, and each such connection costs memory",
			file: "rpc/events.go", by: requests.test("TestWantedTooLate"),
			edits: []edit{{`	c.left = true
`, ``}},
		},
	}
}
