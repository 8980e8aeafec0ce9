package tasks_test

import (
	"fmt"
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/mock"
)

// The cancel contract of one task, as clients see it. TestModel holds the engine to it with random sequences of requests,
// TestLinearizable with requests that come at the same time.
//
// Between two requests a task moves by itself, and nobody can say how far: so what is known of a task is the set of
// phases in which it may be, and an engine is wrong when it gives an answer that no phase of the set allows.

// phase is where a task may be.
type phase struct {
	at        tasks.State // absent = there was never such an id
	other     bool        // it was submitted with the other parameters
	code      code.Code   // why it is undone, or failed: 411 a stop, 0 a revert, else an error's own
	lost      bool        // a stop was recorded, and the program that decides had finished
	reverting bool        // a revert was recorded
	past      bool        // it failed past its point of no return
	atEnd     bool        // it is to be reverted when it finishes: its flow was cancelled with revert
	doubt     request     // what was answered with "unknown": it may come true at any time
}

const absent tasks.State = ""

// verb is what a client can ask of a task.
type verb string

const (
	submit  verb = "submit"
	stop    verb = "stop"
	revert  verb = "revert"
	clear   verb = "clear"
	get     verb = "get"
	preview verb = "preview"
)

// request is one request, with what else decides about its answer.
type request struct {
	verb   verb
	other  bool // submit: with other parameters
	fenced bool // submit: its flow is cancelled
	locked bool // revert: a live task has one of its locks
	used   bool // revert: the result is in use
	flow   bool // stop: by a cancel of the flow with revert
}

// answer is what the engine said.
type answer struct {
	code       code.Code
	unknown    bool // with 413: it may have been recorded
	seen       seen // get
	cancelable bool // preview
}

type seen struct {
	state tasks.State
	code  code.Code
	lost  bool
}

// traits are what the parameters of a task say about its life.
type traits struct {
	fails   code.Code // of the step that fails before the point of no return, 0 = none
	commits bool      // it has a point of no return
	refused bool      // its commit is refused
	dies    bool      // its commit can never complete
	decided bool      // another program decides
	hangs   bool      // a step before the point of no return ends only at a stop
	stays   bool      // the undo of a step fails once
	final   bool      // it cannot be reverted once it has finished
}

// moves are the phases to which a task goes by itself (contract.md, "States").
func (t traits) moves(p phase) (next []phase) {
	to := func(allowed bool, s tasks.State, change ...func(*phase)) {
		if allowed {
			n := p
			n.at = s
			for _, c := range change {
				c(&n)
			}
			next = append(next, n)
		}
	}
	because := func(c code.Code) func(*phase) { return func(n *phase) { n.code = c } }
	switch p.at {
	case tasks.Queued:
		to(!p.reverting, tasks.Running)
		to(p.reverting, tasks.Recovering)
		// Asked for before a restart, and the result was used meanwhile.
		to(p.reverting && p.code == 0, tasks.Finished, func(n *phase) { n.reverting = false })
	case tasks.Running:
		to(t.fails != 0, tasks.Aborting, because(t.fails))
		to(t.commits, tasks.Committing)
		to(t.fails == 0 && !t.commits && !t.hangs, tasks.Finished)
	case tasks.Committing:
		to(!t.refused && !t.dies, tasks.Finished)
		to(t.refused, tasks.Recovering, because(code.VolumeCopy))
		to(t.dies, tasks.Failed, because(code.VolumeCopy), func(n *phase) { n.past = true })
	case tasks.Aborting:
		to(true, tasks.Recovering)
		to(t.decided && p.code == code.TaskAborted, tasks.Committing, because(0), func(n *phase) { n.lost = true })
	case tasks.Finished:
		to(p.atEnd, tasks.Queued, func(n *phase) { n.atEnd, n.reverting = false, true })
		to(p.atEnd, tasks.Finished, func(n *phase) { n.atEnd = false }) // in use, or another task has its locks
	case tasks.Recovering:
		to(true, tasks.Recovered)
		to(t.stays, tasks.Failed)
	}
	if p.doubt != (request{}) {
		n := p
		n.doubt = request{}
		if refused, done := t.decide(n, p.doubt); refused == 0 {
			next = append(next, done)
		}
	}
	return next
}

// decide says how a request is answered in a phase, and what it makes of it: a code other than 0 refuses it.
func (t traits) decide(p phase, q request) (code.Code, phase) {
	known := p.at != absent && p.at != tasks.Cleared
	if !known && q.verb != submit {
		return code.UnknownTask, p
	}
	n := p
	switch q.verb {
	case submit: // G9: the id is looked up before anything else is checked
		switch {
		case p.at == tasks.Cleared, known && p.other != q.other:
			return code.AddTask, p
		case known:
			return 0, p
		case q.fenced:
			return code.FlowCancelled, p
		}
		n.at, n.other = tasks.Queued, q.other
	case stop: // G3, G9
		switch {
		case p.at == tasks.Queued && !p.reverting, p.at == tasks.Running:
			n.at, n.code, n.atEnd = tasks.Aborting, code.TaskAborted, q.flow && !t.final
		case p.at == tasks.Committing && q.flow && !t.final, p.at == tasks.Aborting && p.code == code.TaskAborted && q.flow && !t.final:
			n.atEnd = true
		case p.at == tasks.Finished && q.flow: // since the flow was looked at
			return t.decide(p, request{verb: revert, locked: q.locked, used: q.used})
		case p.at == tasks.Committing, p.at == tasks.Finished, p.at == tasks.Failed && p.code != code.TaskAborted && !p.lost:
			return code.TaskState, p
		}
	case revert: // G8, G9
		switch {
		case p.reverting && p.at != tasks.Failed:
			return 0, p
		case !p.at.Final():
			return code.TaskNotFinished, p
		case p.at == tasks.Recovered, p.past, p.at == tasks.Finished && t.final:
			return code.NotRevertible, p
		case q.locked, q.used && p.at == tasks.Finished:
			return code.TaskState, p
		}
		n.at, n.reverting, n.atEnd = tasks.Queued, true, false
	case clear: // G10
		if !p.at.Final() {
			return code.TaskState, p
		}
		n = phase{at: tasks.Cleared}
	}
	return 0, n
}

// sees says whether what a request showed is what there is to see in a phase.
func (p phase) sees(q request, a answer) bool {
	switch q.verb {
	case get:
		want := seen{p.at, p.code, p.lost}
		if p.at == tasks.Queued {
			want.code = 0
		}
		return a.seen == want
	case preview:
		return a.cancelable == (p.at == tasks.Queued && !p.reverting || p.at == tasks.Running)
	}
	return true
}

// phases is what is known of a task: it is in one of these.
type phases []phase

// later adds where the task can be after any time.
func (ps phases) later(t traits) phases {
	all := slices.Clone(ps)
	for i := 0; i < len(all); i++ {
		for _, n := range t.moves(all[i]) {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	return all
}

// after is what is known once a request was answered; nothing if the answer is wrong in every phase.
func (ps phases) after(t traits, q request, a answer) phases {
	var left phases
	for _, p := range ps.later(t) {
		refused, n := t.decide(p, q)
		switch {
		case a.code == code.TaskPersist && refused == 0 && n != p: // it was to be recorded
			if n = p; a.unknown {
				n.doubt = q
			}
		case a.code != refused, a.code == 0 && !p.sees(q, a):
			continue
		}
		if !slices.Contains(left, n) {
			left = append(left, n)
		}
	}
	return left
}

// certain is what is known when nothing is in doubt any more, as after a restart.
func (ps phases) certain(t traits) phases {
	var all phases
	for _, p := range ps.later(t) {
		if p.doubt = (request{}); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// traitsOf reads the traits from the parameters: nothing after a step that ends the way forward counts.
func traitsOf(p mock.Params) (t traits) {
	for _, k := range p.Steps {
		t.stays = t.stays || k.UndoFails > 0
	}
	for _, k := range p.Steps {
		fails := k.FailAt > 0 || k.Panics
		t.decided = t.decided || k.DecidedBy != ""
		switch committing := t.commits || k.PointOfNoReturn; {
		case k.Worker != "" && k.Pace == 0:
			t.hangs = true
			return t
		case fails && !committing:
			t.fails = code.VolumeCopy
			if k.Panics {
				t.fails = code.InternalError
			}
			return t
		}
		t.commits = t.commits || k.PointOfNoReturn || k.DecidedBy != ""
		if fails && (k.Refused || k.Permanent) {
			t.refused, t.dies = !k.Permanent, k.Permanent
			return t
		}
	}
	return t
}

func (a answer) String() string {
	switch {
	case a.code != 0:
		return fmt.Sprint(int(a.code))
	case a.seen != seen{}:
		return fmt.Sprintf("%s/%d lost: %v", a.seen.state, a.seen.code, a.seen.lost)
	}
	return fmt.Sprintf("true (%v)", a.cancelable)
}
