package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/wire"
)

// answer is what a client was told at last when it asked for something.
type answer int

const (
	notAsked answer = iota
	acknowledged
	refused
)

// task is an entry of the ledger: what was asked of a task, and what was answered. One client at a time uses it.
type task struct {
	id, verb string
	params   map[string]any
	image    any // that it makes or deletes
	history  []string
	seen     string // what of it was seen last; a change of it is a step forward
	end      string // the final state that was seen last, "" = none

	submit, stop, revert, clear answer
}

func (s *soak) newTask(id, verb string, params map[string]any) *task {
	t := &task{id: id, verb: verb, params: maps.Clone(params)}
	t.params["taskID"] = id
	t.image = t.params["imageID"]
	if to, ok := t.params["dstImgUUID"]; ok {
		t.image = to
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks = append(s.tasks, t)
	return t
}

// note adds a line to the task's history.
func (c *caller) note(t *task, format string, args ...any) {
	line := fmt.Sprintf("%8.3f %s", time.Since(c.soak.began).Seconds(), fmt.Sprintf(format, args...))
	t.history = append(t.history, line)
}

// ask asks until there is an answer: a request whose answer was lost with the daemon is repeated as it was. repeated tells
// that this happened.
func (c *caller) ask(t *task, method string, params map[string]any, result any) (repeated bool, err error) {
	quiet := method == "Task.getDetails" || method == "Task.wait" || method == "Host.getAllTasks"
	for {
		conn := c.connect(t)
		if !quiet {
			text, _ := json.Marshal(params)
			c.note(t, "asks %s %s", method, text)
			c.soak.agent.event()
		}
		err = conn.Call(c.soak.ctx, method, params, result)
		switch {
		case c.soak.ctx.Err() != nil:
			c.soak.fail(t, "another client has failed")
		case errors.Is(err, client.ErrConnectionLost):
			c.note(t, "no answer to %s", method)
			c.conn, repeated = nil, true
			continue
		case err != nil && codeOf(err) == 0:
			c.soak.fail(t, "%s: %v", method, err)
		case codeOf(err) == code.RecoveryInProgress:
			continue
		}
		if !quiet {
			c.note(t, "is answered %v", err)
			c.soak.agent.event()
		}
		return repeated, err
	}
}

// codeOf is the number of a refusal, 0 of everything else.
func codeOf(err error) code.Code {
	var e *client.Error
	if errors.As(err, &e) {
		return code.Code(e.Code)
	}
	return 0
}

// submitting submits the task. It is acknowledged, or refused with one of the codes.
func (c *caller) submitting(t *task, refusals ...code.Code) bool {
	var id string
	_, err := c.ask(t, t.verb, t.params, &id)
	switch {
	case err == nil && id != t.id:
		c.soak.fail(t, "the task was submitted as %s and is %s", t.id, id)
	case err == nil:
		t.submit = acknowledged
		return true
	case !slices.Contains(refusals, codeOf(err)):
		c.soak.fail(t, "the submit is refused: %d %v", codeOf(err), err)
	}
	t.submit = refused
	return false
}

// stopping asks for a stop. It is acknowledged, or it comes too late.
func (c *caller) stopping(t *task) {
	_, err := c.ask(t, "Task.stop", map[string]any{"taskID": t.id, "force": c.chance.IntN(4) == 0}, nil)
	switch {
	case err == nil:
		t.stop = acknowledged
	case codeOf(err) == code.TaskState && t.stop != acknowledged:
		t.stop = refused
	default:
		c.soak.fail(t, "the stop is refused: %v", err)
	}
	c.look(t)
}

// reverting asks for a revert, which nothing stands against.
func (c *caller) reverting(t *task) {
	if _, err := c.ask(t, "Task.revert", map[string]any{"taskID": t.id}, nil); err != nil {
		c.soak.fail(t, "the revert of a finished task is refused: %v", err)
	}
	t.revert = acknowledged
	c.look(t)
}

// clearing clears a task that has ended. A repeated clear may find it cleared.
func (c *caller) clearing(t *task) {
	repeated, err := c.ask(t, "Task.clear", map[string]any{"taskID": t.id}, nil)
	if err != nil && (!repeated || codeOf(err) != code.UnknownTask) {
		c.soak.fail(t, "the clear of a task that has ended is refused: %v", err)
	}
	t.clear = acknowledged
	c.look(t)
}

// clearingEarly asks for the clear of a task that may not have ended; it tells whether it had.
func (c *caller) clearingEarly(t *task) bool {
	repeated, err := c.ask(t, "Task.clear", map[string]any{"taskID": t.id}, nil)
	switch {
	case err == nil, repeated && codeOf(err) == code.UnknownTask:
		t.clear = acknowledged
	case codeOf(err) != code.TaskState:
		c.soak.fail(t, "the clear of a task that may not have ended is answered %v", err)
	}
	c.look(t)
	return t.clear == acknowledged
}

// look looks at the task, and holds what it sees against what was answered. The answer is zero when the task was cleared.
func (c *caller) look(t *task) wire.Details {
	var d wire.Details
	_, err := c.ask(t, "Task.getDetails", map[string]any{"taskID": t.id}, &d)
	if t.clear == acknowledged || t.submit == refused {
		if codeOf(err) != code.UnknownTask {
			c.soak.fail(t, "the task must be unknown, and is %s (%v)", d.State, err)
		}
		return wire.Details{}
	}
	if err != nil {
		c.soak.fail(t, "an acknowledged task must be known: %v", err)
	}
	seen := fmt.Sprintf("%s, %d steps, %d bytes, checkpoint %v", d.State, doneSteps(d), bytesDone(d), d.LastCheckpoint.UnixMilli())
	if seen != t.seen {
		t.seen = seen
		c.note(t, "sees %s", seen)
		c.soak.agent.event()
	}
	c.hold(t, d)
	return d
}

// hold ends the run if a task is not what was answered.
func (c *caller) hold(t *task, d wire.Details) {
	final := d.State == "finished" || d.State == "recovered"
	switch {
	case d.State == "failed":
		c.soak.fail(t, "an undo failed on sound storage: %s %v", d.Message, d.Residue)
	case t.stop == acknowledged && !slices.Contains([]string{"aborting", "recovering", "recovered", "queued"}, d.State):
		c.soak.fail(t, "the task is %s though its stop was acknowledged", d.State)
	case t.stop == acknowledged && d.State == "queued" && t.revert != acknowledged:
		c.soak.fail(t, "the task is queued though its stop was acknowledged")
	case t.stop == refused && t.revert == notAsked && !slices.Contains([]string{"finished", "committing"}, d.State):
		c.soak.fail(t, "the task is %s though its stop came too late", d.State)
	case t.revert == acknowledged && d.State == "finished":
		c.soak.fail(t, "the task is finished though its revert was acknowledged: %s", d.Message)
	case t.end != "" && t.revert == notAsked && d.State != t.end:
		c.soak.fail(t, "the task was %s and is %s", t.end, d.State)
	case final && len(d.Pids) > 0:
		c.soak.fail(t, "the task is %s and has the processes %v", d.State, d.Pids)
	case final && t.stop == acknowledged && t.revert == notAsked && d.Code == 0:
		c.soak.fail(t, "the stopped task has the code of a success")
	}
	if final {
		t.end = d.State
	}
}

func doneSteps(d wire.Details) (n int) {
	for _, s := range d.Steps {
		if s.State == "done" || s.State == "undone" {
			n++
		}
	}
	return n
}

func bytesDone(d wire.Details) int64 {
	if d.Progress == nil {
		return 0
	}
	return d.Progress.Done
}

// watch looks at the task until it has ended, or has gone so many steps forward; -1 = to its end.
func (c *caller) watch(t *task, steps int) (d wire.Details) {
	for steps != 0 {
		before := t.seen
		d = c.look(t)
		if d.State == "finished" || d.State == "recovered" {
			return d
		}
		if t.seen != before {
			steps--
		}
		// Whatever it answers: it keeps the clients from taking the processors from the daemon.
		_, _ = c.ask(t, "Task.wait", map[string]any{"taskID": t.id, "timeout": 0.01}, nil)
	}
	return d
}
