package tasks

import "time"

// Pulse is how the engine shows that it is alive.
type Pulse struct {
	Every time.Duration // 0 = not at all
	// Beat is told how busy the engine is, each time that its own loop could take every lock that all of its work goes through. A lock that is
	// never given back, which is a defect, ends that. A disk that hangs does not: no restart would mend it.
	Beat func(Queue)
}

// pulse beats until the agent shuts down, the first time at once.
func (e *Engine) pulse(p Pulse) {
	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	for {
		e.mu.Lock()
		e.mu.Unlock() //nolint:staticcheck // that it could be taken is all that counts
		e.flows.mu.Lock()
		e.flows.mu.Unlock() //nolint:staticcheck // the same
		e.events.mu.Lock()
		e.events.mu.Unlock() //nolint:staticcheck // the same
		p.Beat(e.Queue())    // which takes the scheduler's
		select {
		case <-tick.C:
		case <-e.closing:
			return
		}
	}
}
