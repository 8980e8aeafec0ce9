// Package rpc is the agent's side of JSON-RPC 2.0: a table of methods, the limits of a connection, who asks, VDSM's error
// codes, and the verbs about tasks and flows themselves (Task.*, Flow.*, Host.*). What a storage or VM verb does is not
// here: a verb that makes a task is submitted to the engine, any other is a tasks.Call.
//
// It asks the task engine through the interface Engine, which it owns. Messages come from rpc/stream, words go out as
// rpc/wire has them. It may be imported by agent and by transports below rpc.
package rpc
