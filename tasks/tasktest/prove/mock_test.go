package prove_test

import (
	"encoding/json"
	"testing"
	"time"

	"vdsm-agent/tasks/tasktest/mock"
	"vdsm-agent/tasks/tasktest/prove"
)

// world is the mock verb's, as the harness wants it.
type world struct{ *mock.World }

func (w world) Crash(keep func() bool) prove.World { return world{w.World.Crash(keep)} }

func mockCase(name string, knobs ...mock.Knobs) prove.Case {
	p := mock.Params{Steps: knobs, Locks: []string{"domain/1", "image/1"}, Tag: "spm"}
	var things []string
	for _, k := range knobs {
		if k.Deletes {
			things = append(things, mock.Thing(k.Name))
		}
		if k.Deletes || k.Trash {
			p.Reclaims = true
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // of a struct: never
	}
	return prove.Case{
		Name: name, Verb: "Mock.run", Params: raw,
		World: func() prove.World { return world{mock.NewWorld(things...)} },
	}
}

func TestProveMock(t *testing.T) {
	one := mock.Knobs{Name: "a"}
	two := mock.Knobs{Name: "b"}
	prove.Run(t, prove.Config{Package: "mock", Golden: "testdata/points.golden", Sample: 4000, Cases: []prove.Case{
		mockCase("one step", one),
		mockCase("two steps", one, two),
		mockCase("slices", one, mock.Knobs{Name: "copy", Slices: 3}),
		mockCase("slow slices", mock.Knobs{Name: "copy", Slices: 3, Pace: time.Second}, two),
	}})
}
