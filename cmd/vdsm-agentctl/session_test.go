package main

import (
	"testing"
	"time"
)

func volume(n string, more ...any) map[string]any {
	p := map[string]any{"volumeID": uuid(n), "storagepoolID": noPool}
	for i := 0; i+1 < len(more); i += 2 {
		p[more[i].(string)] = more[i+1]
	}
	return p
}

// A task from its start to its end, as a person sees it.
func TestLifeOfATask(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("tasks")
		h.submit("1a2b3c4d", "Volume.copy", "flow-1", volume("a1"))
		h.submit("1a2b9999", "Volume.copy", "flow-1", volume("a1"))
		h.pass(3500 * time.Millisecond)
		h.say("tasks")
		h.say("task", "1a2b3")
		h.say("task", "1A2B9")
		h.say("stop", "1a2b3", "--dry-run")
		h.say("wait", "1a2b3")
		h.say("tasks")
		h.say("tasks", "--all")
		h.say("tasks", "--state", "finished")
		h.say("tasks", "--flow", "none")
		h.say("task", uuid("1a2b3c4d"), "--log")
		h.say("wait", "1a2b9", "--timeout", "2")
		h.say("stop", "1a2b9", "--wait")
		h.say("task", "1a2b9")
		h.say("wait", "1a2b9")
		h.say("revert", "1a2b3", "--wait=30")
		h.say("clear", "1a2b3", "1a2b9")
		h.say("tasks", "--all")
		h.say("task", uuid("1a2b3c4d"))
		h.say("task", uuid("1a2b3c4d"), "--log")
	})
}

// What a task is, when it does not simply finish.
func TestEndsOfATask(t *testing.T) {
	bubble(t, func(h *host) {
		h.comment("fails, and is undone")
		h.submit("fa11", "Volume.copy", "", volume("f1", "failAt", 2))
		h.say("wait", "fa11")
		h.say("revert", "fa11")
		h.comment("fails, and cannot be undone")
		h.submit("dead", "Volume.copy", "", volume("f2", "failAt", 2, "undoable", false))
		h.say("wait", "dead", "--json")
		h.say("tasks")
		h.say("task", "dead")
		h.say("stop", "dead")
		h.say("revert", "dead", "--wait")
		h.comment("a stop that is too late")
		h.submit("1a7e", "VM.migrate", "", volume("f3", "commits", true))
		h.pass(time.Second)
		h.say("stop", "1a7e")
		h.say("stop", "1a7e", "--dry-run")
		h.say("stop", "1a7e", "--dry-run", "--json")
		h.say("task", "1a7e")
		h.say("wait", "1a7e", "--json")
		h.say("stop", "1a7e", "--wait")
		h.say("revert", "1a7e")
		h.comment("a stop of what has not begun, and a second stop")
		h.submit("0a", "Volume.copy", "", volume("f4"))
		h.submit("0b", "Volume.copy", "", volume("f4"))
		h.say("stop", "0b", "--dry-run")
		h.say("stop", "0b", "--json")
		h.say("stop", "0b", "--wait", "--json")
		h.say("stop", "0a", "--force")
		h.say("clear", "dead", "0a", "0b")
		h.say("tasks", "--all", "--json")
	})
}

// Names that mean several tasks, none, or everything.
func TestNames(t *testing.T) {
	bubble(t, func(h *host) {
		for _, id := range []string{"aaaa1", "aaaa2", "aaaa3", "aaaa4", "aaaa5", "aaaa6", "aaaa7", "b"} {
			h.submit(id, "Volume.copy", "", volume("a1"))
		}
		h.say("task", "aaaa")
		h.say("stop", "cccc")
		h.say("stop", "")
		h.say("stop", "b")
		h.say("stop", uuid("c"))
		h.say("wait", uuid("c"))
		h.say("watch", uuid("c"))
		h.say("task", "--log", uuid("c"))
		h.say("stop", "a.b")
	})
}

// Lines on a pipe: one at each whole ten percent and at each change of state.
func TestWatchLines(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("watch")
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1"))
		h.submit("55555555", "Volume.copy", "", volume("a2", "failAt", 3))
		h.skew()
		h.say("watch", "1a2b")
		h.say("watch", "5555")
		h.submit("66666666", "Volume.copy", "", volume("a3", "gib", 2))
		h.skew()
		h.say("watch")
		h.submit("77777777", "Volume.copy", "", volume("a4", "gib", 2, "failAt", 1))
		h.submit("88888888", "Volume.copy", "", volume("a4", "gib", 2))
		h.skew()
		h.say("watch")
		h.submit("99999999", "Volume.copy", "", volume("a5", "gib", 2))
		h.skew()
		h.say("watch", "99", "--json")

		h.submit("c1ea4ed0", "Volume.copy", "", volume("a6"))
		h.after(8*time.Second+50*time.Millisecond, func() { h.clear("c1ea4ed0") })
		h.skew()
		h.say("watch", "c1ea")
		h.submit("c1ea4ed1", "Volume.copy", "", volume("a7"))
		h.after(8*time.Second+50*time.Millisecond, func() { h.clear("c1ea4ed1") })
		h.skew()
		h.say("watch")
	})
}

// Ctrl-C ends the command, never the task.
func TestInterrupted(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "flow-1", volume("a1", "gib", 1000))
		h.skew()
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "watch", "1a2b")
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "watch")
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "wait", "1a2b")
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "Task", "wait", "taskID="+uuid("1a2b3c4d"))
		h.say("tasks")
		h.submit("1a2b5555", "VM.migrate", "flow-2", volume("a1"))
		h.say("stop", "1a2b3", "--wait")
		h.terminal = true
		h.skew()
		h.sayUntil(h.interruptAfter(1200*time.Millisecond), "watch", "1a2b5")
	})
}

// The daemon goes and comes while commands wait for it.
func TestRestart(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1"))
		restart := func() {
			h.stopAll()
			h.after(3*time.Second, h.start)
		}
		h.after(2200*time.Millisecond, restart)
		h.say("wait", "1a2b")
		h.submit("1a2b5555", "Volume.copy", "", volume("a2"))
		h.after(2200*time.Millisecond, restart)
		h.skew()
		h.say("watch", "1a2b5")
		h.submit("1a2b7777", "Volume.copy", "", volume("a3"))
		h.after(2200*time.Millisecond, h.stopAll)
		h.say("wait", "1a2b7", "--connect-timeout", "5")
		h.say("tasks")
		h.start()
		h.comment("the daemon is starting")
		h.server.SetStatus("reading 100,000 tasks, 40 % done")
		h.say("tasks", "--connect-timeout=2")
		h.say("tasks", "--connect-timeout=0")
		h.after(1100*time.Millisecond, h.server.SetReady)
		h.terminal = true
		h.say("tasks", "--no-color")
		h.server.SetStatus("reading 100,000 tasks, 40 % done")
		h.after(1100*time.Millisecond, h.server.SetReady)
		h.say("stop", "1a2b7", "--wait=0.5")
	})
}

// Everything about flows.
func TestFlows(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("flow", "list")
		h.submit("11111111", "Volume.copy", "flow-1", volume("a1", "gib", 2))
		h.submit("22222222", "Volume.copy", "flow-1", volume("a2"))
		h.submit("33333333", "Volume.copy", "flow-1", volume("a2"))
		h.submit("44444444", "VM.migrate", "flow-2", volume("a3", "commits", true))
		h.submit("55555555", "VM.migrate", "flow-2", volume("a4", "undoable", false))
		h.pass(2500 * time.Millisecond)
		h.say("flow", "list")
		h.say("flow", "show", "flow-1")
		h.say("flow", "cancel", "flow-1", "--revert", "--wait")
		h.say("flow", "show", "flow-1")
		h.say("flow", "show", "flow-1", "--json")
		h.say("Volume", "copy", "volumeID="+uuid("a9"), "flowID=flow-1")
		h.say("flow", "release", "flow-1")
		h.say("flow", "cancel", "flow-2", "--wait=0.1")
		h.say("flow", "cancel", "flow-2")
		h.say("flow", "cancel", "flow-2", "--wait=20", "--json")
		h.say("flow", "cancel", "flow-3")
		h.say("flow", "list")
		h.say("flow", "show", "flow-4")
		h.say("flow", "cancel", "")
	})
}

// What an engine has submitted is left to it.
func TestClearFinished(t *testing.T) {
	bubble(t, func(h *host) {
		h.submit("11111111", "Volume.copy", "", volume("a1", "gib", 1))
		h.submit("22222222", "Volume.copy", "", volume("a2", "gib", 1))
		h.submit("33333333", "Volume.copy", "", volume("a3", "gib", 1, "storagepoolID", uuid("5b")))
		h.submit("44444444", "Volume.copy", "", volume("a4", "gib", 9))
		h.pass(2 * time.Second)
		h.say("clear", "4")
		h.say("clear", "--finished")
		h.say("clear", "--finished", "--json")
		h.say("tasks", "--all")
	})
}

func TestTrashAndDomains(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("trash", "list")
		h.say("trash", "list", "--domain", goodDomain, "--json")
		h.say("trash", "empty")
		h.say("trash", "empty", "7ea5", "--domain", goodDomain)
		h.say("trash", "empty", "7ea")
		h.say("trash", "empty", "7e")
		h.say("trash", "empty", "ff")
		h.say("trash", "empty", "--domain", goodDomain)
		h.say("trash", "empty", "--domain", goodDomain, "--json")
		h.submit("7ea5", "Volume.copy", "", volume("a1", "gib", 1))
		h.pass(2 * time.Second)
		h.say("trash", "restore", "7ea5", "--wait")
		h.say("trash", "restore", "7ea5")
		h.say("domains")
		h.say("domains", "--json")
	})
}

func TestContract(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("contract")
		h.say("contract", "VM.migrate")
		h.say("contract", "Volume.copy", "--json")
		h.say("contract", "Volume.fly")
		h.say("contract", "--json")
	})
}

// vdsm-client's way.
func TestVerbs(t *testing.T) {
	bubble(t, func(h *host) {
		h.say("Volume")
		h.say("Volume", "--help")
		h.say("Volume", "copy", "--help")
		h.say("Host", "ping", "-h")
		h.say("Host", "ping", "--help", "--json")
		h.say("Volum", "copy")
		h.say("Volume", "fly")
		h.say("Host", "ping")
		h.say("--json", "Host", "ping2")
		h.say("--connect-timeout", "3", "Host", "getAllTasksStatuses")
		h.say("Host", "getAllTasks", "limit=2")
		h.say("Host", "ping", "loudly=true")
		h.say("Volume", "copy")
		h.say("Volume", "copy", "volumeID="+uuid("a1"), "taskID="+uuid("1a2b"), "volFormat=4", "gib=2", "postZero=TRUE", `dstImgs=["x","y"]`, "desc=")
		h.say("Task", "getStatus", "taskID="+uuid("1a2b"))
		h.say("task", "1a2b")
		h.say("Task", "wait", "taskID="+uuid("1a2b"), "timeout=0.5")
		h.say("Task", "getStatus", "taskID="+uuid("dead"))
		h.say("Volume", "copy", "volumeID=A1")
		h.say("Volume", "copy", "volumeID:=a1")
		h.say("Volume", "copy", "volumeID")
		h.say("Volume", "copy", "=x")
		h.say("Volume", "copy", "gib=many")
		h.say("Volume", "copy", "postZero=perhaps")
		h.say("Volume", "copy", "dstImgs=x")
		h.say("Volume", "copy", "gib=1", "gib:=2")
		h.say("Volume", "copy", "size=1")
		h.stdin = `{"volumeID": "` + uuid("a2") + `", "gib": 3, "taskID": "` + uuid("5d") + `"}`
		h.say("Volume", "copy", "-f", "-", "gib=4")
		h.say("task", "5d", "--json")
		h.stdin = "{\n  \"volumeID\": \"" + uuid("a2") + "\",\n}"
		h.say("Volume", "copy", "-f", "-")
		h.stdin = "[1]"
		h.say("Volume", "copy", "--file=-")
		h.stdin = "null"
		h.say("Volume", "copy", "-f-")
		h.stdin = `{"sise": 3}`
		h.say("Volume", "copy", "-f", "-")
		h.say("Volume", "copy", "-f", "testdata/params/broken.json")
		h.say("Volume", "copy", "-f", "testdata/params/missing.json")
		h.say("Volume", "copy", "-f", "testdata/params/copy.json")
	})
}

// The command line itself.
func TestUsage(t *testing.T) {
	bubble(t, func(h *host) {
		h.say()
		h.say("stop", "--help")
		h.say("help", "resume")
		h.say("help", "Host", "ping")
		h.say("--version")
		h.say("bogus")
		h.say("taks")
		h.say("volume", "create")
		h.say("--bogus")
		h.say("stop")
		h.say("stop", "a", "b")
		h.say("stop", "a", "--soon")
		h.say("stop", "a", "--wait=soon")
		h.say("stop", "a", "--dry-run", "--force")
		h.say("wait", "a", "--timeout=-1")
		h.say("wait", "a", "--timeout")
		h.say("tasks", "--state", "sleeping")
		h.say("clear")
		h.say("clear", "a", "--finished")
		h.say("trash")
		h.say("Host", "ping", "--loudly")
		h.say("tasks", "--socket", "/run/other.sock")
		h.env["VDSM_AGENT_SOCKET"] = "/run/env.sock"
		h.say("tasks")
		h.say("tasks", "--socket", defaultSocket)
	})
}
