package vmops

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"
)

func maintenanceCases(t *testing.T) (out []prove.Case) {
	add := func(name, tasks string, remainder func(before, after string) error, world func() *world) {
		hosts := []map[string]any{{"host": "far.example.com"}, {"host": "farther.example.com", "port": 1}}
		raw, err := json.Marshal(map[string]any{"tasks": tasks, "destinations": hosts})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, prove.Case{
			Name: name, Verb: "Host.enterMaintenance", Params: raw, World: func() prove.World { return world() }, Remainder: remainder,
		})
	}
	add("maintenance of a host without machines", tasksWait, nil, func() *world { return newWorld(virt.Running).withHouse(0) })
	add("maintenance", tasksWait, moved, func() *world { return newWorld(virt.Running).withHouse(3, "a") })
	add("maintenance that stops tasks", tasksStop, moved, func() *world {
		w := newWorld(virt.Running).withHouse(1, "a", "b")
		for _, t := range w.house.tasks {
			t.ends = time.Now().Add(24 * time.Hour)
		}
		return w
	})
	add("maintenance, and a host takes no machine", tasksWait, moved, func() *world {
		w := newWorld(virt.Running).withHouse(2)
		w.house.fails = 1
		return w
	})
	add("maintenance, and no host takes a machine", tasksWait, moved, func() *world {
		w := newWorld(virt.Running).withHouse(1)
		w.house.fails = 1000
		return w
	})
	return out
}

// moved lets machines be on other hosts, and tasks be stopped; nothing else may be other than it was.
func moved(before, after string) error {
	was := map[string]bool{}
	for line := range strings.Lines(before) {
		was[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(after) {
		if l := strings.TrimSpace(line); !was[l] && !was[strings.Replace(l, "stopped true", "stopped false", 1)] {
			return errors.New("there is now: " + l)
		}
	}
	return nil
}
