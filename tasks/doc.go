// Package tasks is the task engine: it runs verbs as durable tasks made of steps, and keeps the cancel contract
// (docs/cancel-contract.md) for all of them. It knows nothing about storage, virtual machines or JSON-RPC; a verb brings
// steps, and everything else (order, durability, stop, undo, recovery, locks, progress) comes from here.
//
// # Invariants
//
// A task's durable record is changed in one place, (*task).change, under the task's own lock, and a change is published
// to readers only after the store has it. So what a client was told is always on stable storage, and readers never
// wait for a writer.
//
// A stop and a point of no return are both such changes of the same record: whichever is recorded first wins, and
// the loser sees it when it looks at the state under the lock. There is no other flag that decides.
//
// Each task has one goroutine, drive, which does what the recorded state says until it is final. Recovery after a crash is
// nothing else than starting drive on the records that were found.
//
// No effect without a record before it: a step's plan, which is all that its undo needs, is stored before Do is called.
//
// A final state is recorded only after every worker that was attached for the task is gone, and the task's locks are
// released only after that.
//
// It may be imported by storageops, vmops, rpc, agent and tasktest.
package tasks
