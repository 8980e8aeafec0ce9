package storageops

import (
	"context"
	"encoding/json"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
)

// domainLimits are how many bytes per second each task may move in a domain. They last until the agent ends.
type domainLimits struct {
	mu sync.Mutex
	of map[string]int64
}

func (l *domainLimits) set(domain string, bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]int64{}
	}
	l.of[domain] = bytesPerSecond
}

// least is the lowest of a task's own limit and those of the domains; 0 = none.
func (l *domainLimits) least(limit int64, domains []string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range domains {
		if of := l.of[d]; of > 0 && (limit == 0 || of < limit) {
			limit = of
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

func (st *Storage) limited(w work, domains ...string) limited { return limited{w, &st.limits, domains} }

func (l limited) Limit() int64 { return l.limits.least(l.work.Limit(), l.domains) }

// limitDomainParams are those of Domain.setLimits, which is ours.
type limitDomainParams struct {
	Domain         param.UUID `json:"storagedomainID"`
	BytesPerSecond param.Int  `json:"bytesPerSecond" doc:"how much each task that reads or writes there may move, from its next slice on, until the agent ends; 0 = any amount"`
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
