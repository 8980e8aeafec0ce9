package virt

import (
	"context"
	"strconv"

	"github.com/digitalocean/go-libvirt"
)

// Stats are a machine with its counters, as libvirt has them. Absent counters are 0.
type Stats struct {
	UUID, Name string
	State      State
	CPU        struct{ Total, User, System uint64 } // ns
	Memory     struct{ Maximum, Current, Available, Unused uint64 }
	Disks      []DiskStats
	Networks   []NetworkStats
}

// DiskStats are those of one disk.
type DiskStats struct {
	Target, Path                   string
	Allocation, Capacity, Physical uint64 // bytes
	ReadBytes, ReadOps, ReadTime   uint64 // the time in ns
	WriteBytes, WriteOps           uint64
	WriteTime                      uint64
	FlushOps, FlushTime            uint64
}

// NetworkStats are those of one interface.
type NetworkStats struct {
	Name                       string
	RxBytes, RxErrors, RxDrops uint64
	TxBytes, TxErrors, TxDrops uint64
}

// List are all machines that libvirt knows, running or not, with their states only.
func (c *Client) List(ctx context.Context) ([]Stats, error) {
	return c.stats(ctx, "list the machines", libvirt.DomainStatsState, nil)
}

// AllStats are all machines with their counters. One that libvirt is busy with has only some of them.
func (c *Client) AllStats(ctx context.Context) ([]Stats, error) {
	return c.stats(ctx, "count", counters, nil)
}

// StatsOf are those of one. It is not there: 1.
func (c *Client) StatsOf(ctx context.Context, vm string) (Stats, error) {
	d, err := ask(ctx, c, vm, "find", askWithin, func(_ *connection, d libvirt.Domain) (libvirt.Domain, error) { return d, nil })
	if err != nil {
		return Stats{}, err
	}
	all, err := c.stats(ctx, "count", counters, []libvirt.Domain{d})
	if err != nil || len(all) == 0 {
		return Stats{UUID: vm, Name: d.Name}, err
	}
	return all[0], nil
}

const counters = libvirt.DomainStatsState | libvirt.DomainStatsCPUTotal | libvirt.DomainStatsBalloon | libvirt.DomainStatsInterface | libvirt.DomainStatsBlock

func (c *Client) stats(ctx context.Context, what string, which libvirt.DomainStatsTypes, of []libvirt.Domain) ([]Stats, error) {
	return call(ctx, c, what, askWithin, func(l *connection) ([]Stats, error) {
		var flags libvirt.ConnectGetAllDomainStatsFlags
		if which != libvirt.DomainStatsState {
			flags = libvirt.ConnectGetAllDomainsStatsNowait
		}
		records, err := l.ConnectGetAllDomainStats(of, uint32(which), uint32(flags))
		out := make([]Stats, 0, len(records))
		for _, r := range records {
			out = append(out, readStats(r))
		}
		return out, err
	})
}

func readStats(r libvirt.DomainStatsRecord) Stats {
	p := parameters{}
	for _, one := range r.Params {
		p[one.Field] = one.Value.I
	}
	s := Stats{UUID: text(r.Dom.UUID), Name: r.Dom.Name, State: stateOf(int32(p.number("state.state")), int32(p.number("state.reason")))}
	s.CPU.Total, s.CPU.User, s.CPU.System = p.number("cpu.time"), p.number("cpu.user"), p.number("cpu.system")
	s.Memory.Maximum, s.Memory.Current = p.number("balloon.maximum")<<10, p.number("balloon.current")<<10
	s.Memory.Available, s.Memory.Unused = p.number("balloon.available")<<10, p.number("balloon.unused")<<10
	for i := range p.number("block.count") {
		k := "block." + strconv.FormatUint(i, 10)
		s.Disks = append(s.Disks, DiskStats{
			Target: p.text(k + ".name"), Path: p.text(k + ".path"),
			Allocation: p.number(k + ".allocation"), Capacity: p.number(k + ".capacity"), Physical: p.number(k + ".physical"),
			ReadBytes: p.number(k + ".rd.bytes"), ReadOps: p.number(k + ".rd.reqs"), ReadTime: p.number(k + ".rd.times"),
			WriteBytes: p.number(k + ".wr.bytes"), WriteOps: p.number(k + ".wr.reqs"), WriteTime: p.number(k + ".wr.times"),
			FlushOps: p.number(k + ".fl.reqs"), FlushTime: p.number(k + ".fl.times"),
		})
	}
	for i := range p.number("net.count") {
		k := "net." + strconv.FormatUint(i, 10)
		s.Networks = append(s.Networks, NetworkStats{
			Name: p.text(k + ".name"), RxBytes: p.number(k + ".rx.bytes"), RxErrors: p.number(k + ".rx.errs"), RxDrops: p.number(k + ".rx.drop"),
			TxBytes: p.number(k + ".tx.bytes"), TxErrors: p.number(k + ".tx.errs"), TxDrops: p.number(k + ".tx.drop"),
		})
	}
	return s
}

// parameters are libvirt's, by name.
type parameters map[string]any

func (p parameters) number(name string) uint64 {
	switch v := p[name].(type) {
	case int32:
		return uint64(v)
	case uint32:
		return uint64(v)
	case int64:
		return uint64(v)
	case uint64:
		return v
	}
	return 0
}

func (p parameters) text(name string) string {
	s, _ := p[name].(string) // absent is ""
	return s
}
