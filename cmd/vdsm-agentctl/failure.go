package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/client"
)

// The exit codes; they are documented and do not change.
const (
	exitDone         = 0
	exitRefused      = 1 // the daemon said no
	exitMisuse       = 2
	exitNoConnection = 3
	exitTimeout      = 4
	exitNoSuccess    = 5 // the task ended, but not with success; or a check found errors or warnings
	exitInterrupted  = 130
)

// failure is an error that knows its exit code. An empty text means that everything was said already.
type failure struct {
	exit int
	text string
}

func (f *failure) Error() string { return f.text }

func fail(exit int, format string, args ...any) error {
	return &failure{exit, fmt.Sprintf(format, args...)}
}

func misuse(format string, args ...any) error { return fail(exitMisuse, format, args...) }

// report is what the user is told of an error: with --json as this object.
type report struct {
	Exit    int    `json:"exit"`
	Code    int    `json:"code,omitempty"` // the daemon's
	Message string `json:"message"`        // says what to do; "" = everything was said already
}

func (r report) String() string {
	if r.Code != 0 {
		return fmt.Sprintf("%s [%d]", r.Message, r.Code)
	}
	return r.Message
}

// print writes it in one line.
func (r report) print(w io.Writer, asJSON bool) {
	line := program + ": " + show.Clean(r.String())
	if b, err := json.Marshal(r); asJSON && err == nil {
		line = string(b)
	}
	fmt.Fprintln(w, line)
}

// explain makes of any error what to tell of it.
func explain(err error) report {
	var known *failure
	var refusal *client.Error
	var silent *unreachable
	switch {
	case err == nil:
		return report{Exit: exitDone}
	case errors.As(err, &known):
		return report{Exit: known.exit, Message: known.text}
	case errors.As(err, &refusal):
		return report{exitOf(refusal), refusal.Code, refusal.Message}
	case errors.Is(err, client.ErrConnectionLost):
		return reported(exitNoConnection, "the daemon went away before it answered; '%s tasks --all' shows what it has recorded", program)
	case errors.Is(err, context.Canceled):
		return reported(exitInterrupted, "interrupted; the daemon may still carry out what was asked")
	case errors.Is(err, context.DeadlineExceeded):
		return reported(exitTimeout, "no answer within %s; see 'journalctl -u vdsm-agentd'", show.Span(callLimit))
	case errors.As(err, &silent):
		return reported(exitNoConnection, "%s", silent)
	}
	return reported(exitRefused, "%s", err)
}

func reported(exit int, format string, args ...any) report {
	return report{Exit: exit, Message: fmt.Sprintf(format, args...)}
}

func exitOf(e *client.Error) int {
	switch code.Code(e.Code) {
	case code.ResourceTimeout, code.RecoveryInProgress:
		return exitTimeout
	case code.ShuttingDown:
		return exitNoConnection
	}
	return exitRefused
}

// isCode says whether err is the daemon's refusal with that code.
func isCode(err error, c code.Code) bool {
	var refusal *client.Error
	return errors.As(err, &refusal) && refusal.Code == int(c)
}

// unreachable: there is no connection.
type unreachable struct {
	to    target
	cause error
}

func (u *unreachable) Unwrap() error { return u.cause }

func (u *unreachable) Error() string {
	switch {
	case u.to.remote != "" && errors.Is(u.cause, client.ErrNoConnection):
		return fmt.Sprintf("no daemon answers on %s; is it running there, has it certificates, and is the port open? (%s)", u.to, u.cause)
	case errors.Is(u.cause, fs.ErrPermission):
		return fmt.Sprintf("you may not use %s; run this as root or as a member of its group", u.to)
	case errors.Is(u.cause, client.ErrNoConnection):
		return fmt.Sprintf("no daemon answers on %s; start it with 'systemctl start vdsm-agentd' or name its socket with --socket", u.to)
	}
	return u.cause.Error()
}
