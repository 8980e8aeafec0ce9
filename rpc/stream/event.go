package stream

import "golang.org/x/sys/unix"

// NotifyTime is the notify_time of an event that happens now: a number that grows by one in a millisecond, over restarts of the
// agent too, and is no date. It is more than 2^31 - 1, since the engine's client reads smaller numbers as another type.
func NotifyTime() int64 {
	const least = 1<<31 - 1
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return least + 1 // no kernel lacks that clock
	}
	return least + now.Nano()/1e6
}
