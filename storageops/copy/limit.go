package copy

import (
	"context"
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
