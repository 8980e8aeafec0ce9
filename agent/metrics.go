package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"vdsm-agent/agent/config"
	"vdsm-agent/internal/access"
	"vdsm-agent/metrics"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"

	"golang.org/x/sys/unix"
)

// serveMetrics opens the socket of the metrics, if there is to be one, and returns what ends it. A port that somebody else has keeps the agent from
// its start no more than one for clients of other hosts does.
func serveMetrics(ctx context.Context, c config.Config, s *settings, m *metrics.Metrics) (end func(), err error) {
	if c.Metrics.Address == "" {
		return func() {}, nil
	}
	var l net.Listener
	if filepath.IsAbs(c.Metrics.Address) {
		if err := os.MkdirAll(filepath.Dir(c.Metrics.Address), 0o755); err != nil {
			return nil, fmt.Errorf("the directory of the metrics' socket cannot be made: %w", err)
		}
		l, err = rpc.Socket{Path: c.Metrics.Address, Mode: c.Metrics.Mode, Group: c.Metrics.Group}.Listen()
	} else {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Metrics.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("metrics cannot be read on %s: %w; see section [metrics] of the configuration", c.Metrics.Address, err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Serve(serving, l); err != nil {
			s.log.Error().Err(err).Msg("restart the agent to read its metrics again")
		}
	}()
	return func() {
		stop()
		<-ended
	}, nil
}

// sources are what is looked at for a scrape.
func sources(s *settings, engine *tasks.Engine, storage *storageops.Storage) metrics.Sources {
	return metrics.Sources{
		Census: engine.Census, Queue: engine.Queue,
		Domains: func(ctx context.Context) map[string]metrics.Domain {
			limit := int64(s.current().TrashLimit)
			health := storage.Health(ctx)
			out := map[string]metrics.Domain{}
			for id, r := range storage.Rooms(ctx) {
				out[id] = metrics.Domain{
					Healthy: r.Err == nil && health[id].Err == nil, Size: r.DiskTotal, Free: r.DiskFree, Trash: r.Reclaimable,
					TrashLimit: r.DiskTotal / 100 * limit, Entries: r.Entries, Overdue: r.Overdue,
				}
			}
			return out
		},
		Room: func() (size, free uint64, err error) {
			var st unix.Statfs_t
			err = unix.Statfs(s.current().StateDir, &st)
			return st.Blocks * uint64(st.Frsize), st.Bavail * uint64(st.Frsize), err
		},
	}
}

// metricsCalls are the verbs about them.
func metricsCalls(m *metrics.Metrics) []tasks.Call {
	return []tasks.Call{{
		Name: "Host.getMetrics", Role: access.Observe, Ours: true, Result: wire.Metrics{},
		Doc: "Answer all metrics, in Prometheus' text format.",
		Answer: func(context.Context, json.RawMessage) (any, error) {
			text, err := m.Text()
			return wire.Metrics{Text: text}, err
		},
	}}
}
