package tasks

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// flows keeps the fences of cancelled flows. A submit is inside its flow from before it looks at the fence until its task is
// registered, so a cancel that raises the fence and then waits for those inside either refuses a submit or finds its task.
type flows struct {
	// lock orders the changes of fences, so that memory and store agree. It is a channel for the same reason as a task's.
	lock chan struct{}

	mu     sync.Mutex // guards what follows; never held while anything blocks
	fences map[string]store.Fence
	inside map[string]int
	empty  map[string]chan struct{} // closed when nobody is inside any more
}

func (f *flows) load(s store.Store) error {
	fences, err := s.Fences()
	if err != nil {
		return err
	}
	f.lock = make(chan struct{}, 1)
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

// raise puts the fence up, in memory first so that no submit slips through meanwhile, and answers when it is on stable storage: a
// channel that is closed when every submit that came before it has ended. When it is not known whether it was
// recorded it stays up, and an error is answered.
func (f *flows) raise(s store.Store, fence store.Fence) (outside <-chan struct{}, err error) {
	f.lock <- struct{}{}
	defer func() { <-f.lock }()
	before, outside := f.put(fence)
	if err := s.Commit(store.Change{Fence: []store.Fence{fence}}); err != nil {
		if !errors.Is(err, store.ErrUnknown) {
			f.set(fence.Flow, before)
		}
		return nil, err
	}
	return outside, nil
}

func (f *flows) put(fence store.Fence) (before *store.Fence, outside <-chan struct{}) {
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

// fenced lists the flows with a fence that has not ended.
func (f *flows) fenced() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for flow, fence := range f.fences {
		if time.Now().Before(fence.Until) {
			out = append(out, flow)
		}
	}
	return out
}

func (f *flows) fence(flow string) (store.Fence, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fence, ok := f.fences[flow]
	return fence, ok && time.Now().Before(fence.Until)
}

// lower takes fences down that have ended.
func (f *flows) lower(e *Engine, now time.Time) {
	f.lock <- struct{}{}
	defer func() { <-f.lock }()
	f.mu.Lock()
	var over []string
	for flow, fence := range f.fences {
		if !now.Before(fence.Until) {
			over = append(over, flow)
		}
	}
	f.mu.Unlock()
	if len(over) == 0 {
		return
	}
	if err := e.store.Commit(store.Change{Unfence: over}); err != nil {
		e.log.Warn().Err(err).Msg("fences that have ended could not be removed; it is tried again")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, flow := range over {
		delete(f.fences, flow)
		e.events.fenced(flow)
	}
}

// FlowChange is what became of one task of a cancelled flow.
type FlowChange struct {
	ID     string
	Before State
	After  Summary
	Err    error // why it could not be stopped or reverted
}

// CancelFlow fences the flow, on stable storage, then stops every task of it that is not final, those that wait first, so that none of
// them begins when another lets go of its locks, and, if revert is set, reverts the finished ones, last finished first, and those that could not be stopped any more when they have finished. A task is
// reverted when those that are stopped or reverted before it have let go of the locks that it needs. It returns what became of each.
// Errors: 1000 no flow, 413 the store.
func (e *Engine) CancelFlow(ctx context.Context, flow, who string, revert bool) ([]FlowChange, error) {
	if flow == "" {
		return nil, code.Errorf(code.InvalidParameter, "parameter \"flowID\" is empty")
	}
	now := time.Now().UTC()
	fence := store.Fence{Flow: flow, At: now, Until: now.Add(e.tuning.Load().FenceFor), Who: who}
	outside, err := e.flows.raise(e.store, fence)
	e.events.fenced(flow) // also when it is not known whether that was recorded: then it is up
	if err != nil {
		return nil, storeError(err)
	}
	select {
	case <-outside:
	case <-ctx.Done():
		return nil, code.Errorf(code.ResourceTimeout, "a submit of flow %s has not ended; the fence is up, cancel again: %w", flow, ctx.Err())
	}
	list := e.List(Filter{Flow: flow})
	slices.Reverse(list) // who came last first: others that wait are before it
	slices.SortStableFunc(list, func(a, b Summary) int {
		return cmp.Or(cmp.Compare(cancelled(a), cancelled(b)), b.Ended.Compare(a.Ended))
	})
	var out []FlowChange
	var ending []string
	for _, s := range list {
		c := FlowChange{ID: s.ID, Before: s.State}
		if !s.State.Final() {
			c.Err = e.Stop(s.ID, StopOptions{Who: who, Revert: revert})
		}
		if revert && (s.State == Finished || code.Of(c.Err) == code.TaskState) {
			// Also one that has finished since: then it could not be stopped, and can be reverted.
			if now, err := e.Summary(s.ID); err == nil && now.State == Finished {
				c.Err = e.revertBehind(ctx, s.ID, who, &ending)
			}
		}
		ending = append(ending, s.ID)
		out = append(out, c)
	}
	for i := range out {
		out[i].After, _ = e.Summary(out[i].ID) // nothing is left to show of one that was cleared meanwhile
	}
	return out, nil
}

// cancelled is a task's place in the cancel of its flow: those that wait, those that work, and those that have ended, the last first.
func cancelled(s Summary) int {
	switch {
	case s.State == Queued:
		return 0
	case !s.State.Final():
		return 1
	}
	return 2
}

// revertBehind reverts a finished task. While that is refused, it waits for the end of one more of those that are ending, each within its
// bound, since they may have the locks.
func (e *Engine) revertBehind(ctx context.Context, id, who string, ending *[]string) error {
	for {
		err := e.Revert(ctx, id, who)
		if code.Of(err) != code.TaskState || len(*ending) == 0 {
			return err
		}
		before := (*ending)[0]
		*ending = (*ending)[1:]
		if t, unknown := e.find(before); unknown == nil {
			within, cancel := context.WithTimeout(ctx, t.verb.Contract.Bound)
			_, _ = e.Wait(within, before, Ended) // Revert says whether it helps
			cancel()
		}
	}
}

// FlowView is a flow as lists show it.
type FlowView struct {
	ID     string
	Fenced time.Time // zero = not
	Tasks  int       // uncleared ones
}

// Flows lists the flows with an uncleared task or a fence, by id; with a state, those that have a task in that state.
func (e *Engine) Flows(state State) []FlowView {
	byID := map[string]*FlowView{}
	wanted := map[string]bool{}
	of := func(flow string) *FlowView {
		v, known := byID[flow]
		if !known {
			since, _ := e.Fenced(flow)
			v = &FlowView{ID: flow, Fenced: since}
			byID[flow] = v
		}
		return v
	}
	for _, t := range e.all() {
		if flow := t.flow(); flow != "" {
			of(flow).Tasks++
			wanted[flow] = wanted[flow] || state == "" || t.state() == state
		}
	}
	if state == "" {
		for _, flow := range e.flows.fenced() {
			of(flow)
			wanted[flow] = true
		}
	}
	var out []FlowView
	for _, flow := range slices.Sorted(maps.Keys(wanted)) {
		if wanted[flow] {
			out = append(out, *byID[flow])
		}
	}
	return out
}

// ReleaseFlow takes the fence away. It is not an error if there is none.
func (e *Engine) ReleaseFlow(flow string) error {
	e.flows.lock <- struct{}{}
	defer func() { <-e.flows.lock }()
	if err := e.store.Commit(store.Change{Unfence: []string{flow}}); err != nil {
		return storeError(err)
	}
	e.flows.set(flow, nil)
	e.events.fenced(flow)
	return nil
}

// Fenced says whether the flow is fenced now, and since when.
func (e *Engine) Fenced(flow string) (since time.Time, fenced bool) {
	fence, ok := e.flows.fence(flow)
	if !ok {
		return time.Time{}, false
	}
	return fence.At, true
}
