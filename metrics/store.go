package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// syncBuckets are seconds; a disk takes milliseconds, a bad day of it seconds.
var syncBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30}

// Store observes the store of tasks: it is tasks/store's Observer.
type Store struct {
	sync    prometheus.Histogram
	changes prometheus.Counter
	failed  prometheus.Counter
	trusted prometheus.Gauge
}

// Store is the observer of the store.
func (m *Metrics) Store() *Store {
	s := &Store{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "store_sync_seconds", Buckets: syncBuckets,
			Help: "How long it took to put a group of changes on stable storage."}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "store_changes_total", Help: "Changes that were put on stable storage."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "store_failures_total",
			Help: "Groups of changes that were not recorded, or of which that is not known."}),
		trusted: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "store_healthy",
			Help: "1, or 0 while the store is written anew after an error of the storage below it and takes no changes."}),
	}
	s.Trusted(true)
	m.registry.MustRegister(s.sync, s.changes, s.failed, s.trusted)
	return s
}

// Synced counts a transaction.
func (s *Store) Synced(took time.Duration, changes int) {
	s.sync.Observe(took.Seconds())
	s.changes.Add(float64(changes))
}

// Failed counts one that failed.
func (s *Store) Failed() { s.failed.Inc() }

// Trusted says whether the store takes changes.
func (s *Store) Trusted(yes bool) {
	s.trusted.Set(truth(yes))
}
