package tasks

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/tasks/store"
)

// emptyStore is a store with nothing in it, as far as a start looks.
type emptyStore struct{ store.Store }

func (emptyStore) Fences() ([]store.Fence, error)          { return nil, nil }
func (emptyStore) Live(func(store.Record) error) error     { return nil }
func (emptyStore) Prune(time.Time, int) (n int, err error) { return 0, nil }

func beating(every time.Duration, beat func(Queue)) *Engine {
	return New(Options{Store: emptyStore{}, Pulse: Pulse{Every: every, Beat: beat}, Limits: map[Class]int{ClassCopy: 3}})
}

// TestPulse: it beats at once and then as often as asked, until the engine is closed, and says how busy the engine is.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		e := beating(10*time.Second, func(q Queue) {
			at = append(at, time.Since(begin))
			if q.Classes[ClassCopy].Limit != 3 {
				t.Errorf("the queue is %+v", q)
			}
		})
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Second)
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if want := []time.Duration{0, 10 * time.Second, 20 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("it beat at %v, want %v", at, want)
		}
	})
}

// TestWedged: a lock of the engine that is not given back ends the pulse.
func TestWedged(t *testing.T) {
	for name, hold := range map[string]func(*Engine) (release func()){
		"the tasks":     func(e *Engine) func() { e.mu.Lock(); return e.mu.Unlock },
		"the flows":     func(e *Engine) func() { e.flows.mu.Lock(); return e.flows.mu.Unlock },
		"the events":    func(e *Engine) func() { e.events.mu.Lock(); return e.events.mu.Unlock },
		"the scheduler": func(e *Engine) func() { e.locks.mu.Lock(); return e.locks.mu.Unlock },
	} {
		t.Run(name, func(t *testing.T) {
			beats := make(chan struct{}, 1)
			e := beating(time.Hour, func(Queue) { beats <- struct{}{} })
			release := hold(e)
			var done = make(chan struct{})
			go func() { e.pulse(e.options.Pulse); close(done) }()
			for !waitsInPulse() && len(beats) == 0 {
				runtime.Gosched()
			}
			if len(beats) > 0 {
				t.Error("it beats")
			}
			release()
			<-beats
			if err := e.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-done
		})
	}
}

// waitsInPulse says whether the pulse of some engine waits for a mutex.
func waitsInPulse() bool {
	stacks := make([]byte, 1<<20)
	for one := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if bytes.Contains(one, []byte("[sync.Mutex.Lock")) && bytes.Contains(one, []byte(").pulse(")) {
			return true
		}
	}
	return false
}
