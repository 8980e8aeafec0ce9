// Package storageops has the storage verbs as steps: what each does, how it is seen that it was done, and how it is taken
// back. Order, durability, stop and recovery are the task engine's; the layout on disk is domain's; images are qemuimg's
// and copy's. It knows nothing about JSON-RPC.
//
// It may be imported by agent and vmops, and imports tasks, internal/proc, internal/code, internal/param and the packages
// below it.
package storageops
