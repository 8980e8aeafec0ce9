package main

import (
	"encoding/json"
	"fmt"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// lines is the screen of a pipe or a file: a line when something worth a line has changed; with --json an object a line.
type lines struct {
	*cli
	shown map[string]string // by task: what the last line was printed for
}

func (l *lines) update(t wire.Task) {
	tenths := 0
	if t.Progress != nil {
		tenths = show.Percent(t.Progress.Done, t.Progress.Total) / 10
	}
	key := fmt.Sprint(stateCell(t).Text, tenths)
	if final(t) {
		key = t.State
	}
	if l.shown[t.ID] == key {
		return
	}
	l.shown[t.ID] = key
	if !l.JSON {
		l.printf("%s\n", sentence(t))
		return
	}
	b, err := json.Marshal(t)
	if err != nil { // its fields always marshal
		panic(err)
	}
	l.printf("%s\n", b)
}

func (l *lines) cleared(id string) {
	if !l.JSON {
		l.printf("%s was cleared\n", short(id))
	}
}

func (l *lines) looked(int) {}

func (l *lines) close() {}
