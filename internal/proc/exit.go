package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExitError is how a worker's leader ended, if not with status 0.
type ExitError struct {
	Argv0  string         // as in Spec.Argv
	Code   int            // the exit status; -1 if it was ended by a signal
	Signal syscall.Signal // 0 if it was not ended by a signal
	Stderr string         // the last 4 KiB of its standard error, if Spec.Stderr was nil
}

// maxReason bounds what Error repeats of the program's own words, in bytes.
const maxReason = 400

// Error is one sentence: how it ended, and the last line that it wrote to its standard error.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s ended with exit status %d", filepath.Base(e.Argv0), e.Code)
	if e.Signal != 0 {
		name := unix.SignalName(e.Signal)
		if name == "" {
			name = fmt.Sprintf("signal %d", int(e.Signal))
		}
		s = fmt.Sprintf("%s was ended by %s (%s)", filepath.Base(e.Argv0), name, e.Signal)
	}
	text := strings.TrimSpace(e.Stderr)
	line := strings.TrimSpace(text[strings.LastIndexAny(text, "\r\n")+1:])
	if line == "" {
		return s
	}
	if len(line) > maxReason {
		line = strings.ToValidUTF8(line[:maxReason], "") + "…"
	}
	return s + ": " + line
}

// exitError returns nil if the leader ended with status 0.
func exitError(argv0 string, st *os.ProcessState, stderr string) error {
	if st.Success() {
		return nil
	}
	e := &ExitError{Argv0: argv0, Code: st.ExitCode(), Stderr: stderr}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	return e
}
