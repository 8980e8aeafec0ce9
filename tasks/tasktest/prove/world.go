package prove

import (
	"encoding/json"

	"vdsm-agent/tasks"
)

// Gate is asked by a world before every single effect: each write, rename, sync, start of a worker, each thing that a
// crash could come before or after. s is the step that has the effect, or whose undo has it; effect says in a few words
// what it is, the same in every run ("write slice 3", "sync", "rename to the trash").
//
// nil lets the effect happen. On an error the effect must not happen, and the error must reach the engine as the step's,
// as an error of the storage would. The gate of a process that has crashed answers an error for ever. A gate may block
// for as long as it likes, so a world holds no lock of its own while it asks. Only looking at the world needs no gate.
type Gate = func(s *tasks.Scope, effect string) error

// World is what the verbs under proof change: a model in memory of what the real ones change on disk or in a guest. It
// uses no goroutine, file or process that lives outside of the bubble of testing/synctest in which it is used, and
// waits only on channels and timers.
//
// An effect is there for all readers at once and survives a crash for sure only when it was synced, in the way in which
// the real thing is synced (fsync of the file, of the directory).
type World interface {
	// Verbs returns the verbs as a process registers them that starts now. All their effects ask gate.
	Verbs(gate Gate) []*tasks.Verb
	// Seen is what an observer sees, canonical, a line for each thing. What only the agent itself looks at (its trash)
	// is in it too, each line of it beginning with "trash ".
	Seen() string
	// Unsynced is how many effects a crash may keep or lose, each by itself.
	Unsynced() int
	// Crash returns the world that the next process finds: of the unsynced effects, in their order, those are kept for which
	// keep says so. Workers of the former process are gone. The receiver is not used any more.
	Crash(keep func() bool) World
	// Alive names what works for the task outside of the agent, such as worker processes.
	Alive(task string) []string
}

// Publisher is a World with things that whoever sees them takes for whole, such as a volume that is LEGAL. At each record of the
// task, so also at the first after a crash, they must be as they were before the task, or as it leaves them.
type Publisher interface {
	Published() []string // what is published and what is in it, a line for each thing
}

// Case is one verb with parameters, in a world where it can be run.
type Case struct {
	Name   string // unique in its package: "Volume.copy raw to cow"
	Verb   string
	Params json.RawMessage
	// World makes the world before the submit, the same each time.
	World func() World
	// Final: its verb can be reverted, but not with these parameters. A revert of the finished task is refused.
	Final bool
	// Remainder checks what a recovered task has left, when its verb declares a remainder: before and after are what Seen
	// said. nil = after must be before (but for lines of the trash, until they are reclaimed).
	Remainder func(before, after string) error
	// MayFail: a run that was disturbed may end in an error of the verb's own, and so be undone though nobody asked.
	MayFail bool
}
