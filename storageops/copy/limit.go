package copy

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How a limit is kept.
const (
	// limitedTime is about how long a slice takes when there is a limit, so that another one takes effect soon.
	limitedTime = 10 * time.Second
	// minLimited is the least in a slice, in bytes, however low the limit is: with less than 400 KiB per second slices take longer.
	minLimited = 4 << 20
	// lookAgain is how often a pause between two slices looks whether the limit has changed.
	lookAgain = time.Second
)

// bound is the most bytes in a slice that takes span; 0 = no bound.
func bound(limit int64, span time.Duration) int64 {
	if limit <= 0 {
		return 0
	}
	return max(minLimited, int64(float64(min(limit, 1<<40))*span.Seconds()))
}

// pacer makes a worker of ours keep a limit that may change at any time. It may be used by several goroutines; a nil pacer has no
// limit.
type pacer struct {
	limit atomic.Int64  // bytes per second, 0 = none
	span  time.Duration // about how long a slice takes when there is a limit
	mu    sync.Mutex
	due   time.Time // when all that was taken may have been moved
}

// paceStep is the longest that a pacer waits at a time: so soon another limit takes effect.
const paceStep = 250 * time.Millisecond

// take waits until n more bytes may be moved. still is called after each part of the waiting.
func (p *pacer) take(n int64, still func()) {
	for p != nil && n > 0 {
		limit := p.limit.Load()
		if limit <= 0 {
			return
		}
		part := min(n, max(1, int64(float64(limit)*paceStep.Seconds())))
		time.Sleep(p.next(time.Duration(float64(part) / float64(limit) * float64(time.Second))))
		n -= part
		still()
	}
}

// next adds what takes so long, and returns how long to wait for it. What was not used in time is lost, but for one step: a sleep that
// ends late does not make the copy slower.
func (p *pacer) next(takes time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if late := now.Add(-paceStep); p.due.Before(late) {
		p.due = late
	}
	p.due = p.due.Add(takes)
	return p.due.Sub(now)
}

// bound is the most bytes in a slice; usual is that without a limit.
func (p *pacer) bound(usual int64) int64 {
	if p == nil || p.limit.Load() <= 0 {
		return usual
	}
	return min(usual, bound(p.limit.Load(), p.span))
}

// teller tells a worker of ours its limit.
type teller struct {
	to   *os.File // its standard input
	told int64    // a worker begins without a limit
}

// tell says nothing if the worker knows it already. That it is gone is found out elsewhere.
func (t *teller) tell(limit int64) {
	if limit != t.told {
		t.told = limit
		_, _ = fmt.Fprintln(t.to, cmdLimit, limit)
	}
}

// spent is what a slice with a limit has moved.
type spent struct {
	began time.Time
	bytes int64
	limit int64 // 0 = it had none
}

// rest returns when a slice with a limit may be followed by another one. qemu-img lets the first requests of a run go at once,
// and their share of a small slice is large: so the time that a slice has to take is kept here as well.
func (r *run) rest(ctx, broken context.Context, last spent) error {
	for {
		limit := r.env.Limit()
		if limit == 0 || last.limit == 0 {
			return nil
		}
		left := float64(last.bytes)/float64(max(limit, last.limit)) - time.Since(last.began).Seconds()
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(time.Duration(min(left, lookAgain.Seconds()) * float64(time.Second)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-broken.Done():
			timer.Stop()
			return context.Cause(broken)
		}
	}
}
