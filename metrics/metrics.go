// Package metrics counts what the agent does, as Prometheus reads it: it observes the task engine, the store and the RPC server, which know
// nothing of it, and asks at each scrape for what can be looked at. It changes nothing. Only agent imports it.
//
// Figures that are counted where clients wait have their label handles made before: a request costs a few additions.
package metrics

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"vdsm-agent/internal/version"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// namespace begins every name.
const namespace = "vdsm_agent"

// Metrics are all figures of an agent. Its methods may be called from any goroutine.
type Metrics struct{ registry *prometheus.Registry }

// New makes them: the process's own are there, others come with the parts that they are of.
func New() *Metrics {
	m := &Metrics{prometheus.NewRegistry()}
	v := version.Get()
	info := gauge("info", "The running version; always 1.", "version", "revision")
	info.WithLabelValues(v.Version, v.Revision).Set(1)
	m.registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler answers a scrape, in the text format or in another that the client prefers.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: scrapeWithin})
}

// Text is all figures in Prometheus' text format, sorted by name.
func (m *Metrics) Text() (string, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// scrapeWithin is how long a scrape may take; storage that hangs is waited for less.
const scrapeWithin = 10 * time.Second

// Serve answers scrapes at /metrics on l until ctx ends. It closes l. Errors: nobody can connect any more.
func (m *Metrics) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{Handler: mux, ReadTimeout: scrapeWithin, WriteTimeout: 2 * scrapeWithin, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	closed := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = server.Close() // whoever still reads gets no more
	})()
	if err := server.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("the metrics cannot be read any more: %w", err)
	}
	<-closed // the socket's path is gone, too
	return nil
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
}
