// Package systemd is what the daemon tells systemd about itself and journald about its work, and the unit files by which systemd runs it (units).
// Without systemd it does nothing. Sockets that systemd passes are the agent's (agent/doors.go). Only agent and cmd/vdsm-agentd import it.
package systemd

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// ExtendBy is how much time a start gets whenever it says that it makes progress.
const ExtendBy = 60 * time.Second

// Service is the daemon as systemd sees it, by way of the socket that NOTIFY_SOCKET names; without one all methods do nothing. They may be
// called from any goroutine.
type Service struct {
	log zerolog.Logger

	mu     sync.Mutex // guards what follows, and the order of what is sent
	status string     // what systemctl status shows
	failed bool       // and it was logged
}

// New makes a Service.
func New(log zerolog.Logger) *Service { return &Service{log: log} }

// Watchdog is the longest time that may pass between two calls of Alive, with room to spare: half of what systemd allows. 0 = nobody
// watches. Errors: what systemd has said of it makes no sense.
func (s *Service) Watchdog() (time.Duration, error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("what systemd says of its watchdog cannot be understood: %w", err)
	}
	return limit / 2, nil
}

// Starting says what the start is doing, and asks for ExtendBy more time for it: a start is ended only when it makes no progress.
func (s *Service) Starting(status string) {
	s.send(status, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", ExtendBy.Microseconds()))
}

// Ready says that the daemon does its work.
func (s *Service) Ready(status string) { s.send(status, daemon.SdNotifyReady) }

// Reloading says that the configuration is read again; Ready follows.
func (s *Service) Reloading(status string) {
	s.send(status, daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
}

// Alive feeds the watchdog.
func (s *Service) Alive(status string) { s.send(status, daemon.SdNotifyWatchdog) }

// Stopping says that the daemon ends by its own will.
func (s *Service) Stopping(status string) { s.send(status, daemon.SdNotifyStopping) }

// send tells what is new. That nobody can be told is logged once: there is nothing else to do about it.
func (s *Service) send(status string, lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status != s.status {
		lines = append(lines, "STATUS="+strings.ReplaceAll(status, "\n", " "))
	}
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		if !s.failed {
			s.log.Error().Err(err).Msg("systemd cannot be told how the daemon does")
		}
		s.failed = true
		return
	}
	s.status, s.failed = status, false
}
