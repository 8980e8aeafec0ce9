package main

import (
	"testing"
	"time"
)

// A task that is paused, stays so across a restart of the daemon, and is stopped.
func TestPause(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1", "gib", 4))
		h.pass(1500 * time.Millisecond)
		h.say("pause", "1a2b")
		h.say("pause", "1a2b", "--json")
		h.say("tasks")
		h.say("task", "1a2b")
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "watch", "1a2b")
		h.say("wait", "1a2b", "--timeout", "5")
		h.stopAll()
		h.start()
		h.comment("the daemon was restarted")
		h.say("tasks")
		h.say("resume", "1a2b")
		h.say("resume", "1a2b", "--json")
		h.after(1200*time.Millisecond, func() { h.pauseFor(uuid("1a2b3c4d"), 2*time.Second) })
		h.skew()
		h.say("watch", "1a2b")
		h.say("pause", "1a2b")
		h.say("resume", "1a2b")
		h.submit("55555555", "Volume.copy", "", volume("a2"))
		h.submit("66666666", "Volume.copy", "", volume("a2"))
		h.pass(time.Second)
		h.say("pause", "6666")
		h.say("pause", "5555")
		h.say("Host", "setLimits", "copy=1")
		h.submit("77777777", "Volume.copy", "", volume("a7"))
		h.say("resume", "5555")
		h.say("tasks")
		h.say("stop", "5555", "--wait")
		h.say("pause", uuid("dead"))
		h.say("pause")
	})
}

// pauseFor is somebody else's pause of a task.
func (h *host) pauseFor(id string, d time.Duration) {
	if err := h.engine.Pause(id, "engine"); err != nil {
		h.t.Error(err)
	}
	h.after(d, func() {
		if err := h.engine.Resume(id, "engine"); err != nil {
			h.t.Error(err)
		}
	})
}

func TestLimit(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1", "gib", 4))
		h.skew()
		h.say("limit", "1a2b", "512M")
		h.say("task", "1a2b")
		h.say("limit", "1a2b", "none", "--json")
		h.say("limit", "1a2b", "none")
		for _, rate := range []string{"0", "50 parrots", "50MB", "", "M", "NaN", "9999999T", "5GK"} {
			h.say("limit", "1a2b", rate)
		}
		h.say("limit", "1a2b")
		h.say("wait", "1a2b")
		h.say("limit", "1a2b", "1G")
	})
}

// Who waits for what, and how the limits are changed.
func TestQueue(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("queue")
		h.say("queue", "--set", "copy=2,queue=4")
		for _, task := range []struct{ id, volume string }{{"11111111", "a1"}, {"22222222", "a2"}, {"33333333", "a3"}, {"44444444", "a1"}, {"55555555", "a1"}} {
			h.submit(task.id, "Volume.copy", "", volume(task.volume))
		}
		h.pass(1500 * time.Millisecond)
		h.say("queue")
		h.say("task", "5555")
		h.terminal, h.width = true, 80
		h.say("queue", "--no-color")
		h.terminal = false
		h.submit("66666666", "Volume.copy", "", volume("a6"))
		h.say("Volume", "copy", "volumeID="+uuid("a7"))
		h.say("queue", "--set=queue=none,light=9", "--json")
		h.say("Host", "setLimits", "copy=0")
		h.say("queue")
		for _, set := range []string{"copy", "fast=3", "copy=-1", "copy=many", "copy=1,copy=2", ""} {
			h.say("queue", "--set", set)
		}
	})
}

func TestHistory(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("history")
		for _, id := range []string{"11111111", "22222222", "33333333"} {
			h.submit(id, "Volume.copy", "flow-1", volume("a"+id[:1], "gib", 1, "failAt", int(id[0]-'0')/2))
			h.pass(time.Minute)
			h.say("clear", id)
		}
		h.say("history")
		h.say("history", "--limit", "2")
		h.say("history", "-n", "1", "--json")
		h.say("history", "--limit", "0")
	})
}

// A finished task says until when it can be reverted, if that ends.
func TestCanBeRevertedUntil(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1", "gib", 1, "keepFor", int(time.Hour)))
		h.pass(2 * time.Second)
		h.say("task", "1a2b")
		h.pass(2 * time.Hour)
		h.say("task", "1a2b")
		h.say("revert", "1a2b")
	})
}

// A task can have all that it waited for and not have begun yet; that is too short to be met in a session.
func TestWaitsForNothing(t *testing.T) {
	for message, want := range map[string]string{
		"waiting":                      "nothing, it is about to begin",
		"waiting for x":                "x",
		"waiting to be reverted for x": "waiting to be reverted for x",
	} {
		if got := waitsFor(message); got != want {
			t.Errorf("%q: %q, want %q", message, got, want)
		}
	}
}

// A drain waits for all that is under way, lets nothing new in, and goes on when the waiting is interrupted.
func TestDrain(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("drain")
		h.say("queue")
		h.say("Volume", "copy", "volumeID="+uuid("a7"))
		h.say("drain", "--end")
		h.submit("11111111", "Volume.copy", "", volume("a1", "gib", 2))
		h.submit("22222222", "Volume.copy", "", volume("a1"))
		h.say("drain", "--no-wait")
		h.sayUntil(h.interruptAfter(time.Second), "drain")
		h.terminal = true
		h.say("drain", "--no-color")
		h.terminal = false
		h.say("drain", "--json")
		h.say("drain", "--end", "--no-wait")
	})
}

func TestConfig(t *testing.T) {
	bubble(t, func(h *host) {
		h.width = 140
		h.say("config", "show")
		h.say("config", "show", "--changed", "--json")
	})
}
