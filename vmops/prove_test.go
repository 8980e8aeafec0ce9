package vmops

import (
	"encoding/json"
	"testing"

	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"
)

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
	return []prove.Case{
		hibernate("hibernate", newMachine(virt.Running)),
		hibernate("hibernate a paused machine", newMachine(virt.Paused)),
		hibernate("hibernate, and libvirt has finished when it is to cancel", late),
		hibernate("hibernate, and libvirtd dies", breaks),
	}
}

// TestProve stops, crashes and fails every verb; see package prove.
func TestProve(t *testing.T) {
	prove.Run(t, prove.Config{Package: "vmops", Golden: "testdata/points.golden", Sample: 1500, Durable: true, Cases: proofCases(t)})
}
