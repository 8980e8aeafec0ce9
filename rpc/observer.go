package rpc

import (
	"time"

	"vdsm-agent/internal/code"
)

// Observer is told what clients do, for figures about it. What it returns is called from any goroutine, in the middle of the work, and returns
// at once.
type Observer interface {
	// Method is asked once for each method, before it is called, for what is told of each answer: its code, 0 without an error, and how
	// long it took.
	Method(name string) func(c code.Code, took time.Duration)
	// Connected: a client is connected to the socket that a transport of that name has, until what is returned is called.
	Connected(socket string) (gone func())
	// TurnedAway: there were too many for one more.
	TurnedAway(socket string)
}

// noMethod stands for all names that no method has.
const noMethod = "unknown"

// nobody observes.
type nobody struct{}

func (nobody) Method(string) func(code.Code, time.Duration) { return func(code.Code, time.Duration) {} }
func (nobody) Connected(string) func()                      { return func() {} }
func (nobody) TurnedAway(string)                            {}
