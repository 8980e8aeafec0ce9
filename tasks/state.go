package tasks

import (
	"fmt"
	"strings"

	"vdsm-agent/internal/code"
)

// State is where a task is. See Transitions for who moves it.
type State string

// The states of a task. Each says how long a task stays in it.
const (
	Init       State = "init"       // being recorded; no client has seen the id yet
	Queued     State = "queued"     // recorded; until it has its locks and a slot
	Running    State = "running"    // steps before the point of no return; a stop is taken
	Committing State = "committing" // past the point of no return; rolls forward, whatever happens
	Aborting   State = "aborting"   // stopped or in error; until everything started for it is gone
	Recovering State = "recovering" // its undo runs
	Finished   State = "finished"   // success; until it is cleared or reverted
	Recovered  State = "recovered"  // undone; until it is cleared
	Failed     State = "failed"     // part of the undo, or of a commit, could not be done; see its residue
	Cleared    State = "cleared"    // in the history only
)

// Final says whether a task in this state stays there until a client asks for something.
func (s State) Final() bool { return s == Finished || s == Recovered || s == Failed || s == Cleared }

// Transition is one row of the table by which tasks move.
type Transition struct {
	From, To State
	When     string
}

// Transitions is the whole table. (*task).change refuses any other move, and docs/states.md is printed from it.
var Transitions = []Transition{
	{Init, Queued, "submit recorded"},
	{Queued, Running, "locks and a slot taken"},
	{Queued, Aborting, "stop, or the locks were not free within the limit"},
	{Queued, Recovering, "revert has its locks"},
	{Queued, Finished, "revert refused: the result may have been used, or its locks were not free"},
	{Queued, Failed, "the undo is not tried again: its locks were not free"},
	{Running, Committing, "point of no return recorded"},
	{Running, Finished, "last step done"},
	{Running, Aborting, "stop, or a step failed"},
	{Committing, Finished, "last step done"},
	{Committing, Recovering, "refused: the step's check proves that nothing happened"},
	{Committing, Failed, "can never complete"},
	{Aborting, Recovering, "everything started for it is gone"},
	{Aborting, Committing, "stop lost: the program that decides had finished"},
	{Recovering, Recovered, "undo complete"},
	{Recovering, Failed, "undo incomplete"},
	{Finished, Queued, "revert"},
	{Failed, Queued, "revert: the undo is tried again"},
	{Finished, Finished, "expired: it can no longer be reverted; or the revert that its flow asked for was refused"},
	{Finished, Cleared, "clear"},
	{Recovered, Cleared, "clear"},
	{Failed, Cleared, "clear"},
}

var legal = func() map[[2]State]bool {
	m := map[[2]State]bool{}
	for _, t := range Transitions {
		m[[2]State{t.From, t.To}] = true
	}
	return m
}()

// checkTransition refuses a move that is not in the table. A change that keeps the state is always legal, but for final
// ones, which are sticky (G10).
func checkTransition(from, to State) error {
	if from == to && !from.Final() || legal[[2]State{from, to}] {
		return nil
	}
	return code.Errorf(code.NotRevertible, "a task cannot move from %s to %s", from, to)
}

// Diagram prints the transition table as a mermaid state diagram.
func Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> init\n")
	for _, t := range Transitions {
		fmt.Fprintf(&b, "    %s --> %s: %s\n", t.From, t.To, t.When)
	}
	b.WriteString("    cleared --> [*]\n")
	return b.String()
}
