package storageops

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// What an engine does with a domain as a whole, and its place in a pool. Each is one write, or two that can be repeated: an
// attached domain says so itself first and the master's books after it; one that is detached the other way round.

type memberParams struct {
	Domain param.UUID `json:"storagedomainID"`
	Pool   param.UUID `json:"storagepoolID"`
}

type leaveParams struct {
	memberParams
	Master        param.UUID `json:"masterSdUUID" default:"" doc:"the domain that shall be the master from now on; zeros = none"`
	MasterVersion param.Int  `json:"masterVersion" default:"0"`
	Force         param.Bool `json:"force" default:"false" doc:"also when the pool does not know of the domain"`
}

// member reads the parameters, and refuses a pool that is not connected.
func (st *Storage) member(raw json.RawMessage) (p memberParams, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, err
	}
	return p, st.ofPool(p.Pool)
}

// setStatus changes a domain's status in the books of its pool.
func (st *Storage) setStatus(p memberParams, status string) error {
	return st.changePool(string(p.Pool), func(all members) error {
		if _, in := all[string(p.Domain)]; !in {
			return code.Errorf(code.DomainNotInPool, "storage domain %s is not in pool %s; attach it first", p.Domain, p.Pool)
		}
		all[string(p.Domain)] = status
		return nil
	})
}

func (st *Storage) attachDomain(_ context.Context, raw json.RawMessage) (any, error) {
	p, err := st.member(raw)
	if err != nil {
		return nil, err
	}
	if err := st.join(string(p.Domain), string(p.Pool)); err != nil {
		return nil, err
	}
	return nil, st.changePool(string(p.Pool), func(all members) error {
		if _, in := all[string(p.Domain)]; !in {
			all[string(p.Domain)] = poolAttached
		}
		return nil
	})
}

func (st *Storage) activateDomain(_ context.Context, raw json.RawMessage) (any, error) {
	p, err := st.member(raw)
	if err != nil {
		return nil, err
	}
	return nil, st.setStatus(p, poolActive)
}

// deactivateDomain also hands the mastership over, if another master is named.
func (st *Storage) deactivateDomain(_ context.Context, raw json.RawMessage) (any, error) {
	var p leaveParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if err := st.ofPool(p.Pool); err != nil {
		return nil, err
	}
	if err := st.setStatus(p.memberParams, poolAttached); err != nil {
		return nil, err
	}
	id, _, err := st.masterOf(string(p.Pool))
	if err != nil || id != string(p.Domain) || p.Master.IsBlank() || p.Master == p.Domain {
		return nil, err
	}
	return nil, st.handOver(string(p.Pool), id, string(p.Master), int(p.MasterVersion))
}

// handOver makes another domain the master. For a moment there may be two, of which the one with the higher version counts.
func (st *Storage) handOver(pool, from, to string, version int) error {
	old, err := st.registry.Get(from)
	if err != nil {
		return err
	}
	books, err := old.Meta()
	if err != nil {
		return err
	}
	next, err := st.registry.Get(to)
	if err != nil {
		return err
	}
	if err := next.MakeMasterDirs(); err != nil {
		return err
	}
	keys := []string{keyPoolName, keyPoolDomains, keySPMID, keySPMLVer}
	if err := next.UpdateMeta(func(m *domain.DomainMeta) error {
		if !slices.Contains(m.Pools, pool) {
			return code.Errorf(code.DomainNotInPool, "storage domain %s is not in pool %s, so it cannot be its master", to, pool)
		}
		for _, key := range keys {
			m.Other[key] = books.Other[key]
		}
		m.Other[keyMasterVersion] = strconv.Itoa(max(version, number(books, keyMasterVersion)+1))
		m.Role = domain.RoleMaster
		return nil
	}); err != nil {
		return err
	}
	return old.UpdateMeta(func(m *domain.DomainMeta) error {
		for _, key := range append(keys, keyMasterVersion) {
			delete(m.Other, key)
		}
		m.Role = domain.RoleRegular
		return nil
	})
}

func (st *Storage) detachDomain(_ context.Context, raw json.RawMessage) (any, error) {
	var p leaveParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	id, _, err := st.masterOf(string(p.Pool))
	switch {
	case err != nil && !bool(p.Force):
		return nil, err
	case err == nil && id == string(p.Domain):
		return nil, code.Errorf(code.CannotDetachMaster, "storage domain %s is the master of pool %s; deactivate it with another master first, or format it with autoDetach", p.Domain, p.Pool)
	case err == nil:
		if err := st.changePool(string(p.Pool), func(all members) error {
			if all[string(p.Domain)] == poolActive && !bool(p.Force) {
				return code.Errorf(code.DomainNotInPool, "storage domain %s is active in pool %s; deactivate it first", p.Domain, p.Pool)
			}
			delete(all, string(p.Domain))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	d, err := st.registry.Get(string(p.Domain))
	if err != nil {
		return nil, err
	}
	return nil, d.UpdateMeta(func(m *domain.DomainMeta) error {
		m.Pools = slices.DeleteFunc(m.Pools, func(pool string) bool { return pool == string(p.Pool) })
		return nil
	})
}

type formatParams struct {
	Domain     param.UUID `json:"storagedomainID"`
	AutoDetach param.Bool `json:"autoDetach" default:"false" doc:"also a domain that is in a pool"`
}

// formatDomain destroys a domain and all images in it.
func (st *Storage) formatDomain(_ context.Context, raw json.RawMessage) (any, error) {
	var p formatParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.Get(string(p.Domain))
	if err != nil {
		return nil, err
	}
	m, err := d.Meta()
	if err != nil {
		return nil, err
	}
	if len(m.Pools) > 0 && !bool(p.AutoDetach) {
		return nil, code.Errorf(code.CannotFormatInPool, "storage domain %s is in pool %s; detach it first, or give autoDetach", p.Domain, m.Pools[0])
	}
	return nil, st.registry.Remove(string(p.Domain))
}

// validateDomain says whether a domain can be read and written.
func (st *Storage) validateDomain(_ context.Context, raw json.RawMessage) (any, error) {
	d, err := st.reading(raw)
	if err != nil {
		return nil, err
	}
	if _, err := d.Meta(); err != nil {
		return nil, err
	}
	return nil, d.Writable()
}

type describeDomainParams struct {
	Domain      param.UUID `json:"storagedomainID"`
	Description string     `json:"description"`
}

func (st *Storage) describeDomain(_ context.Context, raw json.RawMessage) (any, error) {
	var p describeDomainParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.Get(string(p.Domain))
	if err != nil {
		return nil, err
	}
	return nil, d.UpdateMeta(func(m *domain.DomainMeta) error { m.Name = p.Description; return nil })
}

// wholeDomain are the locks of what concerns a domain as a whole, and its pool if one is named.
func wholeDomain(raw json.RawMessage) ([]tasks.Lock, error) {
	var p struct {
		Domain param.UUID `json:"storagedomainID"`
		Pool   param.UUID `json:"storagepoolID" default:""`
	}
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	locks := []tasks.Lock{domainExclusive(string(p.Domain))}
	if !p.Pool.IsBlank() {
		locks = append(locks, poolLock(string(p.Pool)))
	}
	return locks, nil
}

// books are the locks of what changes only what is written about a domain, while tasks go on in it.
func books(raw json.RawMessage) ([]tasks.Lock, error) {
	var p struct {
		Pool   param.UUID `json:"storagepoolID" default:""`
		Domain param.UUID `json:"storagedomainID" default:""`
	}
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if p.Pool.IsBlank() {
		return []tasks.Lock{domainShared(string(p.Domain))}, nil
	}
	return []tasks.Lock{poolLock(string(p.Pool))}, nil
}
