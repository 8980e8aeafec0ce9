package vmops

import (
	"encoding/json"
	"testing"
	"time"

	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"
)

const farAgent = "far.example.com:54321"

func migrationCases(t *testing.T) (out []prove.Case) {
	add := func(name string, phase virt.Phase, more map[string]any, change func(*world)) {
		params := map[string]any{"dst": farAgent}
		for k, v := range more {
			params[k] = v
		}
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "params": params})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, prove.Case{Name: name, Verb: "VM.migrate", Params: raw, World: func() prove.World {
			w := newWorld(phase).withFar()
			if change != nil {
				change(w)
			}
			return w
		}})
	}
	broken := func(how string) func(*world) { return func(w *world) { w.far.breaks = how } }
	never := func(do string) map[string]any {
		return map[string]any{"convergenceSchedule": map[string]any{
			"init":     []any{map[string]any{"name": "setDowntime", "params": []string{"100"}}},
			"stalling": []any{map[string]any{"limit": 0, "action": map[string]any{"name": do}}},
		}}
	}
	add("migrate", virt.Running, nil, nil)
	add("migrate a paused machine", virt.Paused, nil, nil)
	add("migrate, and libvirt has finished when it is to cancel", virt.Running, nil, func(w *world) { w.deaf = true })
	add("migrate, and libvirtd dies before the switch-over", virt.Running, nil, broken(dieBefore))
	add("migrate, and libvirtd dies when the machine has arrived", virt.Running, nil, broken(dieArrived))
	add("migrate a paused machine, and libvirtd dies when it has arrived", virt.Paused, nil, broken(dieArrived))
	add("migrate, and libvirtd dies and the machine is gone on the destination", virt.Running, nil, broken(dieLost))
	add("migrate, and the machine is left paused on both hosts", virt.Running, nil, broken(dieStopped))
	add("migrate, and the destination dies and comes back", virt.Running, nil, func(w *world) { w.far.dies = true })
	add("migrate, and the destination has such a machine", virt.Running, nil, func(w *world) {
		w.far.machines[vmID] = &memMachine{state: virt.State{Phase: virt.Paused}}
	})
	add("migrate to a host that is full for a while", virt.Running, map[string]any{"incomingLimit": 1}, func(w *world) {
		w.far.full = time.Now().Add(2500 * time.Millisecond)
	})
	add("migrate a machine that enters post-copy", virt.Running, never(postCopy), func(w *world) { w.saveTakes = time.Hour })
	add("migrate a machine that never converges", virt.Running, never(abortIt), func(w *world) { w.saveTakes = time.Hour })
	return out
}
