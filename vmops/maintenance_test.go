package vmops

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

// TestMaintenanceRefusals: what cannot work is refused by name.
func TestMaintenanceRefusals(t *testing.T) {
	h := newHost(t, newWorld(virt.Running))
	far := []map[string]any{{"host": "far.example.com"}}
	for _, c := range []struct {
		name   string
		params map[string]any
		code   code.Code
	}{
		{"none at a time", map[string]any{"parallel": 0, "destinations": far}, code.InvalidParameter},
		{"too many at a time", map[string]any{"parallel": 17, "destinations": far}, code.InvalidParameter},
		{"another word", map[string]any{"tasks": "kill", "destinations": far}, code.InvalidParameter},
		{"a host without a name", map[string]any{"destinations": []map[string]any{{"port": 1}}}, code.InvalidParameter},
		{"a port that is none", map[string]any{"destinations": []map[string]any{{"host": "far", "port": 70000}}}, code.InvalidParameter},
		{"nowhere to go", map[string]any{}, code.InvalidParameter},
		{"a parameter that there is not", map[string]any{"hosts": far}, code.InvalidParameter},
		{"all that is needed", map[string]any{"destinations": far}, 0},
	} {
		raw, err := json.Marshal(c.params)
		if err != nil {
			t.Fatal(err)
		}
		v := h.enterMaintenance()
		if _, err = v.Plan(taskID, raw); err == nil {
			err = v.Admit(t.Context(), raw)
		}
		if code.Of(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := newVMs(nil, nil, zerolog.Nop()).enterMaintenance().Admit(t.Context(), []byte("{}")); err != nil {
		t.Errorf("a host without libvirt: %v", err)
	}
}

// TestDestinations: a machine tries each of the hosts, by a task that it has had before a restart.
func TestDestinations(t *testing.T) {
	m := &maintaining{task: taskID, params: maintenanceParams{Destinations: []otherHost{{Host: "a"}, {Host: "b"}, {Host: "fd00::2", Port: 7}}}}
	hosts, ids := map[string]bool{}, map[string]bool{}
	for try := range 3 {
		id, to := m.child(vmID, try)
		again, _ := m.child(vmID, try)
		if id != again {
			t.Error("its task has another id")
		}
		hosts[to.journey().Destination], ids[id] = true, true
	}
	if len(ids) != 3 || !hosts["a:54321"] || !hosts["b:54321"] || !hosts["[fd00::2]:7"] {
		t.Errorf("it tries %v by %v", hosts, ids)
	}
}

// TestMark: a host that is in maintenance is so when the agent is started again, and no machine starts on it or comes to it.
func TestMark(t *testing.T) {
	file := filepath.Join(t.TempDir(), "maintenance")
	open := func() (*VMs, *tasks.Engine) {
		var e *tasks.Engine
		o := Options{Log: zerolog.Nop(), Mark: file, Tasks: func() Tasks { return e }}
		vms := New(o)
		vms.hv = memLibvirt{newWorld(virt.Running), nil}
		verb := vms.enterMaintenance()
		verb.Admit = nil
		e = tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: []*tasks.Verb{verb}, Log: zerolog.Nop()})
		vms.Recall()
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			vms.Close()
			if err := e.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return vms, e
	}
	vms, e := open()
	vms.hv = nil // no machines
	id, err := e.Submit(t.Context(), tasks.Submission{Verb: "Host.enterMaintenance", Params: json.RawMessage("{}"), Who: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := e.Wait(t.Context(), id, tasks.Ended); err != nil || v.State != tasks.Finished {
		t.Fatalf("it ended %s: %s, %v", v.State, v.Message, err)
	}
	for _, damaged := range []bool{false, true} {
		who := "by alice"
		if damaged {
			who = "by somebody"
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		vms, e = open()
		if _, err := e.Submit(t.Context(), tasks.Submission{Verb: "Host.enterMaintenance", Params: json.RawMessage("{}")}); code.Of(err) != code.AddTask || !strings.Contains(err.Error(), who) {
			t.Errorf("a task is submitted: %v", err)
		}
		for verb, answer := range map[string]func(context.Context, json.RawMessage) (any, error){"VM.create": vms.create, "VM.migrationCreate": vms.migrationCreate} {
			raw, err := json.Marshal(map[string]any{"vmID": other, "vmParams": map[string]any{"xml": xmlOf(other)}, "params": map[string]any{"_srcDomXML": xmlOf(other)}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := answer(t.Context(), raw); code.Of(err) != code.ResourceUnavailable {
				t.Errorf("%s: %v", verb, err)
			}
		}
	}
	for range 2 {
		if _, err := vms.leaveMaintenance(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) || vms.closed.Closed() {
		t.Errorf("the mark is there still: %v", err)
	}
	vms, _ = open()
	if vms.closed.Closed() {
		t.Error("a host that has left maintenance is closed")
	}
}

// TestComingIsPresent: a host to which a machine is on its way is not empty.
func TestComingIsPresent(t *testing.T) {
	w := newWorld(virt.Running).withHouse(1)
	w.machines[vmID].state = virt.Coming
	vms := newVMs(memLibvirt{w, nil}, memVolumes{w, nil}, zerolog.Nop())
	all, err := vms.present(t.Context())
	if err != nil || len(all) != 1 || all[0].Status != statusIncoming {
		t.Errorf("on this host there are %v, %v", all, err)
	}
}
