package mock

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"vdsm-agent/tasks"
)

// World is what the mock verb changes: things that are there or not, each with a name. A step's effect is named task/step, its
// slices task/step/slice-1 and so on, and what is in the trash begins with "trash ". A change is there at once for everybody
// who looks, and survives a crash for sure when it was synced.
type World struct {
	mu       sync.Mutex
	now      map[string]bool // as everybody sees it
	stable   map[string]bool // what a crash leaves for sure
	open     []change        // not synced, in their order
	jobs     map[string]*job // of programs that decide, by effect; they go on when the agent dies
	used     map[string]bool // results that somebody uses
	events   []string
	tries    map[string]int
	workers  map[string]int // alive, by task
	released chan struct{}

	// Reached is called, if set, when a step reaches a place worth waiting for: "start", "slice", "block", "undo".
	Reached func(place, task, step string)
}

// change is applied as a whole, as a rename is.
type change []thing

type thing struct {
	name  string
	there bool
}

// job is the work of a program that decides by itself.
type job struct {
	ends  time.Time
	state jobState
}

type jobState string

const (
	jobRuns      jobState = "runs"
	jobFinished  jobState = "finished"
	jobCancelled jobState = "cancelled"
)

// NewWorld returns a world in which the named things are there.
func NewWorld(things ...string) *World {
	w := &World{
		now: map[string]bool{}, stable: map[string]bool{}, jobs: map[string]*job{}, used: map[string]bool{},
		tries: map[string]int{}, workers: map[string]int{}, released: make(chan struct{}),
	}
	for _, name := range things {
		w.now[name], w.stable[name] = true, true
	}
	return w
}

// Release lets everything that blocks, and every immortal worker, end.
func (w *World) Release() { close(w.released) }

// Use marks the result of a task as used, so that it cannot be reverted.
func (w *World) Use(task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used[task] = true
}

func (w *World) inUse(task string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used[task]
}

// Forget removes the effects of a task, as an administrator would.
func (w *World) Forget(task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.now {
		if strings.HasPrefix(name, task+"/") {
			delete(w.now, name)
			delete(w.stable, name)
		}
	}
}

// Effects lists the effects of steps that are there, sorted.
func (w *World) Effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	out := []string{}
	for name := range w.now {
		if strings.Count(name, "/") == 1 && !strings.HasPrefix(name, trash) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Events lists what happened: "do task/step", "undo task/step".
func (w *World) Events() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// Workers is how many workers are alive.
func (w *World) Workers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, alive := range w.workers {
		n += alive
	}
	return n
}

// Seen lists all that is there, a line for each, sorted.
func (w *World) Seen() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	return strings.Join(slices.Sorted(maps.Keys(w.now)), "\n")
}

// Unsynced is how many changes a crash may keep or lose.
func (w *World) Unsynced() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// Crash returns the world after the death of everything that worked for the agent. Of the changes that are not synced, in their
// order, those are there for which keep says so. Programs that decide go on.
func (w *World) Crash(keep func() bool) *World {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	n := NewWorld()
	n.now = maps.Clone(w.stable)
	for _, c := range w.open {
		if keep() {
			c.apply(n.now)
		}
	}
	n.stable = maps.Clone(n.now)
	for name, j := range w.jobs {
		running := *j
		n.jobs[name] = &running
	}
	n.used, n.tries, n.events = maps.Clone(w.used), maps.Clone(w.tries), slices.Clone(w.events)
	return n
}

// Alive names the workers and the jobs that work for the task.
func (w *World) Alive(task string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	var out []string
	if n := w.workers[task]; n > 0 {
		out = append(out, fmt.Sprintf("%d workers", n))
	}
	for name, j := range w.jobs {
		if strings.HasPrefix(name, task+"/") && j.state == jobRuns {
			out = append(out, "job "+name)
		}
	}
	return out
}

// Verbs returns the mock verb over this world, and the one that its Reclaims knob submits. gate, if not nil, is asked before each
// effect; its error is the step's.
func (w *World) Verbs(gate func(s *tasks.Scope, effect string) error) []*tasks.Verb {
	if gate == nil {
		gate = func(*tasks.Scope, string) error { return nil }
	}
	return verbs(w, gate)
}

func (c change) apply(to map[string]bool) {
	for _, t := range c {
		if t.there {
			to[t.name] = true
		} else {
			delete(to, t.name)
		}
	}
}

func (c change) of(name string) bool {
	return slices.ContainsFunc(c, func(t thing) bool { return t.name == name })
}

// write makes a change that is not synced.
func (w *World) write(c change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.apply(w.now)
	w.open = append(w.open, c)
}

// sync makes all changes of the named things stable.
func (w *World) sync(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = slices.DeleteFunc(w.open, func(c change) bool {
		if !slices.ContainsFunc(names, c.of) {
			return false
		}
		c.apply(w.stable)
		return true
	})
}

// syncAll makes all changes of things stable whose names begin with prefix.
func (w *World) syncAll(prefix string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = slices.DeleteFunc(w.open, func(c change) bool {
		if !slices.ContainsFunc(c, func(t thing) bool { return strings.HasPrefix(t.name, prefix) }) {
			return false
		}
		c.apply(w.stable)
		return true
	})
}

func (w *World) has(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	return w.now[name]
}

// synced says whether the thing is there and would be after a crash.
func (w *World) synced(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	return w.now[name] && w.stable[name]
}

// named lists what is there and begins with prefix, sorted.
func (w *World) named(prefix string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for name := range w.now {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// settle lets the jobs finish whose time has come. The caller holds mu.
func (w *World) settle() {
	for name, j := range w.jobs {
		if j.state == jobRuns && !time.Now().Before(j.ends) {
			w.finish(name, j)
		}
	}
}

func (w *World) finish(name string, j *job) {
	j.state = jobFinished
	w.now[name], w.stable[name] = true, true
}

// job returns what became of the job so far, and when it ends; "" = it was never started.
func (w *World) job(name string) (jobState, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	if j, ok := w.jobs[name]; ok {
		return j.state, j.ends
	}
	return "", time.Time{}
}

func (w *World) startJob(name string, lasts time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs[name] = &job{time.Now().Add(lasts), jobRuns}
}

// cancelJob asks the program to cancel. If it had finished in its own eyes, it has.
func (w *World) cancelJob(name string, finished bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	if j := w.jobs[name]; j.state == jobRuns {
		j.state = jobCancelled
		if finished {
			w.finish(name, j)
		}
	}
}

// failJob is the program's own error.
func (w *World) failJob(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs[name].state = jobCancelled
	delete(w.now, name)
	delete(w.stable, name)
}

func (w *World) forgetJob(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, name)
}

func (w *World) happened(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, what)
}

// try counts how often something was tried.
func (w *World) try(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries[what]++
	return w.tries[what]
}

func (w *World) reached(place, task, step string) {
	if w.Reached != nil {
		w.Reached(place, task, step)
	}
}
