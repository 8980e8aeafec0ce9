package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vdsm-agent/test/benchkit"
)

// How many requests are made in one round.
const (
	perRound    = 2000 // by all clients
	perRoundOne = 200  // by one
)

// figure is a rate and its bound.
type figure struct {
	what       string
	clients, n int
	request    func(s side, client int) error
	bound      float64
}

var figures = []figure{
	{"submits, queue held", clients, perRound, submitHeld, 2.0},
	{"submits, queue held", 1, perRoundOne, submitHeld, 0.7},
	{"lives of no-op tasks", clients, perRound, liveOnce, 0.6},
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

// rate prints a figure of a side against the baseline, both with fresh files. promised says that the bound is for this side.
func (b *bench) rate(name string, open func(dir string) (side, error), f figure, promised bool) error {
	return b.fresh(open, func(s side, base *baseline) error {
		p, err := benchkit.ByTurns(b.rounds,
			func() (float64, error) { return perSecond(f.clients, f.n, base.request) },
			func() (float64, error) {
				return perSecond(f.clients, f.n, func(client int) error { return f.request(s, client) })
			})
		if err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		verdict := ""
		if promised {
			verdict = ", " + benchkit.AtLeast(p.Ratio(), f.bound)
		}
		fmt.Printf("%s: %s, %s: %.0f/s, one synced transaction each: %.0f/s, ratio %.2f%s\n",
			name, f.what, counted(f.clients), benchkit.Median(p.Ours), benchkit.Median(p.Base), p.Ratio(), verdict)
		return nil
	})
}

func counted(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}

// perSecond has so many clients make n requests in all, and returns how many that is in a second.
func perSecond(clients, n int, request func(client int) error) (float64, error) {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, clients)
	var all sync.WaitGroup
	begun := time.Now()
	for c := range clients {
		all.Go(func() {
			for errs[c] == nil && left.Add(-1) >= 0 {
				errs[c] = request(c)
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(begun).Seconds(), errors.Join(errs...)
}
