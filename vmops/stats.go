package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"strconv"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/vmops/virt"
)

// Stats is what a machine does and uses, in the keys and types that engines read. Rates are those since the last look at the machine.
// Of one that is down there are its status and the exit… keys only.
type Stats struct {
	VM         string `json:"vmId"`
	Status     string `json:"status"`
	StatusTime string `json:"statusTime"` // ms, of a clock that only grows
	TimeOffset string `json:"timeOffset,omitempty"`

	Name    string                  `json:"vmName,omitempty"`
	Type    string                  `json:"vmType,omitempty"`
	Elapsed string                  `json:"elapsedTime,omitempty"` // seconds since the agent saw it first
	Memory  string                  `json:"memUsage,omitempty"`    // percent, as far as the guest tells
	CPUUser string                  `json:"cpuUser,omitempty"`     // percent of one processor
	CPUSys  string                  `json:"cpuSys,omitempty"`
	CPUTime string                  `json:"cpuUsage,omitempty"` // ns since it was started
	Pause   string                  `json:"pauseCode,omitempty"`
	Gone    *int                    `json:"migrationProgress,omitempty"` // percent, while it goes to another host
	Hash    string                  `json:"hash,omitempty"`              // another one when its devices are others
	Disks   map[string]DiskStats    `json:"disks,omitempty"`
	Network map[string]NetworkStats `json:"network,omitempty"`
	Jobs    map[string]BlockJob     `json:"vmJobs,omitzero"` // by id: tasks that work on its disks; of one that is alive at least {}

	ExitCode    *int   `json:"exitCode,omitempty"`
	ExitMessage string `json:"exitMessage,omitempty"`
	ExitReason  *int   `json:"exitReason,omitempty"`
}

// DiskStats are those of one disk, by its name in the guest. Times are in ns.
type DiskStats struct {
	ImageID      string `json:"imageID,omitempty"`
	Allocated    string `json:"truesize"`
	Capacity     string `json:"apparentsize"`
	ReadRate     string `json:"readRate"` // bytes per second
	WriteRate    string `json:"writeRate"`
	ReadBytes    string `json:"readBytes"`
	WrittenBytes string `json:"writtenBytes"`
	ReadOps      string `json:"readOps"`
	WriteOps     string `json:"writeOps"`
	ReadLatency  string `json:"readLatency"`
	WriteLatency string `json:"writeLatency"`
	FlushLatency string `json:"flushLatency"`
}

// NetworkStats are those of one interface.
type NetworkStats struct {
	Name      string `json:"name"`
	Rx        string `json:"rx"` // bytes
	Tx        string `json:"tx"`
	RxErrors  string `json:"rxErrors"`
	TxErrors  string `json:"txErrors"`
	RxDropped string `json:"rxDropped"`
	TxDropped string `json:"txDropped"`
}

// sample is a look at a machine's counters.
type sample struct {
	at    time.Time
	stats virt.Stats
}

func (vms *VMs) getStats(ctx context.Context, raw json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	var p vmParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	vm := string(p.VM)
	s, err := vms.hv.StatsOf(ctx, vm)
	if err != nil && code.Of(err) != code.NoSuchVM {
		return nil, err
	}
	if err == nil && s.State.Alive() {
		return []Stats{vms.stats(s, vms.jobsOf())}, nil
	}
	if down, ok := vms.downStats(vm); ok {
		return []Stats{down}, nil
	}
	return nil, code.Errorf(code.NoSuchVM, "there is no virtual machine %s on this host", vm)
}

func (vms *VMs) allStats(ctx context.Context, _ json.RawMessage) (any, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	all, err := vms.hv.AllStats(ctx)
	if err != nil {
		return nil, err
	}
	out, jobs := []Stats{}, vms.jobsOf()
	for _, s := range all {
		if s.State.Alive() {
			out = append(out, vms.stats(s, jobs))
		}
	}
	for _, vm := range vms.notAlive(all) {
		if down, ok := vms.downStats(vm); ok {
			out = append(out, down)
		}
	}
	return out, nil
}

var started = time.Now()

func statusTime() string { return strconv.FormatInt(time.Since(started).Milliseconds(), 10) }

// downStats are those of a machine that libvirt does not have: it is being started, or went down.
func (vms *VMs) downStats(vm string) (Stats, bool) {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.machines[vm]
	switch {
	case m != nil && m.exit != nil:
		e := *m.exit
		return Stats{VM: vm, Status: statusDown, StatusTime: statusTime(), TimeOffset: "0", ExitCode: &e.code, ExitMessage: e.message, ExitReason: &e.reason}, true
	case m != nil && m.doing != "":
		return Stats{VM: vm, Status: m.doing, StatusTime: statusTime()}, true
	case m != nil && m.comes != nil:
		return Stats{VM: vm, Status: statusIncoming, StatusTime: statusTime()}, true
	}
	return Stats{}, false
}

// stats are those of a machine that is alive.
func (vms *VMs) stats(s virt.Stats, jobs map[string]map[string]BlockJob) Stats {
	vms.mu.Lock()
	defer vms.mu.Unlock()
	m := vms.of(s.UUID)
	before, now := m.sample, sample{time.Now(), s}
	m.sample = now
	out := Stats{
		VM: s.UUID, Status: statusOf(s.State, m), StatusTime: statusTime(), TimeOffset: "0", Name: s.Name, Type: "kvm",
		Elapsed: strconv.FormatInt(int64(now.at.Sub(m.since).Seconds()), 10), Memory: "0", CPUTime: number(s.CPU.Total), Pause: "NOERR",
		Disks: map[string]DiskStats{}, Network: map[string]NetworkStats{}, Jobs: map[string]BlockJob{},
	}
	maps.Copy(out.Jobs, jobs[s.UUID])
	if m.doing == statusLeaving {
		gone := m.leaves.percent
		out.Gone = &gone
	}
	if s.State.Phase == virt.Paused && s.State.Reason == virt.ReasonIOError {
		out.Pause = "EOTHER"
	}
	if s.Memory.Available > 0 {
		out.Memory = strconv.FormatUint(100-100*min(s.Memory.Unused, s.Memory.Available)/s.Memory.Available, 10)
	}
	out.CPUUser, out.CPUSys = processors(before, now)
	hash := crc32.NewIEEE()
	for i, d := range s.Disks {
		fmt.Fprintln(hash, d.Target, d.Path)
		var then virt.DiskStats
		if i < len(before.stats.Disks) && before.stats.Disks[i].Target == d.Target {
			then = before.stats.Disks[i]
		}
		out.Disks[d.Target] = diskStats(d, then, now.at.Sub(before.at))
	}
	for _, n := range s.Networks {
		fmt.Fprintln(hash, n.Name)
		out.Network[n.Name] = NetworkStats{
			n.Name, number(n.RxBytes), number(n.TxBytes), number(n.RxErrors), number(n.TxErrors), number(n.RxDrops), number(n.TxDrops),
		}
	}
	out.Hash = strconv.FormatUint(uint64(hash.Sum32()), 10)
	return out
}

// processors are the percentages of one processor that the machine has used since the last look: in QEMU and its guest, and
// of that in QEMU and the kernel.
func processors(before, now sample) (user, system string) {
	span := now.at.Sub(before.at)
	a, b := before.stats.CPU, now.stats.CPU
	if before.at.IsZero() || span <= 0 || b.Total < a.Total || b.User+b.System < a.User+a.System {
		return "0.00", "0.00"
	}
	percent := func(ns uint64) float64 { return 100 * float64(ns) / float64(span.Nanoseconds()) }
	sys := percent(b.User + b.System - a.User - a.System)
	return fmt.Sprintf("%.2f", max(0, percent(b.Total-a.Total)-sys)), fmt.Sprintf("%.2f", sys)
}

func diskStats(d, before virt.DiskStats, span time.Duration) DiskStats {
	rate := func(now, then uint64) string {
		if before.Target == "" || span <= 0 || now < then {
			return "0.00"
		}
		return fmt.Sprintf("%.2f", float64(now-then)/span.Seconds())
	}
	each := func(ns, thenNs, ops, thenOps uint64) string {
		if before.Target == "" || ops <= thenOps || ns < thenNs {
			return "0"
		}
		return number((ns - thenNs) / (ops - thenOps))
	}
	out := DiskStats{
		Allocated: number(d.Physical), Capacity: number(d.Capacity), ReadRate: rate(d.ReadBytes, before.ReadBytes), WriteRate: rate(d.WriteBytes, before.WriteBytes),
		ReadBytes: number(d.ReadBytes), WrittenBytes: number(d.WriteBytes), ReadOps: number(d.ReadOps), WriteOps: number(d.WriteOps),
		ReadLatency:  each(d.ReadTime, before.ReadTime, d.ReadOps, before.ReadOps),
		WriteLatency: each(d.WriteTime, before.WriteTime, d.WriteOps, before.WriteOps),
		FlushLatency: each(d.FlushTime, before.FlushTime, d.FlushOps, before.FlushOps),
	}
	if found := imagePath.FindStringSubmatch(d.Path); found != nil {
		out.ImageID = found[1]
	}
	return out
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
