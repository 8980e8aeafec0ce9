package tasks_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"
)

// TestModel makes random requests, lets time pass, restarts the engine and lets its store fail, and holds every answer to the
// specification. At the end every task must have come to its end, and the world must be as those ends say.
func TestModel(t *testing.T) {
	for range 20 { // of -rapid.checks sequences, 100 without that flag
		rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, func(t *rapid.T) { newMachine(t).run(t) }) })
	}
}

// machine is an engine, and what is known of its tasks.
type machine struct {
	*tasks.Engine
	store *tasktest.MemStore
	world *mock.World
	sick  atomic.Pointer[error] // what the store answers
	ill   bool                  // it was sick once: the engine may be waiting to try again

	plans map[string]*planned
	now   map[string]phases
	last  map[string]tasks.View // as it was seen last
	fence fence
}

// planned is the task that is submitted under an id.
type planned struct {
	verb   string
	params mock.Params
	flow   string
	traits traits
	used   bool // somebody uses its result
}

// fence is what is known of the one flow that is cancelled.
type fence struct {
	up, down bool // it may be so; both when a request was answered with "unknown"
	until    time.Time
}

const (
	flow     = "f"
	fenceFor = time.Minute
	ever     = time.Hour // by then everything has ended
)

var (
	someIDs = []string{"a", "b", "c", "d"}
	anID    = rapid.SampledFrom(someIDs)
	rarely  = rapid.Map(rapid.IntRange(0, 5), func(n int) bool { return n == 5 })
)

// aStep has at most one trait that decides how its task ends.
func aStep(name string) *rapid.Generator[mock.Knobs] {
	return rapid.Custom(func(t *rapid.T) mock.Knobs {
		k := mock.Knobs{Name: name, Slices: rapid.IntRange(1, 3).Draw(t, "slices"),
			Pace: rapid.SampledFrom([]time.Duration{0, time.Second, 3 * time.Second}).Draw(t, "pace")}
		k.IgnoresStop = rarely.Draw(t, "ignores a stop")
		if rarely.Draw(t, "the undo fails") {
			k.UndoFails = 1
		}
		switch rapid.SampledFrom([]string{"", "", "fails", "panics", "works outside", "point", "retried", "refused", "dies", "decided", "verify"}).Draw(t, "kind") {
		case "fails":
			k.FailAt = k.Slices
		case "panics":
			k.Panics, k.UndoFails = true, 0 // it has had no effect
		case "works outside":
			k.Worker = rapid.SampledFrom([]string{mock.Polite, mock.Stubborn}).Draw(t, "worker")
		case "point":
			k.PointOfNoReturn = true
		case "retried":
			k.PointOfNoReturn, k.FailAt, k.FailTimes = true, 1, 2
		case "refused":
			k.PointOfNoReturn, k.FailAt, k.Refused, k.UndoFails = true, 1, true, 0
		case "dies":
			k.PointOfNoReturn, k.FailAt, k.Permanent = true, k.Slices, true
		case "decided":
			k.DecidedBy, k.Finished = "libvirt", rapid.Bool().Draw(t, "it had finished")
		case "verify":
			k = mock.Knobs{Name: name, Verify: true}
		}
		return k
	})
}

func newMachine(t *rapid.T) *machine {
	m := &machine{store: tasktest.NewMemStore(), world: mock.NewWorld(), plans: map[string]*planned{}, now: map[string]phases{},
		last: map[string]tasks.View{}, fence: fence{down: true}}
	m.store.OnCommit = func(store.Change) error {
		if err := m.sick.Load(); err != nil {
			return *err
		}
		return nil
	}
	for _, id := range someIDs {
		p := &planned{verb: "Mock.run", params: steps(), flow: rapid.SampledFrom([]string{"", flow}).Draw(t, "flow of "+id)}
		m.plans[id], m.now[id] = p, phases{{at: absent}}
		if id == "d" { // one that cannot be reverted, and that no fence keeps out
			p.verb, p.params = "Mock.reclaim", mock.Params{Steps: []mock.Knobs{{Name: "reclaim", PointOfNoReturn: true}}}
		} else {
			for i := range rapid.IntRange(0, 3).Draw(t, "steps of "+id) {
				k := aStep(string(rune('p'+i))).Draw(t, "step")
				if traitsOf(p.params).commits { // what fails from here on must have a way to end
					k.Panics, k.Worker = false, ""
					if k.FailAt > 0 && !k.Refused && !k.Permanent {
						k.FailTimes = 2
					}
				}
				p.params.Steps = append(p.params.Steps, k)
			}
			p.params.Locks = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"image/1", "image/2"}), 0, 2, rapid.ID).Draw(t, "locks of "+id)
		}
		p.traits = traitsOf(p.params)
		p.traits.final = p.verb == "Mock.reclaim"
	}
	m.start(t)
	return m
}

func (m *machine) start(t *rapid.T) {
	m.Engine = tasks.New(tasks.Options{Store: m.store, Verbs: mock.Verbs(m.world), Log: zerolog.Nop(), Tuning: tasks.Tuning{FenceFor: fenceFor},
		Limits: map[tasks.Class]int{tasks.ClassCopy: 2}})
	if err := m.Start(nil); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) close(t *rapid.T) {
	ctx, cancel := context.WithTimeout(context.Background(), ever)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) run(t *rapid.T) {
	defer func() { m.close(t) }()
	t.Repeat(map[string]func(*rapid.T){
		"submit":       func(t *rapid.T) { m.submit(t, anID.Draw(t, "id"), rarely.Draw(t, "other parameters")) },
		"submit again": func(t *rapid.T) { m.submit(t, anID.Draw(t, "id"), false) },
		"stop":         func(t *rapid.T) { m.stop(t, anID.Draw(t, "id"), rapid.Bool().Draw(t, "force")) },
		"preview":      func(t *rapid.T) { m.preview(t, anID.Draw(t, "id")) },
		"revert":       func(t *rapid.T) { m.revert(t, anID.Draw(t, "id")) },
		"clear":        func(t *rapid.T) { m.clear(t, anID.Draw(t, "id")) },
		"wait":         func(t *rapid.T) { m.wait(t, anID.Draw(t, "id"), time.Second) },
		"use":          func(t *rapid.T) { m.use(anID.Draw(t, "id")) },
		"cancel flow":  func(t *rapid.T) { m.cancelFlow(t, rapid.Bool().Draw(t, "revert")) },
		"release flow": m.releaseFlow,
		"restart":      m.restart,
		"store trouble": func(t *rapid.T) {
			m.trouble(rapid.SampledFrom([]error{store.ErrUnavailable, store.ErrUnknown, tasktest.ErrApplied}).Draw(t, "error"))
		},
		"store well": func(*rapid.T) { m.sick.Store(nil) },
		"time passes": func(t *rapid.T) {
			<-time.After(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 20 * time.Second}).Draw(t, "time"))
		},
		"": m.look,
	})
	m.end(t)
}

// asked holds an answer to what is known of a task, and learns from it.
func (m *machine) asked(t *rapid.T, id string, q request, err error, a answer) {
	t.Helper()
	a.code = code.Of(err)
	a.unknown = a.code == code.TaskPersist && strings.Contains(err.Error(), store.ErrUnknown.Error())
	p := m.plans[id]
	after := m.now[id].after(p.traits, q, a)
	t.Logf("%s %s -> %v (%v)", q.verb, id, a, err)
	if len(after) == 0 {
		t.Fatalf("%+v of task %s answers %v (%v), which is wrong in each of %+v; its traits are %+v", q, id, a, err, m.now[id].later(p.traits), p.traits)
	}
	m.now[id] = after
}

func (m *machine) submission(t *rapid.T, id string, other bool) tasks.Submission {
	p := m.plans[id]
	s := tasks.Submission{ID: id, Verb: p.verb, Flow: p.flow, Who: "client"}
	if p.verb == "Mock.run" {
		params := p.params
		if other {
			params.Tag = tasks.TagSPM
		}
		s.Params = encode(t, params)
	} else if other {
		s.Params = encode(t, mock.ReclaimParams{Of: "another"})
	}
	return s
}

func (m *machine) submit(t *rapid.T, id string, other bool) {
	p := m.plans[id]
	_, err := m.Submit(context.Background(), m.submission(t, id, other))
	q := request{verb: submit, other: other}
	if p.flow == flow && p.verb == "Mock.run" && m.fence.up && time.Now().Before(m.fence.until) {
		q.fenced = !m.fence.down || code.Of(err) == code.FlowCancelled
	}
	m.asked(t, id, q, err, answer{})
}

func (m *machine) stop(t *rapid.T, id string, force bool) {
	queued := m.last[id].State == tasks.Queued && m.last[id].RevertAsked == nil
	began := slices.ContainsFunc(m.world.Events(), func(e string) bool { return strings.HasPrefix(e, "do "+id+"/") })
	err := m.Stop(id, tasks.StopOptions{Who: "client", Force: force})
	m.asked(t, id, request{verb: stop}, err, answer{})
	if !queued || began || err != nil {
		return
	}
	synctest.Wait() // G11: no time passes
	if v, err := m.Get(id); !m.ill && (err != nil || v.State != tasks.Recovered) {
		t.Fatalf("task %s was stopped while it was queued, and is %s", id, v.State)
	}
	if slices.ContainsFunc(m.world.Events(), func(e string) bool { return strings.HasPrefix(e, "do "+id+"/") }) {
		t.Fatalf("task %s was stopped while it was queued, and had an effect", id)
	}
}

func (m *machine) preview(t *rapid.T, id string) {
	p, err := m.Preview(id)
	m.asked(t, id, request{verb: preview}, err, answer{cancelable: p.Cancelable})
}

func (m *machine) revert(t *rapid.T, id string) {
	q := request{verb: revert, used: m.plans[id].used}
	for other, p := range m.plans {
		shared := slices.ContainsFunc(p.params.Locks, func(k string) bool { return slices.Contains(m.plans[id].params.Locks, k) })
		if _, err := m.Get(other); err == nil && other != id && shared && !m.last[other].State.Final() {
			q.locked = true
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), ever)
	defer cancel()
	m.asked(t, id, q, m.Revert(ctx, id, "client"), answer{})
}

func (m *machine) clear(t *rapid.T, id string) {
	m.asked(t, id, request{verb: clear}, m.Clear(id, "client"), answer{})
}

// wait waits for the end and says whether it came.
func (m *machine) wait(t *rapid.T, id string, most time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	v, err := m.Wait(ctx, id, tasks.Ended)
	if code.Of(err) == code.ResourceTimeout && !v.State.Final() {
		err = nil
	}
	m.saw(t, id, v, err)
	return err != nil || v.State.Final()
}

func (m *machine) use(id string) {
	m.world.Use(id)
	m.plans[id].used = true
}

func (m *machine) saw(t *rapid.T, id string, v tasks.Summary, err error) {
	t.Helper()
	m.asked(t, id, request{verb: get}, err, answer{seen: seen{v.State, v.Code, v.StopLost}})
	if err == nil {
		if full, err := m.Get(id); err == nil { // it may have moved on since
			m.last[id] = full
		}
	}
}

// look looks at all tasks: no two that work have the same lock (G12).
func (m *machine) look(t *rapid.T) {
	synctest.Wait()
	holders := map[string]string{}
	for _, id := range someIDs {
		v, err := m.Get(id)
		m.saw(t, id, v.Summary, err)
		if err != nil || v.State.Final() || v.State == tasks.Queued || v.Started.IsZero() {
			continue
		}
		for _, key := range m.plans[id].params.Locks {
			if other, taken := holders[key]; taken {
				t.Fatalf("tasks %s and %s have both the lock %s", id, other, key)
			}
			holders[key] = id
		}
	}
}

func (m *machine) cancelFlow(t *rapid.T, reverts bool) {
	changes, err := m.CancelFlow(context.Background(), flow, "client", reverts)
	until := time.Now().Add(fenceFor)
	if !m.fenced(t, err, fence{up: true, until: until}) {
		return
	}
	found := map[string]bool{}
	for _, c := range changes {
		found[c.ID] = true
		switch {
		case !c.Before.Final():
			m.asked(t, c.ID, request{verb: stop, flow: reverts, used: m.plans[c.ID].used}, c.Err, answer{})
		case c.Before == tasks.Finished && reverts:
			// Others of the flow, whose locks it needs, may have ended meanwhile.
			m.asked(t, c.ID, request{verb: revert, locked: code.Of(c.Err) == code.TaskState}, c.Err, answer{})
		case c.Err != nil:
			t.Fatalf("nothing was to be done with task %s: %v", c.ID, c.Err)
		}
		if c.After.ID != "" { // cleared, by a request that was answered with "unknown"
			m.saw(t, c.ID, c.After, nil)
		}
	}
	for id, p := range m.plans {
		if _, err := m.Get(id); err == nil && p.flow == flow && !found[id] {
			t.Fatalf("the cancel of the flow has forgotten task %s", id)
		}
	}
}

func (m *machine) releaseFlow(t *rapid.T) {
	m.fenced(t, m.ReleaseFlow(flow), fence{down: true})
}

// fenced learns from the answer to a change of the fence.
func (m *machine) fenced(t *rapid.T, err error, now fence) bool {
	switch {
	case err == nil:
		m.fence = now
	case code.Of(err) != code.TaskPersist:
		t.Fatal(err)
	case strings.Contains(err.Error(), store.ErrUnknown.Error()):
		m.fence.up, m.fence.down = m.fence.up || now.up, m.fence.down || now.down
		if now.up {
			m.fence.until, m.fence.down = now.until, true
		}
	}
	return err == nil
}

func (m *machine) restart(t *rapid.T) {
	m.close(t)
	for id, p := range m.plans {
		m.now[id] = m.now[id].certain(p.traits)
	}
	m.start(t)
}

func (m *machine) trouble(err error) {
	m.sick.Store(&err)
	m.ill = true
}

// end lets everything come to its end, and compares the world.
func (m *machine) end(t *rapid.T) {
	m.sick.Store(nil)
	for _, id := range someIDs {
		if v, err := m.Get(id); err == nil && m.plans[id].traits.hangs && !v.State.Final() {
			m.stop(t, id, false)
		}
	}
	for range 2 { // one whose flow was cancelled too late is reverted after its end
		for _, id := range someIDs {
			if !m.wait(t, id, ever) {
				t.Fatalf("task %s has not ended: %+v", id, m.last[id])
			}
		}
		<-time.After(time.Minute)
	}
	must, may := map[string]bool{}, map[string]bool{}
	for id, v := range m.last {
		for i, s := range v.Steps {
			there := s.State == tasks.StepStarted || s.State == tasks.StepDone || s.State == tasks.StepUndoFailed
			switch {
			case v.State == tasks.Finished && s.State != tasks.StepDone, v.State == tasks.Recovered && there, v.State == tasks.Failed && len(v.Residue) == 0:
				t.Fatalf("task %s is %s with residue %v, and its step %s %s", id, v.State, v.Residue, s.Name, s.State)
			}
			if there && v.Verb == "Mock.run" && !m.plans[id].params.Steps[i].Verify { // a reclaim only removes
				may[id+"/"+s.Name] = true
				must[id+"/"+s.Name] = s.State != tasks.StepUndoFailed // that one may have had no effect yet
			}
		}
	}
	got := m.world.Effects()
	for _, e := range got {
		if !may[e] {
			t.Fatalf("the effect %s is there; there may be %v", e, may)
		}
	}
	for e, needed := range must {
		if needed && !slices.Contains(got, e) {
			t.Fatalf("the effect %s is gone; there are %v", e, got)
		}
	}
	if n := m.world.Workers(); n != 0 {
		t.Fatalf("%d workers are alive", n)
	}
	probe := steps(mock.Knobs{Name: "probe"})
	probe.Locks = []string{"image/1", "image/2"}
	id, err := m.Submit(context.Background(), tasks.Submission{Verb: "Mock.run", Params: encode(t, probe)})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if v, err := m.Get(id); err != nil || v.State != tasks.Finished {
		t.Fatalf("a task that needs all locks is %s behind %v (%v)", v.State, v.WaitsBehind, err)
	}
}
