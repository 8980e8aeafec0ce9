package storageops

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
)

// domainLimits are how many bytes per second the tasks of a domain may move together. Each that moves data there now has an equal share,
// which it looks up before each of its slices: while a domain is limited those are small. The limits last until the agent ends.
type domainLimits struct {
	mu     sync.Mutex
	of     map[string]int64
	movers map[string]int
}

func (l *domainLimits) set(domain string, bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]int64{}
	}
	l.of[domain] = bytesPerSecond
}

// enter counts one that moves data in the domains, or with by -1 one that does so no more.
func (l *domainLimits) enter(domains []string, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.movers == nil {
		l.movers = map[string]int{}
	}
	for _, d := range domains {
		if l.movers[d] += by; l.movers[d] == 0 {
			delete(l.movers, d)
		}
	}
}

// least is the lowest of a task's own limit and its shares of those of the domains; 0 = none.
func (l *domainLimits) least(limit int64, domains []string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range domains {
		of := l.of[d]
		if of == 0 {
			continue
		}
		share := max(of/int64(max(l.movers[d], 1)), 1)
		if limit == 0 || share < limit {
			limit = share
		}
	}
	return limit
}

// limited is work in domains: their limits count too.
type limited struct {
	work
	limits  *domainLimits
	domains []string
}

// moving is the work of one that moves data in the domains, until it calls done. A domain may be named twice, or "" = none.
func (st *Storage) moving(w work, domains ...string) (l limited, done func()) {
	domains = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(domains))), func(d string) bool { return d == "" })
	st.limits.enter(domains, 1)
	return limited{w, &st.limits, domains}, func() { st.limits.enter(domains, -1) }
}

func (l limited) Limit() int64 { return l.limits.least(l.work.Limit(), l.domains) }

// limitDomainParams are those of Domain.setLimits, which is ours.
type limitDomainParams struct {
	Domain         param.UUID `json:"storagedomainID"`
	BytesPerSecond param.Int  `json:"bytesPerSecond" doc:"how much all tasks that read or write there may move together, from their next slices on, until the agent ends; 0 = any amount"`
}

func (p limitDomainParams) check() error {
	if p.BytesPerSecond < 0 {
		return code.Errorf(code.InvalidParameter, "%d bytes per second is no limit; 0 is none", p.BytesPerSecond)
	}
	return nil
}

func (st *Storage) limitDomain(_ context.Context, raw json.RawMessage) (any, error) {
	p, err := decode[limitDomainParams](raw, param.Strict)
	if err != nil {
		return nil, err
	}
	if _, err := st.registry.GetReadOnly(string(p.Domain)); err != nil {
		return nil, err
	}
	st.limits.set(string(p.Domain), int64(p.BytesPerSecond))
	return nil, nil
}
