package copy

import (
	"fmt"
)

// copyRaw lets the keeper copy a raw source to a raw destination. It checkpoints by itself: the keeper says when all before
// an offset is on stable storage.
func (r *run) copyRaw() error {
	if size := r.keeper.hello.Sources[0].Size; size > r.spec.Capacity {
		return r.tooSmall(size)
	}
	c := rawCopy{From: r.state.Next, Done: r.state.Done, Capacity: r.spec.Capacity, Blank: r.state.Blank,
		Preallocated: r.spec.Dest.Preallocated, MinSlice: r.spec.minSlice(), LimitedTime: r.spec.limitedTime(), Method: methodClone}
	r.keeper.tell(r.env.Limit())
	err := r.keeper.command(r.follow, cmdCopy, c.String())
	return r.lost(err)
}

// follow takes one line of a long command's answer. There is one for each slice at least, and while a limit makes the worker
// wait one each second.
func (r *run) follow(line string) error {
	r.keeper.tell(r.env.Limit())
	var a, b int64
	switch {
	case scan(line, lineTotal, &a):
		r.state.Total = a
		r.env.Progress(r.state.Done, a)
	case scan(line, lineProgress, &a):
		r.env.Progress(a, r.state.Total)
	case scan(line, lineReached, &a, &b):
		r.state.Next, r.state.Done = a, b
		return r.env.Checkpoint(r.state)
	default:
		return badAnswer(line)
	}
	return nil
}

func scan(line, word string, values ...any) bool {
	format := word
	for range values {
		format += " %d"
	}
	n, err := fmt.Sscanf(line, format, values...)
	return err == nil && n == len(values)
}
