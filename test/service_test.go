package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// service is the daemon as systemd has it, without systemd: the test reads what the daemon tells.
type service struct {
	t    *testing.T
	conn *net.UnixConn
	cmd  *exec.Cmd
	log  lockedBuffer
}

func startService(t *testing.T, args ...string) *service {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, conn: conn}
	s.cmd = exec.Command(filepath.Join(binaries, "vdsm-agentd"), args...)
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=100000")
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended, unless the test failed
		_ = s.conn.Close()
	})
	return s
}

// until reads what the daemon tells up to a line that begins so, and returns all of it.
func (s *service) until(beginning string) string {
	s.t.Helper()
	var all strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			s.t.Fatal(err)
		}
		all.Write(append(buf[:n], '\n'))
		for line := range strings.Lines(string(buf[:n])) {
			if strings.HasPrefix(line, beginning) {
				return all.String()
			}
		}
	}
}

// TestService: what systemd is told of a daemon's life.
func TestService(t *testing.T) {
	s := startService(t, "--state-dir", filepath.Join(t.TempDir(), "state"))
	start := s.until("READY=1")
	for _, want := range []string{"EXTEND_TIMEOUT_USEC=60000000", "STATUS=opening the store\n", "STATUS=recovering the tasks\n", "STATUS=ready: 0 tasks run, 0 wait\n"} {
		if !strings.Contains(start, want) {
			t.Errorf("the start does not say %q:\n%s", want, start)
		}
	}
	for range 3 {
		s.until("WATCHDOG=1")
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until("STOPPING=1")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the daemon ended badly: %v\n%s", err, s.log.String())
	}
}
