package tasks

import (
	"context"
	"sync"
	"time"

	"vdsm-agent/internal/code"
)

// Drain says who keeps new work out of the agent, and since when.
type Drain struct {
	Who   string
	Since time.Time
}

// gate keeps new work out while the agent is drained. A submit is inside from before it looks at the gate until its task is registered, so
// who closes the gate and waits until nobody is inside knows all the tasks that there will be.
type gate struct {
	mu     sync.Mutex // guards what follows; never held while anything blocks
	closed *Drain
	kept   *Drain // by whom the agent is kept out of work for longer; see Refuse
	inside int
	empty  chan struct{} // closed when nobody is inside any more; nil = nobody waits for that
}

func (g *gate) enter(part bool) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.kept; d != nil && !part {
		return nil, code.Errorf(code.AddTask, "this host takes no new tasks: it is in maintenance, or goes into it, by %s since %s; Host.leaveMaintenance ends that",
			d.Who, d.Since.Format(time.RFC3339))
	}
	if d := g.closed; d != nil {
		return nil, code.Errorf(code.AddTask, "the agent takes no new tasks: it is being drained by %s since %s; submit again when that has ended, or elsewhere",
			d.Who, d.Since.Format(time.RFC3339))
	}
	g.inside++
	return g.leave, nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

func (g *gate) close(d Drain) (outside <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = &d
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	outside = g.empty
	if g.inside == 0 {
		close(g.empty)
		g.empty = nil
	}
	return outside
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = nil
}

func (g *gate) drain() *Drain {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		return g.kept
	}
	return g.closed
}

// Refuse refuses new tasks (405) until Accept, but for those that are a part of one that there is (Submission.Part): what Drain does for a short time,
// and independently of it, this does for as long as somebody remembers it. It waits for nobody.
func (e *Engine) Refuse(d Drain) {
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	e.gate.kept = &d
}

// Accept ends that.
func (e *Engine) Accept() {
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	e.gate.kept = nil
}

// Drain refuses new tasks (405) until Undrain, or until the agent ends. When it returns, every task that was submitted before is known, and no other
// will come but those by which the agent carries out what ended tasks have put off. By case: a submit that repeats an id answers that task;
// stop, revert, clear, pause and resume work as ever; a second Drain changes nothing, and the first one counts. Errors: 851 a submit that came
// before has not ended; new ones are refused all the same.
func (e *Engine) Drain(ctx context.Context, who string) error {
	select {
	case <-e.gate.close(Drain{who, time.Now().UTC()}):
		e.log.Info().Str("who", who).Msg("the agent is drained: it takes no new tasks")
		return nil
	case <-ctx.Done():
		return code.Errorf(code.ResourceTimeout, "a submit that came before has not ended; new ones are refused: %w", ctx.Err())
	}
}

// Undrain lets new tasks in again.
func (e *Engine) Undrain(who string) {
	e.gate.open()
	e.log.Info().Str("who", who).Msg("the agent takes new tasks")
}
