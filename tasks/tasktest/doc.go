// Package tasktest is what tests of tasks and of everything above them stand on: MemStore, a store in memory that can crash and
// fail, and StoreSuite, the conformance suite that every store passes. The mock verb is in tasktest/mock. Only tests import
// this package; nothing of it is in the agent.
package tasktest
