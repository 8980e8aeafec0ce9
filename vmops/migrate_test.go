package vmops

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

const taskID = "cccccccc-0000-4000-8000-000000000001"

// TestMigrateRefusals: what cannot work is refused by name.
func TestMigrateRefusals(t *testing.T) {
	h := newHost(t, newWorld(virt.Running))
	schedule := func(name string, params ...string) map[string]any {
		return map[string]any{"dst": farAgent, "convergenceSchedule": map[string]any{"init": []any{map[string]any{"name": name, "params": params}}}}
	}
	stalling := func(name string) map[string]any {
		return map[string]any{"dst": farAgent, "convergenceSchedule": map[string]any{"stalling": []any{map[string]any{"limit": 1, "action": map[string]any{"name": name}}}}}
	}
	for _, c := range []struct {
		name, vm string
		params   map[string]any
		code     code.Code
	}{
		{"no destination", vmID, map[string]any{}, code.InvalidParameter},
		{"no port", vmID, map[string]any{"dst": "far.example.com"}, code.InvalidParameter},
		{"no number", vmID, map[string]any{"dst": "far.example.com:http"}, code.InvalidParameter},
		{"no host", vmID, map[string]any{"dst": ":54321"}, code.InvalidParameter},
		{"to a file", vmID, map[string]any{"dst": farAgent, "mode": "file"}, code.UnsupportedOperation},
		{"while it is off", vmID, map[string]any{"dst": farAgent, "method": "offline"}, code.UnsupportedOperation},
		{"bound to processors", vmID, map[string]any{"dst": farAgent, "cpusets": []string{"0"}}, code.UnsupportedOperation},
		{"bound to nodes", vmID, map[string]any{"dst": farAgent, "numaNodesets": []string{"0"}}, code.UnsupportedOperation},
		{"tunneled and parallel", vmID, map[string]any{"dst": farAgent, "tunneled": "true", "parallel": 2}, code.InvalidParameter},
		{"less than nothing", vmID, map[string]any{"dst": farAgent, "maxBandwidth": -1}, code.InvalidParameter},
		{"an action that is none", vmID, schedule("hurry"), code.InvalidParameter},
		{"a downtime without a number", vmID, schedule("setDowntime"), code.InvalidParameter},
		{"a downtime that is none", vmID, schedule("setDowntime", "soon"), code.InvalidParameter},
		{"a stalling action that is none", vmID, stalling("hurry"), code.InvalidParameter},
		{"no machine", other, map[string]any{"dst": farAgent}, code.NoSuchVM},
		{"as engines ask", vmID, map[string]any{
			"vmId": vmID, "src": "near.example.com", "dst": farAgent, "method": "online", "tunneled": "false", "abortOnError": "true", "downtime": "500",
			"autoConverge": "true", "compressed": "false", "maxBandwidth": 100, "incomingLimit": 2, "outgoingLimit": 2, "enableGuestEvents": true, "cpusets": []string{},
		}, 0},
	} {
		raw, err := json.Marshal(map[string]any{"vmID": c.vm, "params": c.params})
		if err != nil {
			t.Fatal(err)
		}
		v := h.migrate()
		if _, err = v.Plan(taskID, raw); err == nil {
			err = v.Admit(t.Context(), raw)
		}
		if code.Of(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestJourney: what libvirt is told.
func TestJourney(t *testing.T) {
	for _, c := range []struct {
		journey        journey
		libvirt, state string
	}{
		{journey{Destination: farAgent}, "qemu+tls://far.example.com/system", "tcp://far.example.com"},
		{journey{Destination: "[fd00::2]:54321"}, "qemu+tls://[fd00::2]/system", "tcp://[fd00::2]"},
		{journey{Destination: farAgent, QEMU: "10.0.0.2", Libvirt: "qemu+ssh://far/system"}, "qemu+ssh://far/system", "tcp://10.0.0.2"},
	} {
		if m := c.journey.migration(); m.Libvirt != c.libvirt || m.State != c.state {
			t.Errorf("%v: %s and %s", c.journey, m.Libvirt, m.State)
		}
	}
}

// queue is a task engine with one task.
type queue struct {
	Tasks
	view    tasks.View
	stopped []string
	refuses error
}

func (q *queue) List(f tasks.Filter) []tasks.Summary {
	if f.Verb != q.view.Verb {
		return nil
	}
	return []tasks.Summary{q.view.Summary}
}

func (q *queue) Get(string) (tasks.View, error) { return q.view, nil }

func (q *queue) Summary(string) (tasks.Summary, error) { return q.view.Summary, nil }

func (q *queue) Submit(context.Context, tasks.Submission) (string, error) { return "", nil }

func (q *queue) Refuse(tasks.Drain) {}

func (q *queue) Accept() {}

func (q *queue) Stop(id string, o tasks.StopOptions) error {
	q.stopped = append(q.stopped, id+" by "+o.Who)
	return q.refuses
}

// TestMigrationCalls: a migration is cancelled, changed and looked at by its machine.
func TestMigrationCalls(t *testing.T) {
	h := newHost(t, newWorld(virt.Running))
	q := &queue{}
	h.tasks = func() Tasks { return q }
	id := map[string]any{"vmID": vmID}
	faster := map[string]any{"vmID": vmID, "params": map[string]any{"maxBandwidth": "7"}}
	for verb, params := range map[string]map[string]any{"VM.migrateCancel": id, "VM.migrateChangeParams": faster, "VM.getMigrationStatus": id} {
		if _, err := h.call(verb, params); code.Of(err) != code.MigrationNotActive {
			t.Errorf("%s without a migration: %v", verb, err)
		}
	}
	q.view = tasks.View{Summary: tasks.Summary{ID: taskID, Verb: "VM.migrate", State: tasks.Queued, Message: "waits"}, Params: json.RawMessage(`{"vmID":"` + vmID + `"}`)}
	h.get("VM.migrateChangeParams", faster)
	if mib, changed := h.bandwidth(vmID, taskID); mib != 7 || !changed {
		t.Errorf("it begins with %d MiB/s", mib)
	}
	if _, changed := h.bandwidth(vmID, other); changed {
		t.Error("so does another task")
	}
	if _, err := h.call("VM.migrateChangeParams", map[string]any{"vmID": vmID, "params": map[string]any{}}); code.Of(err) != code.InvalidParameter {
		t.Errorf("nothing to change: %v", err)
	}
	undo := h.leaving(vmID)
	h.leavingBy(vmID, virt.Job{Done: 1, Total: 4})
	if s := h.get("VM.getMigrationStatus", id).(map[string]any); s["progress"] != 25.0 || s["status"].(map[string]any)["code"] != 0.0 {
		t.Errorf("the status is %v", s)
	}
	if s := h.stats(vmID); s["status"] != statusLeaving || s["migrationProgress"] != 25.0 {
		t.Errorf("VM.getStats answers %v", s)
	}
	undo()
	for _, c := range []string{"VM.migrate", "VM.hibernate"} {
		q.view.Verb = c
		if _, err := h.callAs("somebody", "VM.migrateCancel", id); err != nil {
			t.Errorf("the cancel of %s: %v", c, err)
		}
	}
	if got := strings.Join(q.stopped, ", "); got != taskID+" by somebody, "+taskID+" by somebody" {
		t.Errorf("stopped: %s", got)
	}
	q.refuses = code.Errorf(code.TaskState, "too late")
	if _, err := h.call("VM.migrateCancel", id); code.Of(err) != code.MigrationCancel {
		t.Errorf("a cancel that comes too late: %v", err)
	}
	q.view.Verb, q.view.State, q.view.Stopped = "VM.migrate", tasks.Recovered, true
	if s := h.get("VM.getMigrationStatus", id).(map[string]any); s["status"].(map[string]any)["code"] != float64(code.MigrationCancel) {
		t.Errorf("when it was cancelled the status is %v", s)
	}
	if _, err := h.call("VM.migrateCancel", id); code.Of(err) != code.MigrationNotActive {
		t.Errorf("a cancel of one that has ended: %v", err)
	}
}

// callAs is call in somebody's name.
func (h *host) callAs(who, verb string, params map[string]any) (any, error) {
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range h.Calls() {
		if c.Name == verb {
			return c.Answer(tasks.WithAsker(context.Background(), who), raw)
		}
	}
	return nil, errors.New("there is no such verb")
}

// TestArrival: what a host does with a machine that comes to it, by what its libvirt has.
func TestArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(virt.Running).withFar()
		far := &host{VMs: w.far.agent, t: t, world: w}
		xml := xmlOf(vmID)
		create := map[string]any{"vmID": vmID, "params": map[string]any{"_srcDomXML": xml}, "incomingLimit": 1, "sourceTask": taskID}
		dismiss := map[string]any{"vmID": vmID, "sourceTask": taskID}
		here := func(want string) {
			t.Helper()
			if a := far.get("VM.migrationArrival", map[string]any{"vmID": vmID}).(map[string]any); a["here"] != want {
				t.Errorf("it is here: %v, not %s", a, want)
			}
		}
		refused := func(verb string, params map[string]any, want code.Code) {
			t.Helper()
			if _, err := far.call(verb, params); code.Of(err) != want {
				t.Errorf("%s: %v, not %d", verb, err, want)
			}
		}
		refused("VM.migrationCreate", map[string]any{"vmID": other, "params": map[string]any{"_srcDomXML": xml}}, code.InvalidParameter)
		refused("VM.migrationCreate", map[string]any{"vmID": vmID, "params": map[string]any{}}, code.InvalidParameter)
		far.get("VM.migrationCreate", create)
		far.get("VM.migrationCreate", create) // asked again
		far.status(statusIncoming)
		here(machineAbsent)
		refused("VM.migrationCreate", map[string]any{"vmID": other, "params": map[string]any{"_srcDomXML": xmlOf(other)}, "incomingLimit": 1}, code.MigrationLimit)
		refused("VM.migrationCreate", map[string]any{"vmID": vmID, "params": map[string]any{"_srcDomXML": xml}, "sourceTask": other}, code.MigrationInProgress)
		refused("VM.create", map[string]any{"vmID": vmID, "vmParams": map[string]any{"xml": xml}}, code.VMExists)
		refused("VM.migrationDismiss", map[string]any{"vmID": vmID, "sourceTask": other}, code.MigrationNotActive)
		coming := func() { w.far.machines[vmID] = &memMachine{state: virt.Coming, job: &memJob{}} }
		coming()
		here(machineComing)
		far.status(statusIncoming)
		refused("VM.destroy", map[string]any{"vmID": vmID}, code.MigrationInProgress)
		far.get("VM.migrationDismiss", dismiss)
		here(machineAbsent)
		refused("VM.migrationCreate", create, code.MigrationNotActive) // it comes later than the end
		refused("VM.getStats", map[string]any{"vmID": vmID}, code.NoSuchVM)

		w.far.machines[vmID] = &memMachine{state: virt.Coming}
		here(machineStopped)
		far.get("VM.migrationDismiss", dismiss)
		here(machineAbsent)
		coming()
		far.get("VM.migrationDismiss", map[string]any{"vmID": vmID, "sourceOff": true})
		here(machineAbsent)

		w.far.machines[vmID] = &memMachine{state: virt.State{Phase: virt.Running}}
		here(machineArrived)
		refused("VM.migrationDismiss", dismiss, code.MigrationInProgress)
		refused("VM.migrationDismiss", map[string]any{"vmID": vmID, "sourceOff": true}, code.MigrationInProgress)
		refused("VM.migrationCreate", map[string]any{"vmID": vmID, "params": map[string]any{"_srcDomXML": xml}}, code.VMExists)
		w.far.machines[vmID].state = virt.State{Phase: virt.Paused}
		refused("VM.migrationDismiss", dismiss, code.VMExists) // it may be another one
		far.get("VM.migrationDismiss", map[string]any{"vmID": vmID, "sourceTask": taskID, "sent": false})
		here(machineArrived)
		delete(w.far.machines, vmID)

		far.get("VM.migrationCreate", map[string]any{"vmID": vmID, "params": map[string]any{"_srcDomXML": xml}, "sourceTask": sdID})
		w.far.machines[vmID] = &memMachine{state: virt.State{Phase: virt.Paused}}
		far.get("VM.migrationDismiss", map[string]any{"vmID": vmID, "sourceTask": sdID}) // it came paused, and nobody has said so
		here(machineAbsent)

		far.get("VM.migrationCreate", map[string]any{"vmID": vmID, "params": map[string]any{"_srcDomXML": xml}})
		time.Sleep(keepExpected + time.Second) // of the bubble's clock
		far.get("VM.migrationCreate", map[string]any{"vmID": other, "params": map[string]any{"_srcDomXML": xmlOf(other)}, "incomingLimit": 1})
		refused("VM.getStats", map[string]any{"vmID": vmID}, code.NoSuchVM)
		far.get("VM.destroy", map[string]any{"vmID": other})
		refused("VM.destroy", map[string]any{"vmID": other}, code.NoSuchVM)
	})
}

// TestSamePlaces: a machine whose volumes are elsewhere on this host, or not at all, cannot come.
func TestSamePlaces(t *testing.T) {
	h := newHost(t, newWorld(virt.Running))
	on := func(file string) error {
		d, err := parseXML("<domain><devices><disk><source file='" + file + "'/></disk></devices></domain>")
		if err != nil {
			t.Fatal(err)
		}
		return d.samePlaces(h.volumes.DiskPath)
	}
	if err := on("/dev/shm/disk"); err != nil {
		t.Errorf("a file that is no volume: %v", err)
	}
	if err := on("/mnt/" + sdID + "/images/" + imgD + "/" + volB); code.Of(err) != code.MigrationError {
		t.Errorf("a volume that is elsewhere: %v", err)
	}
}
