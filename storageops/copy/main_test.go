package copy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

// TestMain lets the test binary be the worker, as main lets the agent's be.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == WorkerCommand {
		os.Exit(WorkerMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

const mib = 1 << 20

// env is a step: it keeps what was checkpointed as a store would, and can stop or fail at a checkpoint.
type env struct {
	*qemuimgtest.Starter
	t *testing.T

	mu     sync.Mutex
	states []State
	fills  []FillState
	done   []int64

	atCheckpoint func(n int) error // n counts from 1; called after the state was recorded
	atProgress   func(done, total int64)
	limit        atomic.Int64
}

func newEnv(t *testing.T) *env { return &env{Starter: qemuimgtest.NewStarter(t), t: t} }

func (e *env) Checkpoint(state any) error {
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	e.mu.Lock()
	n := 0
	switch state.(type) {
	case State:
		var s State
		err = json.Unmarshal(b, &s)
		e.states = append(e.states, s)
		n = len(e.states)
	case FillState:
		var s FillState
		err = json.Unmarshal(b, &s)
		e.fills = append(e.fills, s)
		n = len(e.fills)
	default:
		err = fmt.Errorf("a checkpoint of type %T", state)
	}
	e.mu.Unlock()
	if err == nil && e.atCheckpoint != nil {
		err = e.atCheckpoint(n)
	}
	return err
}

func (e *env) Progress(done, total int64) {
	e.mu.Lock()
	e.done = append(e.done, done)
	e.mu.Unlock()
	if done < 0 || done > total {
		e.t.Errorf("progress is %d of %d", done, total)
	}
	if e.atProgress != nil {
		e.atProgress(done, total)
	}
}

func (e *env) Limit() int64 { return e.limit.Load() }

// last is the state that a resumed Run gets.
func (e *env) last() *State {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.states) == 0 {
		return nil
	}
	s := e.states[len(e.states)-1]
	return &s
}

// image makes an empty image.
func (e *env) image(path, format string, capacity int64, backing ...Layer) qemuimg.Image {
	e.t.Helper()
	c := qemuimg.CreateSpec{Path: path, Format: format, Capacity: capacity}
	if len(backing) > 0 {
		c.Backing, c.BackingFormat = filepath.Base(backing[0].Path), backing[0].Format
	}
	if err := qemuimg.Create(e.t.Context(), e, c); err != nil {
		e.t.Fatal(err)
	}
	return qemuimg.Image{Path: path, Format: format, Backing: backing}
}

// spec is a copy of src to a destination that is made, in dir; making it anew is counted.
func (e *env) spec(src qemuimg.Image, dir, format string, capacity int64, recreated *int, backing ...Layer) Spec {
	e.t.Helper()
	path := filepath.Join(dir, "copied")
	e.image(path, format, capacity, backing...)
	return Spec{
		Source:   Source{Path: src.Path, Format: src.Format, Backing: src.Backing},
		Dest:     Dest{Path: path, Format: format, New: true, Backing: backing},
		Capacity: capacity,
		floor:    smallSlice,
		Recreate: func(context.Context) error {
			if recreated != nil {
				*recreated++
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			e.image(path, format, capacity, backing...)
			return nil
		},
	}
}

// mustBeCopied proves that the destination reads as the source does, is sound, and has the length that it should have.
func (e *env) mustBeCopied(s Spec) {
	e.t.Helper()
	ctx := context.Background()
	same, err := qemuimg.Compare(ctx, e, s.source(), s.dest())
	if err != nil || !same {
		e.t.Fatalf("the copy differs from its source (%v)", err)
	}
	r, err := qemuimg.Check(ctx, e, s.dest())
	if err != nil || r.Found > qemuimg.Clean {
		e.t.Fatalf("the copy is %v: %+v, %v", r.Found, r, err)
	}
	st, err := os.Stat(s.Dest.Path)
	if err != nil {
		e.t.Fatal(err)
	}
	if s.Dest.Format == qemuimg.Raw && st.Size() != s.Capacity {
		e.t.Fatalf("the copy has %d bytes and should have %d", st.Size(), s.Capacity)
	}
	e.MustBeGone()
}

func (e *env) mustRun(s Spec, last *State) {
	e.t.Helper()
	if err := Run(e.t.Context(), e, s, last); err != nil {
		e.t.Fatal(err)
	}
	if l := e.last(); !l.Complete || l.Done != l.Total {
		e.t.Fatalf("the last state is %+v", l)
	}
	e.mustBeCopied(s)
}

func forEachPair(t *testing.T, run func(t *testing.T, from, to string)) {
	for _, from := range []string{qemuimg.Raw, qemuimg.QCOW2} {
		for _, to := range []string{qemuimg.Raw, qemuimg.QCOW2} {
			t.Run(from+" to "+to, func(t *testing.T) { run(t, from, to) })
		}
	}
}

// manySlices writes five slices' worth of data (with smallSlice), with holes and zeros between, and more than one slice's
// worth in a row.
func manySlices(t *testing.T, img qemuimg.Image) {
	t.Helper()
	qemuimgtest.IO(t, img, "write -q -P 1 0 2M", "write -q -P 2 8M 20M", "write -q -z 40M 8M", "write -q -P 3 50M 16M",
		"write -q -P 4 79M 1M")
}

const (
	manyCapacity = 80 * mib
	smallSlice   = 8 * mib
)
