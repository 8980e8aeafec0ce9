package qemuimg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Program is what is run; looked up in PATH.
const Program = "qemu-img"

// maxOutput bounds what is kept of one run's standard output. A map is streamed and has no bound.
const maxOutput = 16 << 20

// Starter starts a worker for the running step. The task engine stops it (SIGTERM, then SIGKILL) when the task is stopped
// and waits until it is gone. Spec.Task is filled in by the Starter. It must be usable from several goroutines.
type Starter interface {
	Start(ctx context.Context, s proc.Spec) (*proc.Worker, error)
}

// run runs qemu-img with args and hands its standard output to stdout.
//
//   - ctx ended before: its cause; nothing is started.
//   - ctx ended while it ran: its cause, after the worker is gone.
//   - it failed: an error that wraps *proc.ExitError.
func run(ctx context.Context, st Starter, limits proc.Limits, stdout io.Writer, args ...string) error {
	return start(ctx, st, proc.Spec{Stdout: stdout, Limits: limits}, args...)
}

// start is run with what else the worker gets.
func start(ctx context.Context, st Starter, spec proc.Spec, args ...string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	spec.Argv, spec.IdleIO = append([]string{Program}, args...), true
	w, err := st.Start(ctx, spec)
	if err != nil {
		return code.Or(code.General, err, "qemu-img cannot be started")
	}
	err = w.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// output is run that keeps the standard output.
func output(ctx context.Context, st Starter, limits proc.Limits, args ...string) ([]byte, error) {
	var out bounded
	err := run(ctx, st, limits, &out, args...)
	return out.Bytes(), err
}

// bounded is a buffer that refuses more than maxOutput bytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("qemu-img printed more than %d bytes", maxOutput)
	}
	return b.Buffer.Write(p)
}

// Failure makes the error that a client sees of a failed run: what was to be done, and qemu-img's own reason. A full file
// system gets code 397 whatever c says; an error that carries a code already, or that ended a context, is kept.
func Failure(c code.Code, err error, what string) error {
	var coded *code.Error
	var exit *proc.ExitError
	if err == nil || errors.As(err, &coded) || errors.Is(err, context.Canceled) {
		return err
	}
	if !errors.As(err, &exit) {
		return code.Errorf(c, "%s: %w", what, err)
	}
	if strings.Contains(strings.ToLower(exit.Stderr), unix.ENOSPC.Error()) {
		return code.Errorf(code.NoSpaceLeftOnDomain, "%s: the file system is full; free some space and try again: %w", what, err)
	}
	return code.Errorf(c, "%s: %w", what, err)
}
