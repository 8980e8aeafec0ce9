package metrics

import (
	"strconv"
	"sync"
	"time"

	"vdsm-agent/internal/code"

	"github.com/prometheus/client_golang/prometheus"
)

// callBuckets are seconds; most verbs are answered from memory.
var callBuckets = []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 30}

// Server observes the RPC server: it is rpc's Observer.
type Server struct {
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	open       *prometheus.GaugeVec
	opened     *prometheus.CounterVec
	turnedAway *prometheus.CounterVec
}

// Server is the observer of the RPC server.
func (m *Metrics) Server() *Server {
	s := &Server{
		requests:   counter("rpc_requests_total", "Requests that were answered, by method and VDSM's code; 0 = no error.", "method", "code"),
		seconds:    histogram("rpc_seconds", "How long requests took, from their arrival to the answer; some wait because they were asked to.", callBuckets, "method"),
		open:       gauge("connections", "Clients that are connected.", "socket"),
		opened:     counter("connections_total", "Clients that have connected.", "socket"),
		turnedAway: counter("connections_refused_total", "Clients that were turned away because there were too many.", "socket"),
	}
	m.registry.MustRegister(s.requests, s.seconds, s.open, s.opened, s.turnedAway)
	return s
}

// Method is what counts the answers of a method. Those without an error, which are nearly all, cost no look-up; a method that was never called has no
// figures.
func (s *Server) Method(name string) func(code.Code, time.Duration) {
	type figures struct {
		good    prometheus.Counter
		seconds prometheus.Observer
	}
	of := sync.OnceValue(func() figures { return figures{s.requests.WithLabelValues(name, "0"), s.seconds.WithLabelValues(name)} })
	return func(c code.Code, took time.Duration) {
		f := of()
		f.seconds.Observe(took.Seconds())
		if c == 0 {
			f.good.Inc()
			return
		}
		s.requests.WithLabelValues(name, strconv.Itoa(int(c))).Inc()
	}
}

// Connected counts a client.
func (s *Server) Connected(socket string) (gone func()) {
	s.opened.WithLabelValues(socket).Inc()
	open := s.open.WithLabelValues(socket)
	open.Inc()
	return open.Dec
}

// TurnedAway counts one that was not let in.
func (s *Server) TurnedAway(socket string) { s.turnedAway.WithLabelValues(socket).Inc() }
