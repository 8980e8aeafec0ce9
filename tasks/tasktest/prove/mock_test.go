package prove_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/mock"
	"vdsm-agent/tasks/tasktest/prove"
)

// world is the mock verb's, as the harness wants it.
type world struct{ *mock.World }

func (w world) Crash(keep func() bool) prove.World { return world{w.World.Crash(keep)} }

func mockCase(name string, knobs ...mock.Knobs) prove.Case {
	p := mock.Params{Steps: append([]mock.Knobs{}, knobs...), Locks: []string{"domain/1", "image/1"}, Tag: "spm"}
	c := prove.Case{Name: name, Verb: "Mock.run"}
	var things []string
	for _, k := range knobs {
		if k.Deletes {
			things = append(things, mock.Thing(k.Name))
		}
		if k.Deletes || k.Trash {
			p.Reclaims = true
		}
		if k.Remainder != "" {
			c.Remainder = onlySlices
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // of a struct: never
	}
	c.Params, c.World = raw, func() prove.World { return world{mock.NewWorld(things...)} }
	return c
}

// onlySlices is the remainder of the mock verb: slices that were written.
func onlySlices(before, after string) error {
	for line := range strings.SplitSeq(after, "\n") {
		if line != "" && !strings.Contains(before, line) && !strings.Contains(line, "/slice-") {
			return fmt.Errorf("%q is not part of the remainder", line)
		}
	}
	return nil
}

type knob func(*mock.Knobs)

func step(name string, knobs ...knob) mock.Knobs {
	k := mock.Knobs{Name: name}
	for _, set := range knobs {
		set(&k)
	}
	return k
}

func slices(n int) knob         { return func(k *mock.Knobs) { k.Slices = n } }
func pace(d time.Duration) knob { return func(k *mock.Knobs) { k.Pace = d } }
func worker(kind string) knob   { return func(k *mock.Knobs) { k.Worker = kind } }
func failAt(n, times int) knob  { return func(k *mock.Knobs) { k.FailAt, k.FailTimes = n, times } }
func undoFails(n int) knob      { return func(k *mock.Knobs) { k.UndoFails = n } }

func noReturn(k *mock.Knobs)    { k.PointOfNoReturn = true }
func refused(k *mock.Knobs)     { k.Refused, k.FailAt = true, 1 }
func permanent(k *mock.Knobs)   { k.Permanent, k.FailAt = true, 1 }
func deaf(k *mock.Knobs)        { k.IgnoresStop = true }
func verify(k *mock.Knobs)      { k.Verify = true }
func leaves(k *mock.Knobs)      { k.Leaves = true }
func deletes(k *mock.Knobs)     { k.Deletes = true }
func trash(k *mock.Knobs)       { k.Trash = true }
func panics(k *mock.Knobs)      { k.Panics = true }
func remainder(k *mock.Knobs)   { k.Remainder = "slices" }
func cancels(k *mock.Knobs)     { k.DecidedBy = "libvirt" }
func hadFinished(k *mock.Knobs) { k.DecidedBy, k.Finished = "libvirt", true }

const s = time.Second

// mockCases are the combinations of knobs that matter.
func mockCases() []prove.Case {
	a, b := step("a"), step("b")
	failsAgain := mockCase("verify fails when it is resumed", a, step("check", verify, failAt(1, 0)))
	failsAgain.MayFail = true
	return []prove.Case{
		mockCase("no steps"),
		mockCase("one step", a),
		mockCase("two steps", a, b),
		mockCase("three steps", a, b, step("c")),
		mockCase("one slow step", step("a", pace(s))),
		mockCase("slices", a, step("copy", slices(3))),
		mockCase("slow slices", step("copy", slices(3), pace(s)), b),
		mockCase("many slices", step("copy", slices(6))),
		mockCase("two copies", step("copy", slices(2)), step("convert", slices(2))),
		mockCase("deaf to a stop", a, step("b", deaf, pace(s))),
		mockCase("deaf slices", step("copy", deaf, slices(3)), b),

		mockCase("verify first", step("check", verify), a),
		mockCase("verify between", a, step("check", verify), b),
		failsAgain,

		mockCase("worker, polite", a, step("b", worker(mock.Polite), pace(s))),
		mockCase("worker, stubborn", a, step("b", worker(mock.Stubborn), pace(20*s))),
		mockCase("worker, stubborn, then slices", step("copy", worker(mock.Stubborn), pace(s), slices(2))),
		mockCase("two workers", step("a", worker(mock.Polite), pace(s)), step("b", worker(mock.Stubborn), pace(s))),
		mockCase("worker, deaf", step("b", worker(mock.Polite), deaf, pace(s)), step("c")),
		mockCase("worker left behind", a, step("b", worker(mock.Polite), pace(s), leaves)),
		mockCase("worker left behind past the point of no return", step("switch", noReturn, worker(mock.Stubborn), pace(s), leaves), b),
		mockCase("worker past the point of no return", a, step("switch", noReturn, worker(mock.Stubborn), pace(s))),

		mockCase("point of no return first", step("switch", noReturn), b),
		mockCase("point of no return between", a, step("switch", noReturn), b),
		mockCase("point of no return last", a, step("switch", noReturn)),
		mockCase("point of no return alone", step("switch", noReturn)),
		mockCase("slices past the point of no return", a, step("copy", noReturn, slices(3))),
		mockCase("slow past the point of no return", step("switch", noReturn, pace(s)), b),
		mockCase("tried again past the point of no return", a, step("switch", noReturn, failAt(1, 2)), b),
		mockCase("tried again after the point of no return", step("switch", noReturn), step("b", failAt(1, 2))),
		mockCase("refused", a, step("switch", noReturn, refused)),
		mockCase("refused, then not", a, step("switch", noReturn, refused, failAt(1, 1))),
		mockCase("refused, with an undo that fails", step("a", undoFails(1)), step("switch", noReturn, refused)),
		mockCase("permanent", a, step("switch", noReturn, permanent)),
		mockCase("permanent after the point of no return", step("switch", noReturn), step("b", permanent)),

		mockCase("decided elsewhere, cancelled", a, step("job", cancels, pace(s)), b),
		mockCase("decided elsewhere, finished", a, step("job", hadFinished, pace(s)), b),
		mockCase("decided elsewhere alone, cancelled", step("job", cancels, pace(s))),
		mockCase("decided elsewhere alone, finished", step("job", hadFinished, pace(s))),
		mockCase("decided elsewhere at once", step("job", cancels), b),
		mockCase("decided elsewhere with an error", a, step("job", cancels, failAt(1, 0))),
		mockCase("decided elsewhere, then no return", step("job", cancels, pace(s)), step("switch", noReturn)),
		mockCase("decided elsewhere, then slices", step("job", hadFinished, pace(s)), step("copy", slices(2))),

		mockCase("fails", a, step("b", failAt(1, 0))),
		mockCase("fails in the first step", step("a", failAt(1, 0)), b),
		mockCase("fails in a slice", a, step("copy", slices(3), failAt(2, 0))),
		mockCase("panics", a, step("b", panics)),
		mockCase("undo fails once", step("a", undoFails(1)), b),
		mockCase("undo fails twice, in the middle", a, step("b", undoFails(2)), step("c", failAt(1, 0))),
		mockCase("two undos fail", step("a", undoFails(1)), step("b", undoFails(1)), step("c", failAt(1, 0))),

		mockCase("remainder", a, step("merge", slices(3), remainder)),
		mockCase("delete", step("a", deletes)),
		mockCase("delete of two", step("a", deletes), step("b", deletes)),
		mockCase("delete past the point of no return", a, step("b", deletes, noReturn)),
		mockCase("undo into the trash", step("a", trash), b),
		mockCase("undo of slices into the trash", step("copy", trash, slices(3)), step("b", deletes)),
		mockCase("undo into the trash fails", step("a", trash, undoFails(1)), step("b", failAt(1, 0))),
		mockCase("replace", step("copy", trash, slices(2)), step("switch", noReturn), step("old", deletes)),
	}
}

func TestProveMock(t *testing.T) {
	prove.Run(t, prove.Config{Package: "mock", Golden: "testdata/points.golden", Sample: 4000, Durable: true, Cases: mockCases(), Ends: map[string]tasks.State{
		"refused": tasks.Recovered, "refused, then not": tasks.Recovered, "refused, with an undo that fails": tasks.Failed,
		"permanent": tasks.Failed, "permanent after the point of no return": tasks.Failed,
		"decided elsewhere with an error": tasks.Recovered,
		"fails":                           tasks.Recovered, "fails in the first step": tasks.Recovered, "fails in a slice": tasks.Recovered, "panics": tasks.Recovered,
		"undo fails twice, in the middle": tasks.Failed, "two undos fail": tasks.Failed, "undo into the trash fails": tasks.Failed,
	}})
}
