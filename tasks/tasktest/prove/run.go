package prove

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
)

// run is one case: a client's script over a process, or several, with faults.
type run struct {
	subject *subject
	seed    seed
	probing bool          // notes the points after the last fault
	release chan struct{} // lets the holder go

	helpers sync.WaitGroup // requests of clients that come at their own time, and shutdowns

	mu        sync.Mutex // guards what follows; never held while anything blocks
	world     World
	store     *tasktest.MemStore
	proc      *process
	left      *tasktest.MemStore // what a crash left
	leftWorld World

	next   int    // the next fault
	base   int    // the point at which the last one was met, in this process
	after  []spot // points since
	queued []chan struct{}

	broken, brokenCommit bool // the store, or the world, fails until healAt
	healAt               time.Time
	failed               bool // something failed, so that times say nothing

	rivals     int
	rivalAsked bool
	earlier    map[string]bool // steps that had an effect in earlier processes
	cache      map[string]*durable

	// what the client was told
	submitted, stopAcked, stopRefused, stopUnknown, stopAgain bool
	stoppedAt                                                 time.Time
	sawFinal                                                  tasks.State
	revertAsked, clearAsked                                   bool

	broke string
	trace *trace
}

// trace is a readable account of a run.
type trace struct {
	mu     sync.Mutex
	lines  []string
	points []string
}

// essence is what the seed decides: the points in their order, and all lines in any. What is said between two points, by
// clients and rivals that go on by themselves, may be in another order in another run.
func (t *trace) essence() []string {
	return append(slices.Clone(t.points), slices.Sorted(slices.Values(t.lines))...)
}

// result is what comes of a run.
type result struct {
	broke string
	after []spot
	trace *trace
}

// play runs one case in a bubble of its own.
func (s *subject) play(t *testing.T, sd seed, probing, traced bool) (out result) {
	r := &run{
		subject: s, seed: sd, probing: probing, rivals: 1,
		earlier: map[string]bool{}, cache: map[string]*durable{},
	}
	if traced {
		r.trace = &trace{}
	}
	defer func() {
		if p := recover(); p != nil { // a bubble in which everything is blocked panics here
			out = result{broke: fmt.Sprintf("end: %v", p), trace: r.trace}
		}
	}()
	synctest.Test(t, func(*testing.T) {
		r.release = make(chan struct{})
		r.store, r.world = tasktest.NewMemStore(), s.World()
		r.play()
	})
	return result{r.broke, r.after, r.trace}
}

func (r *run) current() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc
}

func (r *run) storeNow() *tasktest.MemStore {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc != nil && r.proc.dead {
		return r.left
	}
	return r.store
}

func (r *run) tracef(format string, args ...any) {
	if r.trace == nil {
		return
	}
	r.trace.mu.Lock()
	defer r.trace.mu.Unlock()
	r.trace.lines = append(r.trace.lines, fmt.Sprintf("%10s  ", time.Since(epoch).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// epoch is when time begins in a bubble.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (r *run) point(n int, label string) {
	r.tracef("point %d: %s", n, label)
	r.trace.mu.Lock()
	defer r.trace.mu.Unlock()
	r.trace.points = append(r.trace.points, fmt.Sprintf("%3d %s", n, label))
}

func (r *run) effectLabel(p *process, id, effect string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := p.calls[id]
	if c == nil {
		return fmt.Sprintf("effect %s: %s", who(id), effect)
	}
	return fmt.Sprintf("effect %s %s %s: %s", who(id), c.phase, p.plans[id].Steps[c.step].Name, effect)
}

func who(id string) string {
	if id == mainID {
		return "main"
	}
	return "reclaim"
}

// commitLabel says what a transaction changes.
func (r *run) commitLabel(c store.Change) string {
	text := "record"
	for _, row := range c.Put {
		old := r.durable(row.ID)
		d := decode(row)
		text += " " + who(row.ID)
		if old == nil || old.State != d.State {
			text += " " + string(d.State)
		} else if same(old, d) {
			text += " checkpoint"
		}
		for i, s := range d.Steps {
			if old == nil || old.Steps[i].State != s.State {
				if s.State != "" {
					text += fmt.Sprintf(", %s %s", s.Name, s.State)
				}
			}
		}
	}
	return text
}

func same(a, b *durable) bool { return a.State == b.State && slices.Equal(a.Steps, b.Steps) }
