package main

import (
	"testing"
	"time"
)

// What happens to tasks, flows and jobs, as it happens, over a restart of the daemon.
func TestEvents(t *testing.T) {
	bubble(t, func(h *host) {
		h.after(time.Second, func() { h.submit("1a2b3c4d", "Volume.copy", "flow", volume("a1", "gib", 4)) })
		h.skew()
		h.sayUntil(h.interruptAfter(8*time.Second), "events")
		h.after(time.Second, func() { h.clear("1a2b3c4d") })
		h.submit("11111111", "Volume.copy", "", volume("a3"))
		h.sayUntil(h.interruptAfter(3400*time.Millisecond), "events", "--json", "--topic", "|tasks|status|*", "--topic", "|jobs|*")
		h.after(time.Second, func() { h.stopAll(); h.start() })
		h.after(5300*time.Millisecond, func() { h.submit("22222222", "Volume.copy", "", volume("a2")) })
		h.sayUntil(h.interruptAfter(9700*time.Millisecond), "events", "--topic", "|tasks|status|*")
		h.say("events", "--topic", "[")
		h.say("events", "1a2b")
	})
}

// A daemon of another host: what the flags and the environment must say.
func TestConnect(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("tasks", "--connect", "other.example.com")
		h.say("tasks", "--connect", "other.example.com:54321")
		h.say("tasks", "--connect", "other.example.com:54321", "--cert", "c", "--key", "k")
		h.say("tasks", "--cert", "c")
		h.say("tasks", "--verify-host")
	})
}
