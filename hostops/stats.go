package hostops

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"vdsm-agent/internal/code"

	"github.com/prometheus/procfs"
)

// Stats is the answer of Host.getStats. The use of processors is that since the last look, or, at the first, since the host's start.
type Stats struct {
	DateTime       string                 `json:"dateTime"`
	BootTime       string                 `json:"bootTime"`    // seconds since 1970
	ElapsedTime    string                 `json:"elapsedTime"` // seconds since the host's start
	CPUUser        string                 `json:"cpuUser"`     // percent
	CPUSys         string                 `json:"cpuSys"`
	CPUIdle        string                 `json:"cpuIdle"`
	CPULoad        string                 `json:"cpuLoad"`      // of the last minute
	MemUsed        string                 `json:"memUsed"`      // percent
	MemAvailable   uint64                 `json:"memAvailable"` // MiB
	MemFree        uint64                 `json:"memFree"`      // MiB
	SwapTotal      uint64                 `json:"swapTotal"`    // MiB
	SwapFree       uint64                 `json:"swapFree"`     // MiB
	Network        map[string]Interface   `json:"network"`
	StorageDomains map[string]DomainStats `json:"storageDomains"`
	VMCount        int                    `json:"vmCount"`
	VMActive       int                    `json:"vmActive"`
	V2VJobs        map[string]any         `json:"v2vJobs"`
}

// Interface is a network interface; its counters are those of the kernel.
type Interface struct {
	Name      string `json:"name"`
	Rx        string `json:"rx"` // bytes
	Tx        string `json:"tx"`
	RxErrors  string `json:"rxErrors"`
	TxErrors  string `json:"txErrors"`
	RxDropped string `json:"rxDropped"`
	TxDropped string `json:"txDropped"`
}

// DomainStats is how a storage domain answers.
type DomainStats struct {
	Code      int    `json:"code"` // 0 = well
	Delay     string `json:"delay"`
	LastCheck string `json:"lastCheck"` // seconds ago
	Valid     bool   `json:"valid"`
	Version   int    `json:"version"`
	Acquired  bool   `json:"acquired"` // claimed for this agent
	Actual    bool   `json:"actual"`
}

// sample is what the processors have done.
type sample struct {
	mu   sync.Mutex
	last procfs.CPUStat
}

func (h *Host) stats(ctx context.Context) (*Stats, error) {
	fs, err := h.proc()
	if err != nil {
		return nil, err
	}
	stat, err1 := fs.Stat()
	memory, err2 := fs.Meminfo()
	load, err3 := fs.LoadAvg()
	network, err4 := fs.NetDev()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, code.Errorf(code.General, "how busy the host is cannot be read: %w", err)
	}
	now := time.Now()
	s := &Stats{
		DateTime: now.UTC().Format("2006-01-02T15:04:05 GMT"), BootTime: strconv.FormatUint(stat.BootTime, 10),
		ElapsedTime: strconv.FormatInt(now.Unix()-int64(stat.BootTime), 10), CPULoad: percent(load.Load1), V2VJobs: map[string]any{},
		MemAvailable: mib(memory.MemAvailableBytes), MemFree: mib(memory.MemFreeBytes), SwapTotal: mib(memory.SwapTotalBytes),
		SwapFree: mib(memory.SwapFreeBytes), Network: map[string]Interface{}, StorageDomains: map[string]DomainStats{},
	}
	if total := mib(memory.MemTotalBytes); total > 0 {
		s.MemUsed = strconv.FormatUint(100-100*s.MemAvailable/total, 10)
	}
	s.CPUUser, s.CPUSys, s.CPUIdle = h.last.since(stat.CPUTotal)
	for name, n := range network {
		text := func(v uint64) string { return strconv.FormatUint(v, 10) }
		s.Network[name] = Interface{name, text(n.RxBytes), text(n.TxBytes), text(n.RxErrors), text(n.TxErrors), text(n.RxDropped), text(n.TxDropped)}
	}
	for id, d := range h.options.Domains(ctx) {
		s.StorageDomains[id] = DomainStats{
			Code: d.Code, Delay: fmt.Sprintf("%.6f", d.Delay.Seconds()), LastCheck: "0.0", Valid: d.Code == 0, Version: d.Version,
			Acquired: d.Claimed, Actual: true,
		}
	}
	return s, nil
}

// since is the use of the processors between the last look and this one, in percent.
func (s *sample) since(now procfs.CPUStat) (user, system, idle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	s.last = now
	total := func(c procfs.CPUStat) float64 {
		return c.User + c.Nice + c.System + c.Idle + c.Iowait + c.IRQ + c.SoftIRQ + c.Steal
	}
	all := total(now) - total(last)
	if all <= 0 {
		return percent(0), percent(0), percent(100)
	}
	u, i := now.User+now.Nice-last.User-last.Nice, now.Idle+now.Iowait-last.Idle-last.Iowait
	return percent(100 * u / all), percent(100 * (all - u - i) / all), percent(100 * i / all)
}

func percent(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

func mib(bytes *uint64) uint64 {
	if bytes == nil {
		return 0
	}
	return *bytes >> 20
}
