package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/wire"

	"github.com/rs/zerolog"
)

// asProgram in the environment makes the test binary be the program itself.
const asProgram = "TEST_AS_VDSM_AGENTCTL"

// shell runs a command line in which "$CTL" is the program.
func shell(t *testing.T, line, socket, stdin string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "sh", "-c", line)
	c.Env = append(os.Environ(), asProgram+"=1", "CTL="+self, "VDSM_AGENT_SOCKET="+socket)
	c.Stdin = strings.NewReader(stdin)
	return c
}

// The program as a process: what only main can get wrong.
func TestProcess(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, c := range []struct{ name, line, stdin, want string }{
		{"no daemon", `$CTL tasks; echo $?`, "", program + ": no daemon answers on " + none +
			"; start it with 'systemctl start vdsm-agentd' or name its socket with --socket\n3\n"},
		{"a reader that goes away", `$CTL --help | head -n 1`, "", "Usage: vdsm-agentctl <command> [flags]\n"},
		{"standard output is closed", `$CTL version >&-; echo $?`, "", "0\n"},
		{"a full disk", `$CTL version >/dev/full; echo $?`, "", program + ": the output could not be written: write /dev/stdout: no space left on device\n1\n"},
		{"standard input", `$CTL Volume create -f -; echo $?`, "{oops}", program +
			": standard input is not JSON: line 1, column 2: invalid character 'o' looking for beginning of object key string\n2\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := shell(t, c.line, none, c.stdin).CombinedOutput()
			if err != nil || string(out) != c.want {
				t.Errorf("%v, output %q, want %q", err, out, c.want)
			}
		})
	}
}

// Ctrl-C ends a wait with its own exit code and a sentence.
func TestSignal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	server := rpc.New(rpc.Options{Log: zerolog.Nop()})
	server.Handle([]rpc.Method{{Name: "Task.wait", Role: access.Observe, Doc: "Test.", Handle: func(ctx context.Context, _ *rpc.Request) (any, error) {
		close(asked)
		<-ctx.Done() // the client has gone
		return wire.TaskStatus{}, nil
	}}})
	server.SetReady()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, l, rpc.Local{Policy: access.NewPolicy()}) }()
	c := shell(t, `exec "$CTL" wait `+uuid("1a2b"), path, "")
	var stderr strings.Builder
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Errorf("%v, want exit code %d", err, exitInterrupted)
	}
	if want := program + ": the waiting has ended, not the task; "; !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("%q, want %q", stderr.String(), want)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
