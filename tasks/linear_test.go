package tasks_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/anishathalye/porcupine"
	"github.com/rs/zerolog"
)

// call is a request for one task, as porcupine keeps it.
type call struct {
	id     string
	traits traits
	request
}

// specification is that of TestModel, for requests that come at the same time.
var specification = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byTask := map[string][]porcupine.Operation{}
		for _, o := range history {
			id := o.Input.(call).id
			byTask[id] = append(byTask[id], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byTask {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{phase{at: absent}} },
	Step: func(state, input, output any) []any {
		var next []any
		c := input.(call)
		for _, p := range (phases{state.(phase)}).after(c.traits, c.request, output.(answer)) {
			next = append(next, p)
		}
		return next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%s -> %s", input.(call).verb, output) },
	DescribeState: func(state any) string {
		p := state.(phase)
		return fmt.Sprintf("%s/%d lost: %v reverting: %v", p.at, p.code, p.lost, p.reverting)
	},
}

// lives are the tasks of TestLinearizable.
var lives = map[string]mock.Params{
	"quick":   steps(mock.Knobs{Name: "p"}),
	"sliced":  steps(mock.Knobs{Name: "p", Slices: 3}, mock.Knobs{Name: "q", UndoFails: 1}),
	"commits": steps(mock.Knobs{Name: "p"}, mock.Knobs{Name: "q", PointOfNoReturn: true}),
	"fails":   steps(mock.Knobs{Name: "p", UndoFails: 1}, mock.Knobs{Name: "q", FailAt: 1}),
	"decided": steps(mock.Knobs{Name: "p", DecidedBy: "libvirt"}),
	"hangs":   steps(mock.Knobs{Name: "p", Worker: mock.Polite}),
}

// TestLinearizable: what clients are told that ask at the same time is what they could have been told one after the other.
func TestLinearizable(t *testing.T) {
	const rounds, clients, requests = 60, 6, 24
	for round := range rounds {
		m := tasktest.NewMemStore()
		m.OnCommit = func(store.Change) error {
			runtime.Gosched() // a disk lets others run
			return nil
		}
		e := tasks.New(tasks.Options{Store: m, Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var history []porcupine.Operation
		var all sync.WaitGroup
		start := time.Now()
		for client := range clients {
			rng := rand.New(rand.NewPCG(uint64(round), uint64(client)))
			all.Go(func() {
				for range requests {
					for id, params := range lives {
						if rng.IntN(2) > 0 {
							continue
						}
						params.Locks = []string{"image/" + id}
						o := porcupine.Operation{ClientId: client, Call: time.Since(start).Nanoseconds()}
						o.Input, o.Output = ask(t, e, id, params, rng)
						o.Return = time.Since(start).Nanoseconds()
						mu.Lock()
						history = append(history, o)
						mu.Unlock()
					}
				}
			})
		}
		all.Wait()
		if err := e.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		check(t, history)
	}
}

// ask makes a random request.
func ask(t *testing.T, e *tasks.Engine, id string, params mock.Params, rng *rand.Rand) (call, answer) {
	verbs := []verb{submit, submit, stop, revert, get, get, get, preview, clear}
	c := call{id, traitsOf(params), request{verb: verbs[rng.IntN(len(verbs))]}}
	var a answer
	var err error
	switch c.verb {
	case submit:
		if c.other = rng.IntN(5) == 0; c.other {
			params.Tag = tasks.TagSPM
		}
		_, err = e.Submit(t.Context(), tasks.Submission{ID: id, Verb: "Mock.run", Params: encode(t, params), Who: "client"})
	case stop:
		err = e.Stop(id, tasks.StopOptions{Who: "client", Force: rng.IntN(2) == 0})
	case revert:
		err = e.Revert(t.Context(), id, "client")
	case clear:
		err = e.Clear(id, "client")
	case get:
		var v tasks.View
		if v, err = e.Get(id); err == nil {
			a.seen = seen{v.State, v.Code, v.StopLost}
		}
	case preview:
		var p tasks.Preview
		p, err = e.Preview(id)
		a.cancelable = p.Cancelable
	}
	a.code = code.Of(err)
	return c, a
}

// check fails the test, and draws the history, if it is not linearizable.
func check(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	model := specification.ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, history, 0)
	if result == porcupine.Ok {
		return
	}
	f, err := os.CreateTemp("", "linear-*.html")
	if err != nil {
		t.Fatal(err)
	}
	if err := porcupine.Visualize(model, info, f); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	t.Fatalf("what the clients were told has no order; see %s", f.Name())
}
