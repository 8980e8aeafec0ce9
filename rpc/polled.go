package rpc

import (
	"encoding/json"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// polled answers a map of all tasks that engines see, which they ask for every second or so on each connection. Entries of tasks
// that have ended, which can be very many, are written once and used again until something has changed; those of the others,
// whose messages change all the time, are written for each answer.
type polled struct {
	engine Engine
	of     func(tasks.Summary) any // a task's entry

	mu    sync.Mutex // guards what follows; held while entries are written, so that this is done once for all who ask
	kept  bool
	at    uint64          // what Engine.Changes said before they were written
	ended json.RawMessage // the whole map of those that had ended
	live  []string        // the others
}

func statusOf(s tasks.Summary) any { return wire.StatusOf(s) }

func infoOf(s tasks.Summary) any { return wire.InfoOf(s) }

// answer is the map as it is now. Nobody changes it.
func (p *polled) answer() (json.RawMessage, error) {
	ended, live, err := p.entries()
	if err != nil || len(live) == 0 {
		return ended, err
	}
	all := make([]byte, 0, len(ended)+len(live)*256)
	all = append(all, ended[:len(ended)-1]...)
	for _, id := range live {
		s, err := p.engine.Summary(id)
		if code.Of(err) == code.UnknownTask {
			continue // cleared since then
		}
		if err == nil {
			all, err = p.entry(all, s)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(all, '}'), nil
}

// entries looks through all tasks if anything has changed since that was done last.
func (p *polled) entries() (ended json.RawMessage, live []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.engine.Changes()
	if p.kept && p.at == now {
		return p.ended, p.live, nil
	}
	p.kept, p.live = false, nil // those who were given the old ones may still use them
	out := make([]byte, 1, len(p.ended)+1024)
	out[0] = '{'
	for _, s := range p.engine.List(tasks.Filter{Tag: tasks.TagSPM}) {
		if !s.State.Final() {
			p.live = append(p.live, s.ID)
		} else if out, err = p.entry(out, s); err != nil {
			return nil, nil, err
		}
	}
	out = append(out, '}')
	p.kept, p.at, p.ended = true, now, out
	return p.ended, p.live, nil
}

// entry adds a task to an open map.
func (p *polled) entry(to []byte, s tasks.Summary) ([]byte, error) {
	id, err := json.Marshal(s.ID)
	if err != nil {
		return nil, err
	}
	entry, err := json.Marshal(p.of(s))
	if err != nil {
		return nil, err
	}
	if to[len(to)-1] != '{' {
		to = append(to, ',')
	}
	return append(append(append(to, id...), ':'), entry...), nil
}
