package systemd_test

import (
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vdsm-agent/systemd"

	"github.com/rs/zerolog"
)

// listen is systemd's end of the socket that the daemon tells it by.
func listen(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// told is the next message, its lines sorted.
func told(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.Sorted(strings.SplitSeq(string(buf[:n]), "\n")), " | ")
}

var monotonic = regexp.MustCompile(`MONOTONIC_USEC=\d+`)

// TestWhatIsTold: each message has its word, and a status only when it is a new one.
func TestWhatIsTold(t *testing.T) {
	conn := listen(t)
	s := systemd.New(zerolog.Nop())
	for _, c := range []struct {
		tell func(string)
		text string
		want string
	}{
		{s.Starting, "opening the store", "EXTEND_TIMEOUT_USEC=60000000 | STATUS=opening the store"},
		{s.Starting, "opening the store", "EXTEND_TIMEOUT_USEC=60000000"},
		{s.Starting, "two\nlines", "EXTEND_TIMEOUT_USEC=60000000 | STATUS=two lines"},
		{s.Ready, "ready", "READY=1 | STATUS=ready"},
		{s.Reloading, "reading", "MONOTONIC_USEC=N | RELOADING=1 | STATUS=reading"},
		{s.Ready, "ready", "READY=1 | STATUS=ready"},
		{s.Alive, "ready", "WATCHDOG=1"},
		{s.Alive, "1 task", "STATUS=1 task | WATCHDOG=1"},
		{s.Stopping, "shutting down", "STATUS=shutting down | STOPPING=1"},
	} {
		c.tell(c.text)
		if got := monotonic.ReplaceAllString(told(t, conn), "MONOTONIC_USEC=N"); got != c.want {
			t.Errorf("systemd was told %q, want %q", got, c.want)
		}
	}
}

// TestNobodyListens: without systemd nothing is sent or logged; a systemd that does not listen is complained of once, and told the
// status when it does.
func TestNobodyListens(t *testing.T) {
	var log strings.Builder
	s := systemd.New(zerolog.New(&log))
	t.Setenv("NOTIFY_SOCKET", "")
	s.Ready("ready")
	if log.Len() > 0 {
		t.Errorf("without systemd it logs %s", &log)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	s.Alive("busy")
	s.Alive("busy")
	if n := strings.Count(log.String(), "cannot be told"); n != 1 {
		t.Errorf("it complains %d times, want once: %s", n, &log)
	}
	conn := listen(t)
	s.Alive("busy")
	if got := told(t, conn); got != "STATUS=busy | WATCHDOG=1" {
		t.Errorf("systemd was told %q", got)
	}
}

// TestWatchdog: half of what systemd allows; nothing without it; what makes no sense is an error.
func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		usec string
		want time.Duration
		bad  bool
	}{{"", 0, false}, {"30000000", 15 * time.Second, false}, {"soon", 0, true}} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		got, err := systemd.New(zerolog.Nop()).Watchdog()
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("WATCHDOG_USEC=%q: %s, %v", c.usec, got, err)
		}
	}
}
