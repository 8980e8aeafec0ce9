package tasks

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
)

// The tags of tasks. Engines list and clear only tasks tagged spm.
const (
	TagSPM   = "spm"   // submitted with a pool by an engine
	TagSDM   = "sdm"   // a storage job
	TagVirt  = "virt"  // of a virtual machine
	TagHost  = "host"  // of the host
	TagLocal = "local" // the local command line without a pool, imports, reclaims
)

// isJob says whether tasks with this tag leave by themselves when they have ended: nobody clears them.
func isJob(tag string) bool { return tag == TagSDM || tag == TagVirt || tag == TagHost }

// Class groups verbs that share a limit of how many run at a time.
type Class string

// The classes.
const (
	ClassCopy  Class = "copy"  // moves much data
	ClassMerge Class = "merge" // commits a chain's layer into the one below
	ClassVM    Class = "vm"    // waits for a virtual machine
	ClassLight Class = "light" // metadata, seconds at most
	// ClassMigrate sends a virtual machine to another host, and is of use only if few do so at a time.
	ClassMigrate Class = "migrate"
)

// Classes are all classes.
var Classes = []Class{ClassCopy, ClassMerge, ClassVM, ClassLight, ClassMigrate}

// Verb is an operation that runs as a task. All fields but Word and Admit are needed.
type Verb struct {
	Name   string // as clients call it: "Volume.copy"
	Word   string // as engines know it: "copyImage"; "" = Name
	Doc    string // one sentence that says what it does
	Role   access.Role
	Params any  // the zero value of its parameter struct, for help texts
	Ours   bool // not a verb of VDSM: unknown parameters are refused
	// Job says that clients name the task by a parameter job_id, of their choice, and are answered true.
	Job bool
	// AnswersTrue says that clients are answered true instead of the task's id: one that wants to know it chooses it (taskID).
	AnswersTrue bool
	// IDParam is a parameter of the verb's own with the id that the task shall have, "" = none. A taskID goes before it.
	IDParam string

	Forward  bool // refused once its flow is cancelled; clean-up verbs are not
	Class    Class
	Contract Contract

	// Plan makes the task's steps and locks from its id and parameters. It must depend on nothing else, touch nothing, and
	// give the same steps after a restart. An error (1000) refuses the submit.
	Plan func(id string, params json.RawMessage) (*Plan, error)
	// Admit is what can be checked at once at submit, before the task exists: existence, room at a glance; at most 2 s,
	// no locks, no effects. What needs more is the first step.
	Admit func(ctx context.Context, params json.RawMessage) error
}

// Contract is a verb's row of the cancel matrix, in words for people and user interfaces.
type Contract struct {
	CancellableUntil string
	PointOfNoReturn  string // the step, "" = none before the end
	DecidedBy        string // the program that decides, "" = this agent
	Undo             string // what has happened when a stopped task reads recovered
	Remainder        string // what the undo may leave
	Revert           string // what a revert of a finished task does; "" = NotRevertible
	Bound            time.Duration
}

// Call is a verb that is answered at once and makes no task.
type Call struct {
	Name   string
	Doc    string // one sentence that says what it does
	Role   access.Role
	Params any
	Result any // the zero value of what it answers, for schemas; nil = true
	Ours   bool
	// Cancels: it is answered although others of its connection wait for their turn.
	Cancels bool
	// Locks are what it holds while it is answered; nil = nothing. With an error it is not answered.
	Locks  func(params json.RawMessage) ([]Lock, error)
	Answer func(ctx context.Context, params json.RawMessage) (any, error) // a nil result is answered as true
}

type askerKey struct{}

// WithAsker is ctx with who asks for a call.
func WithAsker(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, askerKey{}, who)
}

// Asker is who asks for the call that ctx belongs to: what its answer does to tasks is done in that name.
func Asker(ctx context.Context) string {
	who, _ := ctx.Value(askerKey{}).(string) // nobody is ""
	return who
}

// Plan is what a verb will do with given parameters.
type Plan struct {
	Tag   string
	Locks []Lock
	Steps []Step
	// Success is the sentence of the finished task; "" = "finished".
	Success string

	// Fingerprint is called after the last step and stored with the finish; Unused gets it back. May be nil.
	Fingerprint func(ctx context.Context, s *Scope) (any, error)
	// Unused is asked before a revert, under the task's locks: an error (410) names what may have used the result since.
	// fingerprint is what Fingerprint returned, as JSON. May be nil.
	Unused func(ctx context.Context, s *Scope, fingerprint json.RawMessage) error
	// Expires says until when the finished task can be reverted if it is not cleared; zero = for ever. When that has passed,
	// Deferred is asked with EndExpired, and the task stays listed. It may look only at the plans of steps. May be nil.
	Expires func(s *Scope) time.Time
	// Deferred returns the task that carries out destruction which this one put off, or nil. It is recorded in the same
	// transaction as the end that it is asked for. May be nil.
	Deferred func(s *Scope, end End) *Submission
}

// End says which end of a task Deferred is asked about.
type End string

// The ends.
const (
	EndUndone   End = "undone"   // stopped or failed, and now undone
	EndReverted End = "reverted" // reverted
	EndCleared  End = "cleared"  // cleared, and nothing was submitted at an end before
	EndExpired  End = "expired"  // finished, not cleared, and past Plan.Expires
)

// Lock is something that a task holds while it lives.
type Lock struct {
	Key       string // "domain/<uuid>", "image/<domain>/<uuid>"; compared as it is
	Exclusive bool
}

// Step is a part of a task that is meaningful to a user. The engine calls Plan, stores what it returned, and only
// then calls Do; after a crash it calls Check, and Do again unless Check says that the effect is there; Undo gets the
// same plan, also when Do was never called, half done, or done. All functions may be nil but Do.
type Step struct {
	Name   string // "copy-data"
	Undone string // what the undo has done, for messages: "destination volume removed"; "" if there is nothing to say

	// Plan finds out what Do will do and what Undo will need. It has no effects. Its result is stored as JSON.
	Plan func(ctx context.Context, s *Scope) (any, error)
	// Do has the effect. It is idempotent together with Check: it may be called again after a crash at any line.
	// When ctx ends it returns soon, with any error; the engine knows why.
	Do func(ctx context.Context, s *Scope) error
	// Check says whether Do's whole effect is there.
	Check func(ctx context.Context, s *Scope) (bool, error)
	// Undo takes the effect back. It is idempotent, and its ctx ends only when the agent does. An error is the residue.
	Undo func(ctx context.Context, s *Scope) error

	// Slices marks a step that goes in slices with checkpoints, so that it can be paused: its Do is ended as at a shutdown and
	// called again when the task is resumed.
	Slices bool
	// Verify marks a step without effects: its Plan looks at the world, and its Do looks again when the task is resumed.
	Verify bool
	// PointOfNoReturn: recording this step's plan is the task's decision. It is retried until it is done.
	PointOfNoReturn bool
	// Refused says whether an error of a point of no return means that it was refused, so that, when Check finds no
	// effect, the task is undone after all.
	Refused func(error) bool
	// DecidedBy names the program whose answer decides. After a stop Do goes on asserting the cancel until that program
	// answers: nil means that it had finished, an error that it was cancelled.
	DecidedBy string
	// Asserted marks a step whose work goes on in another program, also without the agent, and decides nothing. After a stop, also one over a
	// restart, its Do is called until it has returned, and it returns only when that work is gone.
	Asserted bool
	// AskGrace is how long Do may take to end by itself after a stop before its workers get SIGTERM.
	AskGrace time.Duration
	// Remainder says what the undo leaves of this step, "" for nothing. Asked when the undo has passed the step.
	Remainder func(s *Scope) string
}

// asked says whether the step asks another program, and so must be told of a stop until it has got its answer.
func (s *Step) asked() bool { return s.DecidedBy != "" || s.Asserted }

// Worker is something outside the agent that works for a task and must be gone before the task is final.
type Worker interface {
	Pids() []int           // alive now
	Describe() []string    // a sentence for each: pid, program, state, where it waits
	Terminate()            // SIGTERM; idempotent
	Kill()                 // SIGKILL of all of it; idempotent
	Gone() <-chan struct{} // closed when all of it is proven gone
}

// Submission asks for a task.
type Submission struct {
	ID     string // chosen by the client, or "" for a new one
	Verb   string
	Params json.RawMessage
	Flow   string // correlation id, "" = none
	Who    string // the peer that asks
	Part   bool   // a task that there is submits it, as a part of its own work
}

// TaskLock is the lock that a task holds on what belongs to it alone, such as its part of a trash.
func TaskLock(id string) Lock { return Lock{Key: "task/" + id, Exclusive: true} }

// Permanent marks an error of a committing step that no retry can mend: the task fails with this residue.
func Permanent(err error, residue ...string) error { return &permanentError{err, residue} }

type permanentError struct {
	error
	residue []string
}

func (e *permanentError) Unwrap() error { return e.error }
