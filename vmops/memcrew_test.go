package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
)

// house is what the world has of the agent's other tasks, and of whether the host takes new work. Tasks are durable at once, as the engine's are.
type house struct {
	tasks   map[string]*memTask // nil = the world has none
	fails   int                 // how many migrations fail before one succeeds
	mark    bool                // as it is read
	durable bool                // as a crash leaves it
	dirty   bool
}

// memTask is another task: a migration, or one of storage.
type memTask struct {
	of, verb, vm string
	ends         time.Time
	becomes      tasks.State
	stopped      bool
}

func (t *memTask) state() tasks.State {
	if time.Now().Before(t.ends) {
		return tasks.Running
	}
	return t.becomes
}

// migrationTakes is at no moment at which something else happens.
const migrationTakes = 1370 * time.Millisecond

// withHouse gives the world so many machines, and some tasks of storage.
func (w *world) withHouse(machines int, storage ...string) *world {
	w.house.tasks = map[string]*memTask{}
	all := map[string]*memMachine{}
	for i := range machines {
		m := *w.machines[vmID]
		all[fmt.Sprintf("dddddddd-0000-4000-8000-%012d", i+1)] = &m
	}
	w.machines = all
	for _, id := range storage {
		w.house.tasks[id] = &memTask{verb: "Volume.copy", ends: time.Now().Add(4100 * time.Millisecond), becomes: tasks.Finished}
	}
	return w
}

func (h *house) after(keep func() bool) house {
	out := *h
	if h.dirty && keep() {
		out.durable = h.mark
	}
	out.mark, out.dirty = out.durable, false
	out.tasks = maps.Clone(h.tasks) // each is the same in both worlds: the former is not used any more
	return out
}

func (h *house) seen() (out []string) {
	if h.mark {
		out = append(out, "the host is closed")
	}
	for id, t := range h.tasks {
		switch {
		case t.of == "":
			out = append(out, fmt.Sprintf("task %s stopped %t", id, t.stopped))
		case !t.state().Final(): // such a task is alive by itself, and must have ended with the one that it is a part of
			out = append(out, "machine "+t.vm+" leaves")
		}
	}
	return out
}

// pass lets machines go whose migrations have ended; the lock is held.
func (h *house) pass(w *world) {
	for _, t := range h.tasks {
		if t.vm != "" && t.state() == tasks.Finished {
			delete(w.machines, t.vm)
		}
	}
}

// memCrew is the engine's other tasks as one process sees them.
type memCrew struct {
	*world
	gate prove.Gate
}

func (c memCrew) Submit(_ context.Context, s *tasks.Scope, sub tasks.Submission) error {
	if err := c.gate(s, "submit the migration of a machine"); err != nil {
		return err
	}
	var p migrateParams
	if err := json.Unmarshal(sub.Params, &p); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.house.tasks[sub.ID] != nil {
		return nil
	}
	if !sub.Part || sub.Verb != "VM.migrate" || sub.Flow == "" {
		return code.Errorf(code.AddTask, "the host is closed for %v", sub)
	}
	t := &memTask{of: s.TaskID(), verb: sub.Verb, vm: string(p.VM), ends: time.Now().Add(migrationTakes), becomes: tasks.Finished}
	if c.house.fails > 0 {
		c.house.fails--
		t.becomes = tasks.Recovered
	}
	c.house.tasks[sub.ID] = t
	return nil
}

func (c memCrew) Stop(s *tasks.Scope, id, _ string) error {
	if err := c.gate(s, "stop a task"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	t := c.house.tasks[id]
	switch {
	case t == nil:
		return code.Errorf(code.UnknownTask, "there is no task %s", id)
	case t.state() == tasks.Finished:
		return code.Errorf(code.TaskState, "it has finished")
	case !t.state().Final() && !t.stopped:
		t.stopped, t.becomes, t.ends = true, tasks.Recovered, time.Now().Add(230*time.Millisecond)
	}
	return nil
}

func (c memCrew) Summary(id string) (tasks.Summary, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	t := c.house.tasks[id]
	if t == nil {
		return tasks.Summary{}, code.Errorf(code.UnknownTask, "there is no task %s", id)
	}
	return t.summary(id), nil
}

func (t *memTask) summary(id string) tasks.Summary {
	return tasks.Summary{ID: id, Verb: t.verb, State: t.state(), Cancelable: t.state() == tasks.Running && !t.stopped, Stopped: t.stopped}
}

func (c memCrew) List(tasks.Filter) (out []tasks.Summary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.house.tasks)) {
		out = append(out, c.house.tasks[id].summary(id))
	}
	return out
}

// memClosure is the mark.
type memClosure struct {
	*world
	gate prove.Gate
}

func (c memClosure) set(s *tasks.Scope, effect string, to bool) error {
	if s == nil {
		c.house.mark = to
		return nil
	}
	if err := c.gate(s, effect); err != nil {
		return err
	}
	c.mu.Lock()
	c.house.mark, c.house.dirty = to, true
	c.mu.Unlock()
	if err := c.gate(s, "sync"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.house.durable, c.house.dirty = to, false
	return nil
}

func (c memClosure) Close(s *tasks.Scope) error { return c.set(s, "write the mark", true) }

func (c memClosure) Open(s *tasks.Scope) error { return c.set(s, "remove the mark", false) }

func (c memClosure) Closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.house.mark
}
