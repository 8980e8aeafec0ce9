package main

import "testing"

// What fits the last of some words, as the scripts of the shells are told.
func TestComplete(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "move-1", volume("a1"))
		h.submit("fa11fa11", "Volume.copy", "not one word", volume("a2", "failAt", 0))
		h.skew()
		for _, words := range [][]string{
			{}, {"st"}, {"x"}, {"flow", ""}, {"flow", "cancel", ""}, {"tasks", "--s"}, {"tasks", "--state", "f"}, {"tasks", "--state=f"}, {"tasks", "--flow", ""},
			{"stop", ""}, {"stop", "1a", "--"}, {"clear", ""}, {"task", ""}, {"contract", "Vol"}, {"events", "--topic", ""}, {"trash", "restore", ""},
			{"completion", ""}, {"store", "check", ""}, {"--cert", ""}, {"--cert", "c", "stop", ""}, {"--connect", "h", "version", "--cert"}, {"--json", "ta"}, {"--socket", "/run/other.sock", "stop", ""}, {"trash", "list", "--domain", ""},
			{"H"}, {"Vol"}, {"Volume", ""}, {"Volume", "copy", "s"}, {"Volume", "copy", "storagepoolID=x", "storage"}, {"Task", "stop", "taskID="},
			{"Task", "stop", "force="}, {"Task", "stop", "--"}, {"Volume", "copy", "-f", ""}, {"--json", "Task", "st"}, {"Nothing", ""}, {"Task", "nothing", ""},
		} {
			h.say(append([]string{"complete", "--"}, words...)...)
		}
	})
}
