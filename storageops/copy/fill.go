package copy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
)

// FillState is a checkpoint of Zero, Allocate or Sparsify.
type FillState struct {
	Next int64 `json:"next"` // all before it is on stable storage
	Done int64 `json:"done"` // bytes of work before Next
}

// Zero overwrites all that is allocated in the file at path with zeros, for real: nothing is punched out, so the old data is
// gone from the medium as far as the medium itself overwrites. last is the state that was given to Checkpoint last, nil =
// from the start. When it returns nil all is on stable storage. It can be repeated at any time; ctx as in Run.
func Zero(ctx context.Context, env Env, path string, last *FillState) error {
	return fill(ctx, env, "wiping "+path, last, nil, func(s FillState) []string {
		return []string{modeZero, path, fmt.Sprint(s.Next), fmt.Sprint(s.Done)}
	})
}

// Allocate allocates the blocks of [from, to) of the file at path, rounded outwards to 4096, in pieces of at most 1 GiB, and
// makes the file at least to bytes long. Where the file system cannot allocate, zeros are written: the range must hold
// no data. For a raw volume from is 4096, for a qcow2 one CheckResult.EndOffset. last, ctx and the end as in Zero.
func Allocate(ctx context.Context, env Env, path string, from, to int64, last *FillState) error {
	return fill(ctx, env, "allocating "+path, last, nil, func(s FillState) []string {
		return []string{modeAllocate, path, fmt.Sprint(max(from, s.Next)), fmt.Sprint(s.Done), fmt.Sprint(to)}
	})
}

// fill runs a worker that has one long command, and inherits files.
func fill(ctx context.Context, env Env, what string, last *FillState, files []*os.File, args func(FillState) []string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var s FillState
	if last != nil {
		s = *last
	}
	stdin, ask, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ask.Close()
	defer stdin.Close()
	limit, lines := teller{to: ask}, make(chan string, 16)
	limit.tell(env.Limit())
	w, err := env.Start(ctx, proc.Spec{Argv: workerArgv(args(s)...), Stdin: stdin, Stdout: &lineWriter{to: lines}, Files: files, IdleIO: true})
	if err != nil {
		return err
	}
	var ended error
	go func() {
		ended = w.Wait()
		close(lines)
	}()
	total, failed := int64(0), error(nil)
	for line := range lines {
		var a, b int64
		limit.tell(env.Limit())
		switch {
		case failed != nil: // only drained
		case scan(line, lineTotal, &a):
			total = a
			env.Progress(s.Done, total)
		case scan(line, lineProgress, &a):
			env.Progress(a, total)
		case scan(line, lineReached, &a, &b):
			s = FillState{Next: a, Done: b}
			failed = env.Checkpoint(s)
		default:
			failed = badAnswer(line)
		}
		if failed != nil {
			w.Kill()
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed != nil:
		return failed
	}
	return qemuimg.Failure(code.Storage, ended, what+" failed")
}

// zero is the worker of Zero.
func zero(path string, from, done int64, pace *pacer, out *answers) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	direct, err := takesDirect(path, os.O_RDWR)
	if err != nil {
		return err
	}
	write, err := reopen(path, os.O_RDWR, direct)
	if err != nil {
		return err
	}
	defer write.Close()
	total, err := dataIn(f, from, st.Size())
	if err != nil {
		return err
	}
	m, err := newMover(syncOf(f), out, pace, done, done+total, sliceLimit(done+total, minSlice))
	if err != nil {
		return err
	}
	err = eachData(f, from, st.Size(), func(start, end int64) error {
		for at := start; at < end; at += chunk {
			n := min(chunk, end-at)
			err := m.do(at+n, n, func(buf []byte) error {
				clear(buf)
				return writeZeros(f, write, buf, at, n)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	m.cut(st.Size())
	return errors.Join(err, m.end())
}

// writeZeros writes n zeros of buf at at. A tail that is no whole block goes through the page cache, so that the file's length
// stays.
func writeZeros(f, write *os.File, buf []byte, at, n int64) error {
	whole := n &^ (blockSize - 1)
	if _, err := write.WriteAt(buf[:whole], at); err != nil || whole == n {
		return err
	}
	_, err := f.WriteAt(buf[whole:n], at+whole)
	return err
}

// allocate is the worker of Allocate.
func allocate(path string, from, done, to int64, pace *pacer, out *answers) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	from, to = from&^(blockSize-1), (to+blockSize-1)&^(blockSize-1)
	piece := int64(zeroPiece)
	if from < to {
		// The first block tells whether zeros have to be written for the others: these are limited, and in pieces for that.
		err := ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, from, blockSize) })
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			piece = chunk
		default:
			pace = nil
		}
	}
	m, err := newMover(syncOf(f), out, pace, done, done+max(0, to-from), zeroPiece)
	if err != nil {
		return err
	}
	for at := from; at < to && err == nil; at += piece {
		n := min(piece, to-at)
		err = m.do(at+n, n, func(buf []byte) error { return zeroRange(f, f, 0, at, n, buf, func(int64) {}) })
	}
	m.cut(to)
	return errors.Join(err, m.end())
}
