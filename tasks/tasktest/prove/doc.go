// Package prove is the harness that proves the cancel contract (docs/cancel-contract.md, "How it is proven"): it runs verbs over
// a world in memory, and at every point of a run (each transaction of the store, each effect, each undo) it lets a stop arrive,
// the agent die, or the operation fail, and then checks what the client was told against what became true.
//
// A verb package brings its verbs over a fake World and a list of Cases, and calls Run from its tests. This package knows the
// task engine and no verb. Only tests import it.
//
// # A case
//
// A run lives in a bubble of testing/synctest. A client follows a script: a = submit, wait, clear, and wait for what the task put
// off; b = the same with a revert before the clear; q = submit behind a task that has the locks, and stop. It repeats every request
// whose answer it did not get. Each time the task takes its locks a rival task that needs all of them is put behind it.
//
// Points are numbered from the start of each process. A seed says everything: "mock/two steps/b:stop@17,crash@+3:k2" is the
// package, the case, the script, and the faults; a second fault counts from the first, or, after a crash, from the start of the
// new process. The faults, with what follows their colon:
//
//   - stop: before an effect, or queued behind a transaction; f = with force, 2 = twice, late = a moment after the point.
//   - crash: before the point; kN = the Nth outcome, see below.
//   - restart: the agent shuts down in good order, beginning at the point.
//   - fail: the operation fails once; of a transaction u = nothing is written, k = unknown and lost, a = unknown and there.
//   - failfrom: it and all later ones of its kind fail until they are healed, by a minute or by the client.
//
// Of what was not synced when the process died (open transactions, then effects of the world, in their order) any part may be
// left. Of at most 4 changes all 16 subsets are tried: N's bit i says whether the ith is kept. Of more, 16 subsets are drawn by a
// generator (PCG) that is seeded with a hash of package, case and script, and with N.
//
// Every 50th case is run twice more and must be the same each time: what a run does depends on nothing but its seed, because at
// every point the harness first waits until everybody else is blocked.
package prove
