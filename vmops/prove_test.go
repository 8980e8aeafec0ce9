package vmops

import (
	"encoding/json"
	"slices"
	"testing"

	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"
)

var snapDrives = []map[string]string{{"domainID": sdID, "imageID": imgD, "baseVolumeID": volB, "volumeID": volT}}

func proofCases(t *testing.T) []prove.Case {
	hibernate := func(name string, world func() prove.World) prove.Case {
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "hibernationVolHandle": saved})
		if err != nil {
			t.Fatal(err)
		}
		return prove.Case{Name: name, Verb: "VM.hibernate", Params: raw, World: world}
	}
	late := func() prove.World {
		w := newWorld(virt.Running)
		w.deaf = true
		return w
	}
	breaks := func() prove.World {
		w := newWorld(virt.Running)
		w.breaks = 1
		return w
	}
	withMemory := func(name string, world func() prove.World) prove.Case {
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "snapDrives": snapDrives, "snapMemory": saved})
		if err != nil {
			t.Fatal(err)
		}
		return prove.Case{Name: name, Verb: "VM.snapshot", Params: raw, World: world}
	}
	snapshot := func(name string, frozen, noGuest bool) prove.Case {
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "frozen": frozen, "snapDrives": snapDrives})
		if err != nil {
			t.Fatal(err)
		}
		return prove.Case{Name: name, Verb: "VM.snapshot", Params: raw, World: func() prove.World {
			w := newWorld(virt.Running)
			w.noGuest, w.machines[vmID].atRest = noGuest, frozen
			return w
		}}
	}
	return slices.Concat(mergeCases(t), migrationCases(t), maintenanceCases(t), replicateCases(t), []prove.Case{
		snapshot("snapshot", false, false),
		snapshot("snapshot of a machine whose guest has no agent", false, true),
		snapshot("snapshot of a machine that is frozen already", true, false),
		withMemory("snapshot with memory", newMachine(virt.Running)),
		withMemory("snapshot with memory of a paused machine", newMachine(virt.Paused)),
		withMemory("snapshot with memory, and libvirt has finished when it is to cancel", late),
		withMemory("snapshot with memory, and libvirtd dies", breaks),
		hibernate("hibernate", newMachine(virt.Running)),
		hibernate("hibernate a paused machine", newMachine(virt.Paused)),
		hibernate("hibernate, and libvirt has finished when it is to cancel", late),
		hibernate("hibernate, and libvirtd dies", breaks),
	})
}

// TestProve stops, crashes and fails every verb; see package prove.
func TestProve(t *testing.T) {
	prove.Run(t, prove.Config{Package: "vmops", Golden: "testdata/points.golden", Sample: 1500, Second: 8, Durable: true, Cases: proofCases(t), Ends: map[string]tasks.State{
		"merge a volume in the middle, and QEMU gives it up": tasks.Recovered, "merge the leaf, and QEMU gives it up": tasks.Recovered,
		"merge the leaf, and QEMU does not change over": tasks.Recovered, "replicate a disk, and QEMU gives it up": tasks.Recovered,
		"replicate a disk, and QEMU does not change over": tasks.Recovered, "migrate, and the destination dies and comes back": tasks.Recovered,
		"migrate, and the destination has such a machine": tasks.Recovered, "migrate, and the machine is left paused on both hosts": tasks.Recovered,
		"migrate a machine that never converges": tasks.Recovered, "maintenance, and no host takes a machine": tasks.Recovered,
	}})
}
