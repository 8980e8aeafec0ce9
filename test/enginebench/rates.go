package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vdsm-agent/test/benchkit"
)

// roundFor is how long one side is measured in one round.
const roundFor = 300 * time.Millisecond

// figure is a rate and its bound.
type figure struct {
	what    string
	clients int
	request func(s side, client int) error
	bound   float64
}

var figures = []figure{
	{"submits, queue held", clients, submitHeld, 2.0},
	{"submits, queue held", 1, submitHeld, 0.7},
	{"lives of no-op tasks", clients, liveOnce, 0.6},
}

func submitHeld(s side, client int) error {
	_, err := s.submit(client, held)
	return err
}

// liveOnce submits a task and waits until it has ended.
func liveOnce(s side, client int) error {
	id, err := s.submit(client, life)
	if err != nil {
		return err
	}
	return s.wait(client, id)
}

// rate prints a figure of a side against the baseline. Each round begins with fresh files, since the queue that a round makes is
// longer than any that a daemon allows by default. promised says that the bound is for this side.
func (b *bench) rate(name string, open func(dir string) (side, error), f figure, promised bool) error {
	var p benchkit.Pair
	for range b.rounds {
		err := b.fresh(open, func(s side, base *baseline) error {
			return p.Measure(
				func() (float64, error) { return perSecond(f.clients, base.request) },
				func() (float64, error) {
					return perSecond(f.clients, func(client int) error { return f.request(s, client) })
				})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
	}
	verdict := ""
	if promised {
		verdict = ", " + benchkit.AtLeast(p.Ratio(), f.bound)
	}
	fmt.Printf("%s: %s, %s: %.0f/s, one synced transaction each: %.0f/s, ratio %.2f%s\n",
		name, f.what, counted(f.clients), benchkit.Median(p.Ours), benchkit.Median(p.Base), p.Ratio(), verdict)
	return nil
}

func counted(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}

// perSecond has so many clients make requests for roundFor, and returns how many in a second were answered.
func perSecond(clients int, request func(client int) error) (float64, error) {
	var done atomic.Int64
	errs := make([]error, clients)
	var all sync.WaitGroup
	begun := time.Now()
	for c := range clients {
		all.Go(func() {
			for errs[c] == nil && time.Since(begun) < roundFor {
				errs[c] = request(c)
				done.Add(1)
			}
		})
	}
	all.Wait()
	return float64(done.Load()) / time.Since(begun).Seconds(), errors.Join(errs...)
}
