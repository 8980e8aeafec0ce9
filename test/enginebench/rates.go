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

// rates prints how many submits and lives a side takes in a second, against the baseline. promised says that the bounds are
// for this side.
func (b *bench) rates(name string, s side, promised bool) error {
	if _, err := s.submit(0, holder); err != nil {
		return err
	}
	submit := func(client int) error {
		_, err := s.submit(client, held)
		return err
	}
	live := func(client int) error {
		id, err := s.submit(client, life)
		if err != nil {
			return err
		}
		return s.wait(client, id)
	}
	for _, f := range []struct {
		what    string
		clients int
		n       int
		ours    func(int) error
		bound   float64
	}{
		{"submits, queue held", clients, perRound, submit, 2.0},
		{"submits, queue held", 1, perRoundOne, submit, 0.7},
		{"lives of no-op tasks", clients, perRound, live, 0.6},
	} {
		p, err := benchkit.ByTurns(b.rounds,
			func() (float64, error) { return perSecond(f.clients, f.n, b.base.request) },
			func() (float64, error) { return perSecond(f.clients, f.n, f.ours) })
		if err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		verdict := ""
		if promised {
			verdict = ", " + benchkit.AtLeast(p.Ratio(), f.bound)
		}
		fmt.Printf("%s: %s, %s: %.0f/s, one synced transaction each: %.0f/s, ratio %.2f%s\n",
			name, f.what, counted(f.clients), benchkit.Median(p.Ours), benchkit.Median(p.Base), p.Ratio(), verdict)
	}
	return nil
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
