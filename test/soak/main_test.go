// Package soak kills the real daemon with SIGKILL, again and again and at any moment, while several clients submit, stop,
// revert, clear and cancel real copies, imports, creates and deletes, and checks that every answer that a client was given
// came true, that the copies are identical, and that nothing is left behind. `make soak` runs it for longer.
//
// Chance decides what the clients do and when the daemon dies: after so many requests, answers and steps forward that a client
// has seen, never after a time. The seed gives the same decisions again, though not the same order among the clients. The
// stories are in story_test.go, what must hold of one task in ledger_test.go, of everything at the end in audit_test.go.
package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	kills   = flag.Int("kills", 20, "how often the daemon is killed")
	seed    = flag.Uint64("seed", 0, "what chance decides by; 0 = a new one")
	clients = flag.Int("clients", 4, "how many clients work at the same time")
	keep    = flag.Bool("keep", false, "keep the state directory and the domains")
)

// mostEvents is the most requests, answers and steps forward from one kill to the next.
const mostEvents = 120

// binaries is where the programs under test are built, once.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(build(m))
}

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vdsm-agent-soak-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	build := exec.Command("go", "build", "-o", dir, "vdsm-agent/cmd/vdsm-agentd", "vdsm-agent/cmd/vdsm-agentctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the programs cannot be built: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// soak is one run.
type soak struct {
	t       *testing.T
	seed    uint64
	dir     string // everything is below it
	began   time.Time
	ctx     context.Context // ends with the first failure
	end     context.CancelFunc
	failed  sync.Once
	agent   *agent
	domains []string // ids; the first is the daemon's own
	roots   []string // where they are
	disks   disks
	enough  atomic.Bool // the clients shall end their stories

	mu      sync.Mutex
	tasks   []*task   // the ledger
	volumes []*volume // that a story ended with
}

// TestSoak kills the daemon -kills times.
func TestSoak(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("workers get cgroups: run this as root")
	}
	s := &soak{t: t, seed: *seed, began: time.Now()}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("seed %d (again: go test ./test/soak -kills=%d -seed=%d)", s.seed, *kills, s.seed)
	s.ctx, s.end = context.WithCancel(t.Context())
	defer s.end()
	var all sync.WaitGroup
	all.Go(s.run) // in a goroutine of its own, since fail ends the one in which it is called
	all.Wait()
}

func (s *soak) run() {
	s.prepare()
	var working sync.WaitGroup
	defer func() {
		s.end()
		working.Wait()
		s.agent.kill()
	}()
	for i := range *clients {
		working.Go(func() {
			c := s.caller(uint64(i) + 1)
			for !s.enough.Load() {
				c.story()
			}
		})
	}
	recoveries := s.killAgain(rand.New(rand.NewPCG(s.seed, 0)))
	s.enough.Store(true)
	working.Wait()
	if s.ctx.Err() != nil {
		return
	}
	s.audit()
	s.t.Logf("%d kills (%d of them while the daemon recovered), %d tasks, %d copies went on from a checkpoint, %.0f s",
		*kills, recoveries, len(s.tasks), s.agent.logged("the copy goes on from its checkpoint"), time.Since(s.began).Seconds())
}

// prepare makes the disks, starts the daemon, and imports what the clients copy.
func (s *soak) prepare() {
	if *keep {
		dir, err := os.MkdirTemp("", "vdsm-agent-soaked-")
		s.must(err)
		s.dir = dir
		s.t.Logf("the state is kept in %s", dir)
	} else {
		s.dir = s.t.TempDir()
	}
	s.agent = &agent{state: filepath.Join(s.dir, "state"), up: make(chan struct{}), fire: make(chan struct{}, 1)}
	s.disks = s.makeDisks()
	first := s.agent.start(0)
	select {
	case <-first.ready:
	case <-first.ended:
		s.fail(nil, "the daemon does not start")
	}
	s.addDomains()
	s.importBases()
}

// killAgain kills the daemon and starts it again, as often as it was asked to; it returns how often it was killed before it
// had recovered. With the end it is up.
func (s *soak) killAgain(chance *rand.Rand) (recoveries int) {
	left := *kills
	for left > 0 {
		s.agent.after(1 + chance.IntN(mostEvents))
		select {
		case <-s.agent.fire:
		case <-s.agent.life.ended:
			s.fail(nil, "the daemon ended by itself")
		case <-s.ctx.Done():
			return recoveries
		}
		s.agent.kill()
		for left--; ; left-- {
			lines := 0 // kill it again when it has logged so many lines
			if left > 0 && chance.IntN(4) == 0 {
				lines = 1 + chance.IntN(12)
			}
			life := s.agent.start(lines)
			select {
			case <-life.ready:
			case <-life.lines:
			case <-life.ended:
				s.fail(nil, "the daemon does not start again")
			case <-s.ctx.Done():
				return recoveries
			}
			if lines == 0 {
				break
			}
			recoveries++
			s.agent.kill()
		}
	}
	return recoveries
}

// fail ends the run: it prints what is known and ends the goroutine. Only the first failure counts; others may follow from it.
func (s *soak) fail(t *task, format string, args ...any) {
	s.failed.Do(func() {
		var out strings.Builder
		fmt.Fprintf(&out, "%s\nseed %d, kills %d, state in %s\n", fmt.Sprintf(format, args...), s.seed, *kills, s.dir)
		for _, t := range s.about(t) {
			fmt.Fprintf(&out, "\nTask %s: what was asked and answered:\n%s\n", t.id, strings.Join(t.history, "\n"))
			fmt.Fprintf(&out, "\nWhat the daemon logged of it:\n%s\n", strings.Join(s.agent.tail(40, t.id), "\n"))
		}
		fmt.Fprintf(&out, "\nThe end of the daemon's log:\n%s\n", strings.Join(s.agent.tail(40, ""), "\n"))
		s.t.Error(out.String())
		s.end()
	})
	runtime.Goexit()
}

// about returns the task and all others of its image, which are of the same story.
func (s *soak) about(t *task) []*task {
	if t == nil || t.image == nil {
		return slices.DeleteFunc([]*task{t}, func(t *task) bool { return t == nil })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.tasks), func(other *task) bool { return other.image != t.image })
}

// must ends the run if there is an error of the test itself.
func (s *soak) must(err error) {
	if err != nil {
		s.fail(nil, "%v", err)
	}
}

// tool runs a program that must succeed.
func (s *soak) tool(t *task, name string, args ...string) {
	if out, err := exec.CommandContext(s.ctx, name, args...).CombinedOutput(); err != nil && s.ctx.Err() == nil {
		s.fail(t, "%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
