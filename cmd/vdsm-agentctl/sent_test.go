package main

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/rpc/client"
)

// What goes to the daemon for each command that changes something, or that has a choice.
func TestSent(t *testing.T) {
	id := uuid("1a2b")
	for _, c := range []struct {
		args []string
		want string // the last call
	}{
		{[]string{"stop", id}, `Task.stop {"taskID":"` + id + `"}`},
		{[]string{"stop", id, "--force"}, `Task.stop {"force":true,"taskID":"` + id + `"}`},
		{[]string{"stop", id, "--dry-run"}, `Task.stop {"dryRun":true,"taskID":"` + id + `"}`},
		{[]string{"stop", id, "--wait"}, `Task.wait {"taskID":"` + id + `"}`},
		{[]string{"stop", id, "--wait=90"}, `Task.wait {"taskID":"` + id + `","timeout":90}`},
		{[]string{"stop", id, "--wait=1m30s"}, `Task.wait {"taskID":"` + id + `","timeout":90}`},
		{[]string{"wait", id, "--timeout", "0.5"}, `Task.wait {"taskID":"` + id + `","timeout":0.5}`},
		{[]string{"revert", id}, `Task.revert {"taskID":"` + id + `"}`},
		{[]string{"trash", "restore", id}, `Task.revert {"taskID":"` + id + `"}`},
		{[]string{"clear", id}, `Task.clear {"taskID":"` + id + `"}`},
		{[]string{"trash", "list", "--domain", "d"}, `Trash.list {"storagedomainID":"d"}`},
		{[]string{"trash", "empty", "--domain", "d"}, `Trash.empty {"storagedomainID":"d"}`},
		{[]string{"flow", "cancel", "f"}, `Flow.cancel {"flowID":"f"}`},
		{[]string{"flow", "cancel", "f", "--revert"}, `Flow.cancel {"flowID":"f","revert":true}`},
		{[]string{"flow", "release", "f"}, `Flow.release {"flowID":"f"}`},
		{[]string{"pause", id}, `Task.pause {"taskID":"` + id + `"}`},
		{[]string{"resume", id}, `Task.resume {"taskID":"` + id + `"}`},
		{[]string{"limit", id, "50M"}, `Task.setLimits {"taskID":"` + id + `","bytesPerSecond":52428800}`},
		{[]string{"limit", id, "50 MiB/s"}, `Task.setLimits {"taskID":"` + id + `","bytesPerSecond":52428800}`},
		{[]string{"limit", id, "1.5g"}, `Task.setLimits {"taskID":"` + id + `","bytesPerSecond":1610612736}`},
		{[]string{"limit", id, "1000"}, `Task.setLimits {"taskID":"` + id + `","bytesPerSecond":1000}`},
		{[]string{"limit", id, "none"}, `Task.setLimits {"taskID":"` + id + `","bytesPerSecond":0}`},
		{[]string{"history", "--limit", "7"}, `Host.getTaskHistory {"limit":8}`},
		{[]string{"history"}, `Host.getTaskHistory {"limit":21}`},
		{[]string{"queue"}, `Host.getAllTasks {"state":"queued","limit":5000}`},
		{[]string{"tasks", "--flow", "f", "--state", "failed"}, `Host.getAllTasks {"state":"failed","flow":"f","limit":5000}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{}
			if exit, _, stderr := against(t, r, c.args...); stderr != "" && exit == exitMisuse {
				t.Errorf("%v: %s", c.args, stderr)
			}
			if r.last != c.want {
				t.Errorf("%v: %s, want %s", c.args, r.last, c.want)
			}
		})
	}
}

// recorder answers nothing and remembers the last call.
type recorder struct {
	canned
	last string
}

func (r *recorder) Call(_ context.Context, method string, params, _ any) error {
	raw, err := json.Marshal(params)
	r.last = fmt.Sprintf("%s %s", method, raw)
	return err
}

// Without a daemon a wait ends at once: there is nothing that it could wait for to come back.
func TestWaitWithoutDaemon(t *testing.T) {
	bubble(t, func(h *host) {
		begun := time.Now()
		for _, command := range []string{"wait", "watch"} {
			h.say(command, uuid("1a2b"), "--socket", "/run/other.sock")
		}
		if took := time.Since(begun); took != 0 {
			h.t.Errorf("it took %s", took)
		}
	})
}

var _ connection = (*client.Client)(nil)
