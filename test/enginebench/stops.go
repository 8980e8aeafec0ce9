package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"vdsm-agent/test/benchkit"
)

// stopBound is the most that the stop of a waiting task may take, in synced transactions.
const stopBound = 2

// allStops measures both sides, alone and while a copy runs on the same disk.
func (b *bench) allStops() error {
	return b.fresh(b.openEngine, func(local side, base *baseline) error {
		return b.fresh(b.openSocket, func(remote side, _ *baseline) error {
			both := func(beside string) error {
				return errors.Join(b.stopsOf("engine", beside, local, base, true), b.stopsOf("socket", beside, remote, base, false))
			}
			if err := both("nothing beside"); err != nil {
				return err
			}
			return b.besideCopies(remote.(*socket).Daemon, func() error { return both("a copy beside") })
		})
	})
}

// stopsOf prints how long a side takes to answer the stop of a task that waits, against the baseline.
func (b *bench) stopsOf(name, beside string, s side, base *baseline, promised bool) error {
	p, err := benchkit.ByTurns(b.stops,
		func() (float64, error) { return took(func() error { return base.request(0) }) },
		func() (float64, error) {
			id, err := s.submit(0, held)
			if err != nil {
				return 0, err
			}
			t, err := took(func() error { return s.stop(0, id) })
			if err != nil {
				return 0, err
			}
			return t, s.wait(0, id) // the next one finds it quiet
		})
	if err != nil {
		return err
	}
	ours, one := benchkit.Median(p.Ours), benchkit.Median(p.Base)
	verdict := ""
	if promised {
		verdict = ", " + benchkit.AtMost(ours/one, stopBound)
	}
	fmt.Printf("%s: stop of a task that waits, %s: median %.2f ms, one synced transaction: %.2f ms, ratio %.2f%s\n",
		name, beside, ours, one, ours/one, verdict)
	return nil
}

// took is how long f takes, in milliseconds.
func took(f func() error) (float64, error) {
	begun := time.Now()
	err := f()
	return benchkit.Millis(time.Since(begun)), err
}

// besideCopies calls f while the daemon copies a volume on the same disk, again and again.
func (b *bench) besideCopies(d *benchkit.Daemon, f func() error) error {
	disk, err := d.Import(b.ctx, filepath.Join(b.dir, "disk.raw"), b.data)
	if err != nil {
		return err
	}
	var enough atomic.Bool
	first, copied := make(chan error, 1), make(chan error, 1)
	go func() {
		var failed error
		for failed == nil && !enough.Load() {
			var task string
			if task, failed = d.Copy(b.ctx, disk, "COW"); failed != nil {
				break
			}
			select {
			case first <- nil:
			default:
			}
			failed = d.Call(b.ctx, "Task.wait", map[string]string{"taskID": task}, nil)
			if failed == nil {
				failed = errors.Join(d.Call(b.ctx, "Task.revert", map[string]any{"taskID": task, "wait": 60}, nil), d.Clear(b.ctx, task))
			}
		}
		copied <- failed
		first <- failed
	}()
	if err := <-first; err != nil {
		return err
	}
	err = f()
	enough.Store(true)
	return errors.Join(err, <-copied)
}
