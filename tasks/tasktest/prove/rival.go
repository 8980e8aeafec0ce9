package prove

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"vdsm-agent/tasks"
)

// rivalVerb needs every lock of the task under proof for itself, and has its effect at once.
const rivalVerb = "Prove.rival"

// The ids of a run. They are in the order in which the tasks are submitted, for the sake of those of the same moment.
const (
	holderID = "00000000-0000-4000-8000-000000000001"
	mainID   = "00000000-0000-4000-8000-000000000002"
)

func rivalID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", n) }

func isRival(id string) bool {
	return id == holderID || len(id) == len(mainID) && id[:34] == rivalID(0)[:34]
}

// rival is the harness's own verb. A holder waits until the script lets it go.
func (p *process) rival() *tasks.Verb {
	return &tasks.Verb{
		Name: rivalVerb, Class: tasks.ClassLight, Contract: tasks.Contract{Bound: time.Minute},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			return &tasks.Plan{Tag: tasks.TagLocal, Locks: p.run.subject.exclusive, Steps: []tasks.Step{{
				Name: "take",
				Do: func(ctx context.Context, s *tasks.Scope) error {
					if id == holderID {
						select {
						case <-p.run.release:
						case <-ctx.Done():
							return context.Cause(ctx)
						}
					}
					return p.rivalEffect(id)
				},
			}}}, nil
		},
	}
}

func (p *process) rivalEffect(id string) error {
	if p.isDead() {
		return errDead
	}
	state := p.run.durableState(mainID)
	if id != holderID && state != "" && !state.Final() {
		p.run.note("G12", "the rival has its effect while the record of the task says %s", state)
	}
	p.run.tracef("  effect of the rival %s", id[30:])
	return nil
}

// submitRival puts a rival behind the task, once for each time that the task takes its locks.
func (p *process) submitRival() {
	r := p.run
	r.mu.Lock()
	n, again := r.rivals, r.rivalAsked
	r.rivalAsked = true
	r.mu.Unlock()
	if again || n == 0 {
		return
	}
	_, err := p.engine.Submit(context.Background(), tasks.Submission{ID: rivalID(n), Verb: rivalVerb, Who: "rival"})
	r.tracef("  rival %d submitted: %v", n, answer(err))
	r.mu.Lock()
	r.rivalAsked = err == nil
	r.mu.Unlock()
}
