package tasks

import (
	"context"
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// flows keeps the fences of cancelled flows. A submit is inside its flow from before it looks at the fence until its task is
// registered, so a cancel that raises the fence and then waits for those inside either refuses a submit or finds its task.
type flows struct {
	mu     sync.Mutex // never held while anything blocks
	fences map[string]store.Fence
	inside map[string]int
	empty  map[string]chan struct{} // closed when nobody is inside any more
}

func (f *flows) load(s store.Store) error {
	fences, err := s.Fences()
	if err != nil {
		return err
	}
	f.fences, f.inside, f.empty = map[string]store.Fence{}, map[string]int{}, map[string]chan struct{}{}
	for _, fence := range fences {
		f.fences[fence.Flow] = fence
	}
	return nil
}

// enter admits a submit to its flow, or refuses it with 443. The caller calls leave when the task is registered.
func (f *flows) enter(flow string, forward bool) (leave func(), err error) {
	if flow == "" {
		return func() {}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fence, ok := f.fences[flow]; ok && forward && time.Now().Before(fence.Until) {
		return nil, code.Errorf(code.FlowCancelled, "flow %s was cancelled by %s; Flow.release lets it go on, else it is free again at %s",
			flow, fence.Who, fence.Until.Format(time.RFC3339))
	}
	f.inside[flow]++
	return func() { f.leave(flow) }, nil
}

func (f *flows) leave(flow string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inside[flow]--; f.inside[flow] == 0 {
		delete(f.inside, flow)
		if c, ok := f.empty[flow]; ok {
			close(c)
			delete(f.empty, flow)
		}
	}
}

// raise puts the fence up in memory and returns what was there before and a channel that is closed when every submit
// that came before it has ended.
func (f *flows) raise(fence store.Fence) (before *store.Fence, outside <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, ok := f.fences[fence.Flow]; ok {
		before = &old
	}
	f.fences[fence.Flow] = fence
	c, ok := f.empty[fence.Flow]
	if !ok {
		c = make(chan struct{})
		if f.inside[fence.Flow] == 0 {
			close(c)
		} else {
			f.empty[fence.Flow] = c
		}
	}
	return before, c
}

func (f *flows) set(flow string, fence *store.Fence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fence == nil {
		delete(f.fences, flow)
	} else {
		f.fences[flow] = *fence
	}
}

func (f *flows) fence(flow string) (store.Fence, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fence, ok := f.fences[flow]
	return fence, ok && time.Now().Before(fence.Until)
}

// FlowChange is what became of one task of a cancelled flow.
type FlowChange struct {
	ID     string
	Before State
	After  View
	Err    error // why it could not be stopped or reverted
}

// CancelFlow fences the flow, on stable storage, then stops every task of it that is not final and, if revert is set, reverts
// the finished ones, last finished first. It returns what became of each. Errors: 1000 no flow, 413 the store.
func (e *Engine) CancelFlow(ctx context.Context, flow, who string, revert bool) ([]FlowChange, error) {
	if flow == "" {
		return nil, code.Errorf(code.InvalidParameter, "parameter \"flowID\" is empty")
	}
	now := time.Now().UTC()
	fence := store.Fence{Flow: flow, At: now, Until: now.Add(e.options.FenceFor), Who: who}
	before, outside := e.flows.raise(fence)
	if err := e.store.Commit(store.Change{Fence: []store.Fence{fence}}); err != nil {
		e.flows.set(flow, before)
		return nil, storeError(err)
	}
	select {
	case <-outside:
	case <-ctx.Done():
		return nil, code.Errorf(code.ResourceTimeout, "a submit of flow %s has not ended; the fence is up, cancel again: %w", flow, ctx.Err())
	}
	list := e.List(Filter{Flow: flow})
	slices.SortStableFunc(list, func(a, b View) int { return b.Ended.Compare(a.Ended) })
	var out []FlowChange
	for _, v := range list {
		c := FlowChange{ID: v.ID, Before: v.State}
		switch {
		case !v.State.Final():
			c.Err = e.Stop(v.ID, StopOptions{Who: who})
		case v.State == Finished && revert:
			c.Err = e.Revert(ctx, v.ID, who)
		}
		if after, err := e.Get(v.ID); err == nil {
			c.After = after
		}
		out = append(out, c)
	}
	return out, nil
}

// ReleaseFlow takes the fence away. It is not an error if there is none.
func (e *Engine) ReleaseFlow(flow string) error {
	if err := e.store.Commit(store.Change{Unfence: []string{flow}}); err != nil {
		return storeError(err)
	}
	e.flows.set(flow, nil)
	return nil
}

// Fenced says whether the flow is fenced now, and since when.
func (e *Engine) Fenced(flow string) (since time.Time, fenced bool) {
	fence, ok := e.flows.fence(flow)
	return fence.At, ok
}
