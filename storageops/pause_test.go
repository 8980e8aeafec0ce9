package storageops_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"

	"github.com/rs/zerolog"
)

const imgNew = "aaaaaaaa-0000-4000-8000-000000000009"

// pausable is a host with a volume of several slices, whose store holds back checkpoints as the test says. Each class has one
// slot.
type pausable struct {
	*host
	let  atomic.Int64  // so many more checkpoints are recorded; the others are held back
	held chan struct{} // one is held back
	gate chan struct{} // lets the task go that keeps the others from beginning
}

func newPausable(t *testing.T, format string) *pausable {
	t.Helper()
	h := &pausable{host: newHostInMemory(t), held: make(chan struct{}, 1), gate: make(chan struct{})}
	h.let.Store(1 << 60)
	h.grow(format)
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.store.OnCommit = h.commit
	h.Engine = tasks.New(tasks.Options{
		Store: h.store, Log: zerolog.Nop(), Limits: map[tasks.Class]int{tasks.ClassCopy: 1, tasks.ClassLight: 1},
		Verbs: append(h.storage.Verbs(),
			testVerb("Test.copy", tasks.ClassCopy, func(context.Context, *tasks.Scope) error { return nil }),
			testVerb("Test.light", tasks.ClassLight, func(context.Context, *tasks.Scope) error { return nil }),
			testVerb("Test.gate", tasks.ClassLight, func(context.Context, *tasks.Scope) error { <-h.gate; return nil },
				tasks.Lock{Key: "domain/" + sd, Exclusive: true})),
	})
	if err := h.Start(nil); err != nil {
		t.Fatal(err)
	}
	return h
}

func testVerb(name string, class tasks.Class, do func(context.Context, *tasks.Scope) error, locks ...tasks.Lock) *tasks.Verb {
	return &tasks.Verb{
		Name: name, Params: struct{}{}, Class: class, Contract: tasks.Contract{Bound: time.Minute},
		Plan: func(string, json.RawMessage) (*tasks.Plan, error) {
			return &tasks.Plan{Tag: tasks.TagLocal, Locks: locks, Steps: []tasks.Step{{Name: "do", Do: do}}}, nil
		},
	}
}

// grow gives volOld a format and five slices of data.
func (h *pausable) grow(format string) {
	h.t.Helper()
	d, err := h.domains.Get(sd)
	if err != nil {
		h.t.Fatal(err)
	}
	file, word := h.path("images", imgB, volOld), map[string]string{domain.FormatCOW: "qcow2", domain.FormatRaw: "raw"}[format]
	h.run("qemu-img", "create", "-q", "-f", word, file, "320M")
	h.run("qemu-io", "-f", word, "-c", "write -q -P 1 0 100M", "-c", "write -q -P 2 110M 200M", "-c", "write -q -P 3 319M 64k", file)
	if err := d.SetMode(imgB, volOld); err != nil {
		h.t.Fatal(err)
	}
	err = d.UpdateVolumeMeta(imgB, volOld, func(m *domain.VolumeMeta) error {
		m.Capacity, m.Format = 320<<20, format
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// commit holds back a checkpoint: the engine tries again.
func (h *pausable) commit(c store.Change) error {
	if len(c.Log) > 0 || len(c.Put) != 1 || c.Put[0].ID != taskID {
		return nil
	}
	if h.let.Add(-1) >= 0 {
		return nil
	}
	h.let.Add(1)
	select {
	case h.held <- struct{}{}:
	default:
	}
	return store.ErrUnavailable
}

// copy begins a copy of volOld; it begins as soon as the gate is open.
func (h *pausable) copy(format string) {
	h.t.Helper()
	if err := h.submit("Volume.copy", h.copyParams(format)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *pausable) copyParams(format string) map[string]any {
	return with(map[string]any{"volumeID": volOld, "imageID": imgB, "dstSdUUID": sd, "dstImgUUID": imgNew, "dstVolUUID": volNew,
		"volFormat": format, "preallocate": "SPARSE"})
}

// shut keeps all that is submitted from now on from beginning, until the gate is closed.
func (h *pausable) shut() {
	h.t.Helper()
	id := h.other("Test.gate")
	if _, err := h.Wait(h.t.Context(), id, func(s tasks.Summary) bool { return s.State == tasks.Running }); err != nil {
		h.t.Fatal(err)
	}
}

func (h *pausable) other(verb string) string {
	h.t.Helper()
	id, err := h.Submit(h.t.Context(), tasks.Submission{Verb: verb, Params: json.RawMessage("{}"), Who: "tester"})
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// atRest is called when a pause is recorded, and returns when the step has ended and the slot is free; verb needs that.
func (h *pausable) atRest(verb string) {
	h.t.Helper()
	id := h.other(verb)
	if _, err := h.Wait(h.t.Context(), id, tasks.Ended); err != nil {
		h.t.Fatal(err)
	}
	v := h.view()
	if !v.Paused || v.State.Final() || len(v.Pids) > 0 {
		h.t.Fatalf("the paused task is %s (paused: %v) and has processes %v: %s", v.State, v.Paused, v.Pids, v.Message)
	}
}

func (h *host) view() tasks.View {
	h.t.Helper()
	v, err := h.Get(taskID)
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// finish waits for the end, and proves that the copy is what its source is.
func (h *pausable) finish() {
	h.t.Helper()
	if v := h.ended(); v.State != tasks.Finished {
		h.t.Fatalf("ended %s: %s", v.State, v.Message)
	}
	h.run("qemu-img", "compare", h.path("images", imgB, volOld), h.path("images", imgNew, volNew))
}

func forEachPair(t *testing.T, run func(t *testing.T, from, to string)) {
	for _, from := range []string{domain.FormatRaw, domain.FormatCOW} {
		for _, to := range []string{domain.FormatRaw, domain.FormatCOW} {
			t.Run(from+" to "+to, func(t *testing.T) { run(t, from, to) })
		}
	}
}

// TestPauseAtEachCheckpoint pauses a copy behind its first checkpoint, and each time that it has come one further.
func TestPauseAtEachCheckpoint(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		h := newPausable(t, from)
		h.let.Store(1)
		h.copy(to)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = h.Wait(t.Context(), taskID, tasks.Ended)
		}()
		pauses := 0
		for over := false; !over; {
			select {
			case <-h.held:
			case <-ended:
				over = true
				continue
			}
			h.must(h.Pause(taskID, "tester"))
			pauses++
			h.let.Store(1 << 60) // the one that is held back, and those that our own worker has reached meanwhile
			h.atRest("Test.copy")
			if pauses == 1 {
				h.must(h.Pause(taskID, "tester"))
			}
			select {
			case <-h.held: // of the same checkpoint
			default:
			}
			h.let.Store(1)
			h.must(h.Resume(taskID, "tester"))
		}
		h.finish()
		if pauses < 1 || pauses < 3 && (from != domain.FormatRaw || to != domain.FormatRaw) {
			t.Errorf("it was paused %d times", pauses)
		}
	})
}

// TestStopFromAPause: nothing is left, and nothing runs any more.
func TestStopFromAPause(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		h := newPausable(t, from)
		before := h.tree()
		h.let.Store(2)
		h.copy(to)
		<-h.held
		h.must(h.Pause(taskID, "tester"))
		h.let.Store(1 << 60)
		h.atRest("Test.copy")
		h.must(h.Stop(taskID, tasks.StopOptions{Who: "tester"}))
		if v := h.ended(); v.State != tasks.Recovered {
			t.Fatalf("ended %s: %s", v.State, v.Message)
		}
		same(t, before, h.tree())
	})
}

// TestAPauseOutlivesTheAgent: the next one does not go on by itself.
func TestAPauseOutlivesTheAgent(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		h := newPausable(t, from)
		h.let.Store(2)
		h.copy(to)
		<-h.held
		h.must(h.Pause(taskID, "tester"))
		h.let.Store(1 << 60)
		h.atRest("Test.copy")
		for _, v := range h.List(tasks.Filter{Verb: "Test.copy"}) {
			h.must(h.Clear(v.ID, "tester"))
		}
		h.host = h.crash(rand.New(rand.NewPCG(1, 1)))
		if v := h.view(); !v.Paused {
			t.Fatalf("it is %s: %s", v.State, v.Message)
		}
		h.must(h.Resume(taskID, "tester"))
		h.finish()
	})
}

// TestPauseOfALimitedCopy pauses in the middle of a slice that would take weeks. The limit that is set meanwhile counts when it
// goes on.
func TestPauseOfALimitedCopy(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		h := newPausable(t, from)
		h.shut()
		h.copy(to)
		h.must(h.SetLimit(taskID, "tester", 10))
		close(h.gate)
		_, err := h.Wait(t.Context(), taskID, func(tasks.Summary) bool { return !h.view().LastCheckpoint.IsZero() })
		h.must(err)
		h.must(h.Pause(taskID, "tester"))
		h.atRest("Test.copy")
		h.must(h.SetLimit(taskID, "tester", 0))
		h.must(h.Resume(taskID, "tester"))
		h.finish()
	})
}

// TestPauseOfAWipe pauses a wipe past its point of no return; it completes afterwards, and a stop is refused meanwhile.
func TestPauseOfAWipe(t *testing.T) {
	h := newPausable(t, domain.FormatRaw)
	h.shut()
	h.must(h.submit("Volume.delete", with(map[string]any{"volumeID": volOld, "imageID": imgB, "postZero": true, "force": false})))
	h.must(h.SetLimit(taskID, "tester", 10))
	close(h.gate)
	_, err := h.Wait(t.Context(), taskID, func(s tasks.Summary) bool { return s.State == tasks.Committing })
	h.must(err)
	h.must(h.Pause(taskID, "tester"))
	h.atRest("Test.light")
	if err := h.Stop(taskID, tasks.StopOptions{Who: "tester"}); err == nil {
		t.Error("a stop past the point of no return was taken")
	}
	h.must(h.SetLimit(taskID, "tester", 0))
	h.must(h.Resume(taskID, "tester"))
	if v := h.ended(); v.State != tasks.Finished {
		t.Fatalf("ended %s: %s", v.State, v.Message)
	}
	found, err := filepath.Glob(h.path(".vdsm-agent", "trash", taskID, "*", volOld))
	if err != nil || len(found) != 1 {
		t.Fatalf("the trash has %v, %v", found, err)
	}
	zeros := filepath.Join(t.TempDir(), "zeros")
	h.must(os.WriteFile(zeros, nil, 0o600))
	h.must(os.Truncate(zeros, 320<<20))
	h.run("cmp", zeros, found[0])
}

// TestDomainLimit: a copy with the limit of its domain would take months. It ends because the limit is taken away.
func TestDomainLimit(t *testing.T) {
	h := newPausable(t, domain.FormatRaw)
	h.shut()
	h.copy("RAW")
	h.must(h.SetLimit(taskID, "tester", 1<<40))
	limit := func(domain string, n int64) (any, error) {
		return h.call("Domain.setLimits", map[string]any{"storagedomainID": domain, "bytesPerSecond": n})
	}
	for _, c := range []struct {
		domain string
		n      int64
		code   code.Code
	}{{imgA, 1, code.DomainDoesNotExist}, {sd, -1, code.InvalidParameter}, {sd, 10, 0}} {
		if _, err := limit(c.domain, c.n); code.Of(err) != c.code {
			t.Fatalf("a limit of %d: %v", c.n, err)
		}
	}
	close(h.gate)
	_, err := h.Wait(t.Context(), taskID, func(tasks.Summary) bool { return !h.view().LastCheckpoint.IsZero() })
	h.must(err)
	if v := h.view(); v.State != tasks.Running || v.Progress.Done > 4<<20 {
		t.Errorf("it is %s with %d bytes", v.State, v.Progress.Done)
	}
	_, err = limit(sd, 0)
	h.must(err)
	h.finish()
}

func (h *host) call(name string, params map[string]any) (any, error) {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range h.storage.Calls() {
		if c.Name == name {
			return c.Answer(h.t.Context(), raw)
		}
	}
	h.t.Fatalf("there is no %s", name)
	return nil, nil
}
