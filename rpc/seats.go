package rpc

import (
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// seats counts the clients of a listener.
type seats struct {
	most, each int // 0 = any number
	log        zerolog.Logger

	mu        sync.Mutex // guards what follows
	all       int
	byAddress map[string]int
	refused   int       // since the last line in the log
	told      time.Time // when that was
}

// tellEvery keeps a client that connects again and again from filling the log.
const tellEvery = 10 * time.Second

// take answers false if one more client is too many.
func (s *seats) take(from net.Addr) bool {
	host := hostOf(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && s.all >= s.most || s.each > 0 && s.byAddress[host] >= s.each {
		s.refused++
		if now := time.Now(); now.Sub(s.told) >= tellEvery {
			s.log.Warn().Str("from", host).Int("connected", s.all).Int("from_there", s.byAddress[host]).Int("refused", s.refused).
				Msg("there are too many connections; the agent refuses more until some are closed")
			s.told, s.refused = now, 0
		}
		return false
	}
	s.all++
	s.byAddress[host]++
	return true
}

func (s *seats) free(from net.Addr) {
	host := hostOf(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byAddress[host]--; s.byAddress[host] == 0 {
		delete(s.byAddress, host)
	}
}

// hostOf is the address without the port; all clients of a unix socket have the same.
func hostOf(a net.Addr) string {
	if host, _, err := net.SplitHostPort(a.String()); err == nil {
		return host
	}
	return a.Network()
}
