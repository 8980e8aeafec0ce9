package storageops

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// Storage pools are books that engines keep: which domains belong together, and which of them is the master. They are in the domains'
// own metadata, as VDSM has them, so that there is nothing to lose when the agent restarts. Nobody is elected: this agent is the pool
// manager (SPM) of every pool, until an engine tells it to stop being that.

// pools is what there is to know besides: which pools were connected, and of which an engine has said that this host manages it no more.
type pools struct {
	mu        sync.Mutex
	connected map[string]int  // this host's number in a pool
	retired   map[string]bool // spmStop was called, and spmStart not since
}

// The statuses of a domain in its pool, as they are in the master's metadata.
const (
	poolActive   = "Active"
	poolAttached = "Attached"
)

// Keys of a master domain's metadata; see domain.DomainMeta.Other.
const (
	keyMasterVersion = "MASTER_VERSION"
	keyPoolName      = "POOL_DESCRIPTION"
	keyPoolDomains   = "POOL_DOMAINS"
	keySPMID         = "POOL_SPM_ID"
	keySPMLVer       = "POOL_SPM_LVER"
)

// members are the domains of a pool with their statuses, as POOL_DOMAINS has them.
type members map[string]string

func parseMembers(text string) members {
	m := members{}
	for part := range strings.SplitSeq(text, ",") {
		if id, status, ok := strings.Cut(part, ":"); ok {
			m[id] = status
		}
	}
	return m
}

func (m members) String() string {
	var all []string
	for id, status := range m {
		all = append(all, id+":"+status)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// number reads a key of a master's metadata; -1 when it is not there, as VDSM says.
func number(m domain.DomainMeta, key string) int {
	n, err := strconv.Atoi(m.Other[key])
	if err != nil {
		return -1
	}
	return n
}

// masterOf finds the master domain of a pool: 309 when no domain of this host is one.
func (st *Storage) masterOf(pool string) (string, domain.DomainMeta, error) {
	for _, id := range st.registry.List() {
		d, err := st.registry.GetReadOnly(id)
		if err != nil {
			continue // the pool may be another's
		}
		if m, err := d.Meta(); err == nil && m.Role == domain.RoleMaster && slices.Contains(m.Pools, pool) {
			return id, m, nil
		}
	}
	return "", domain.DomainMeta{}, code.Errorf(code.StoragePoolUnknown, "no storage domain of this host is the master of pool %s; create the pool, or connect its storage", pool)
}

// changePool changes what the master's metadata says of a pool's domains.
func (st *Storage) changePool(pool string, change func(members) error) error {
	id, _, err := st.masterOf(pool)
	if err != nil {
		return err
	}
	d, err := st.registry.Get(id)
	if err != nil {
		return err
	}
	return d.UpdateMeta(func(m *domain.DomainMeta) error {
		all := parseMembers(m.Other[keyPoolDomains])
		if err := change(all); err != nil {
			return err
		}
		m.Other[keyPoolDomains] = all.String()
		return nil
	})
}

// poolParams name a pool.
type poolParams struct {
	Pool param.UUID `json:"storagepoolID"`
}

type createPoolParams struct {
	Pool          param.UUID   `json:"storagepoolID"`
	Name          string       `json:"name" default:""`
	Master        param.UUID   `json:"masterSdUUID" doc:"the domain that keeps the pool's books"`
	MasterVersion param.Int    `json:"masterVersion" default:"1"`
	Domains       []param.UUID `json:"domainList" doc:"all of the pool's domains, the master included"`
	Renewal       param.Int    `json:"lockRenewalIntervalSec" default:"5"`
	LeaseTime     param.Int    `json:"leaseTimeSec" default:"60"`
	IOTimeout     param.Int    `json:"ioOpTimeoutSec" default:"10"`
	LeaseRetries  param.Int    `json:"leaseRetries" default:"3"`
}

func (p createPoolParams) check() error {
	if p.Pool.IsBlank() || !slices.Contains(p.Domains, p.Master) {
		return code.Errorf(code.InvalidParameter, "storagepoolID must not be zeros, and masterSdUUID must be one of domainList")
	}
	return nil
}

// createPool writes the books, the master's last: only they make the pool. What a crash leaves before is taken up when it is repeated.
func (st *Storage) createPool(_ context.Context, raw json.RawMessage) (any, error) {
	p, err := decode[createPoolParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	if id, _, err := st.masterOf(string(p.Pool)); err == nil {
		return nil, code.Errorf(code.PoolAlreadyExists, "pool %s exists already; domain %s is its master", p.Pool, id)
	}
	books := members{}
	for _, id := range p.Domains {
		books[string(id)] = poolAttached
		if id == p.Master {
			books[string(id)] = poolActive
			continue
		}
		if err := st.join(string(id), string(p.Pool)); err != nil {
			return nil, err
		}
	}
	master, err := st.registry.Get(string(p.Master))
	if err != nil {
		return nil, err
	}
	if err := master.MakeMasterDirs(); err != nil {
		return nil, err
	}
	return nil, master.UpdateMeta(func(m *domain.DomainMeta) error {
		if err := mayJoin(*m, string(p.Pool)); err != nil {
			return err
		}
		m.Role, m.Pools = domain.RoleMaster, []string{string(p.Pool)}
		for key, value := range map[string]string{
			keyMasterVersion: strconv.Itoa(int(p.MasterVersion)), keyPoolName: p.Name, keyPoolDomains: books.String(), keySPMID: "-1", keySPMLVer: "-1",
			"LOCKRENEWALINTERVALSEC": strconv.Itoa(int(p.Renewal)), "LEASETIMESEC": strconv.Itoa(int(p.LeaseTime)),
			"IOOPTIMEOUTSEC": strconv.Itoa(int(p.IOTimeout)), "LEASERETRIES": strconv.Itoa(int(p.LeaseRetries)), "LOCKPOLICY": "ON",
		} {
			m.Other[key] = value
		}
		return nil
	})
}

// join writes into a domain's metadata that it is in a pool.
func (st *Storage) join(id, pool string) error {
	d, err := st.registry.Get(id)
	if err != nil {
		return err
	}
	return d.UpdateMeta(func(m *domain.DomainMeta) error {
		if err := mayJoin(*m, pool); err != nil {
			return err
		}
		m.Pools = []string{pool}
		return nil
	})
}

// mayJoin refuses a domain that another pool has.
func mayJoin(m domain.DomainMeta, pool string) error {
	if len(m.Pools) > 0 && !slices.Contains(m.Pools, pool) {
		return code.Errorf(code.DomainInOtherPool, "storage domain %s is in pool %s; detach it there first", m.UUID, m.Pools[0])
	}
	return nil
}

type connectPoolParams struct {
	Pool          param.UUID                   `json:"storagepoolID"`
	Host          param.Int                    `json:"hostID" default:"1" doc:"this host's number in the pool"`
	Key           string                       `json:"scsiKey" default:""`
	Master        param.UUID                   `json:"masterSdUUID"`
	MasterVersion param.Int                    `json:"masterVersion" default:"0"`
	Domains       map[param.UUID]poolMembering `json:"domainDict" default:"" doc:"the domains' statuses, as the engine knows them"`
}

// poolMembering is a status as engines send it: "active" or "attached".
type poolMembering string

func (s poolMembering) status() string {
	if strings.EqualFold(string(s), poolActive) {
		return poolActive
	}
	return poolAttached
}

// connectPool checks that the pool's master is here and the one that the engine means. From then on verbs with another pool's id
// are refused.
func (st *Storage) connectPool(_ context.Context, raw json.RawMessage) (any, error) {
	var p connectPoolParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	id, m, err := st.masterOf(string(p.Pool))
	if err != nil {
		return nil, code.Errorf(code.PoolMasterNotFound, "%w", err)
	}
	if id != string(p.Master) || int(p.MasterVersion) > number(m, keyMasterVersion) {
		return nil, code.Errorf(code.PoolWrongMaster, "the master of pool %s is domain %s in version %d, not %s in version %d", p.Pool, id, number(m, keyMasterVersion), p.Master, p.MasterVersion)
	}
	if len(p.Domains) > 0 {
		if err := st.changePool(string(p.Pool), func(all members) error {
			clear(all)
			for id, s := range p.Domains {
				all[string(id)] = s.status()
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	st.pools.mu.Lock()
	defer st.pools.mu.Unlock()
	if st.pools.connected == nil {
		st.pools.connected = map[string]int{}
	}
	st.pools.connected[string(p.Pool)] = int(p.Host)
	return nil, nil
}

func (st *Storage) disconnectPool(_ context.Context, raw json.RawMessage) (any, error) {
	var p poolParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	st.pools.mu.Lock()
	defer st.pools.mu.Unlock()
	delete(st.pools.connected, string(p.Pool))
	return nil, nil
}

// ofPool refuses the id of a pool that was not connected, once one was. Zeros are no pool.
func (st *Storage) ofPool(pool param.UUID) error {
	st.pools.mu.Lock()
	defer st.pools.mu.Unlock()
	if _, known := st.pools.connected[string(pool)]; known || pool.IsBlank() || len(st.pools.connected) == 0 {
		return nil
	}
	return code.Errorf(code.StoragePoolUnknown, "pool %s is not connected; StoragePool.connect connects it", pool)
}

// inPool adds that to what a verb refuses at once.
func (st *Storage) inPool(v *tasks.Verb) *tasks.Verb {
	admit := v.Admit
	v.Admit = func(ctx context.Context, raw json.RawMessage) error {
		var p struct {
			Pool param.UUID `json:"storagepoolID" default:""`
		}
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return err
		}
		if err := st.ofPool(p.Pool); err != nil || admit == nil {
			return err
		}
		return admit(ctx, raw)
	}
	return v
}

// poolInfo is VDSM's answer.
type poolInfo struct {
	Info struct {
		Name          string `json:"name"`
		Type          string `json:"type"`
		Version       string `json:"version"`
		Master        string `json:"master_uuid"`
		MasterVersion int    `json:"master_ver"`
		LVer          int    `json:"lver"`
		SPM           int    `json:"spm_id"`
		Status        string `json:"pool_status"`
		Domains       string `json:"domains"`
		ISOPrefix     string `json:"isoprefix"`
	} `json:"info"`
	Domains map[string]poolDomain `json:"dominfo"`
}

type poolDomain struct {
	Status    string      `json:"status"`
	Version   int         `json:"version"`
	DiskFree  string      `json:"diskfree"`
	DiskTotal string      `json:"disktotal"`
	Alerts    []poolAlert `json:"alerts"`
	ISOPrefix string      `json:"isoprefix"`
}

type poolAlert struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (st *Storage) poolInfo(_ context.Context, raw json.RawMessage) (any, error) {
	var p poolParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	id, m, err := st.masterOf(string(p.Pool))
	if err != nil {
		return nil, err
	}
	all := parseMembers(m.Other[keyPoolDomains])
	out := poolInfo{Domains: map[string]poolDomain{}}
	i := &out.Info
	i.Name, i.Type, i.Version, i.Master, i.MasterVersion = m.Other[keyPoolName], m.Type, strconv.Itoa(m.Version), id, number(m, keyMasterVersion)
	i.LVer, i.SPM, i.Status, i.Domains = number(m, keySPMLVer), st.hostIn(string(p.Pool)), "connected", all.String()
	for id, status := range all {
		d := poolDomain{Status: status, DiskFree: "0", DiskTotal: "0", Alerts: []poolAlert{}}
		if err := st.fill(&d, id); err != nil {
			d.Alerts = append(d.Alerts, poolAlert{int(code.Of(err)), err.Error()})
		}
		out.Domains[id] = d
	}
	return out, nil
}

func (st *Storage) fill(out *poolDomain, id string) error {
	d, err := st.registry.GetReadOnly(id)
	if err != nil {
		return err
	}
	m, err := d.Meta()
	if err != nil {
		return err
	}
	out.Version = m.Version
	s, err := d.Stats()
	if err != nil {
		return err
	}
	out.DiskFree, out.DiskTotal = strconv.FormatInt(s.DiskFree, 10), strconv.FormatInt(s.DiskTotal, 10)
	return nil
}

// hostIn is this host's number in a pool: as the engine said, or 1.
func (st *Storage) hostIn(pool string) int {
	st.pools.mu.Lock()
	defer st.pools.mu.Unlock()
	if host, ok := st.pools.connected[pool]; ok {
		return host
	}
	return 1
}

// spmStatus is VDSM's answer.
type spmStatus struct {
	ID     int    `json:"spmId"`
	Status string `json:"spmStatus"` // SPM, or Free after spmStop
	LVer   int    `json:"spmLver"`
}

func (st *Storage) getSPMStatus(_ context.Context, raw json.RawMessage) (any, error) {
	var p poolParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	_, m, err := st.masterOf(string(p.Pool))
	if err != nil {
		return nil, err
	}
	st.pools.mu.Lock()
	retired := st.pools.retired[string(p.Pool)]
	st.pools.mu.Unlock()
	if retired {
		return spmStatus{-1, "Free", number(m, keySPMLVer)}, nil
	}
	return spmStatus{st.hostIn(string(p.Pool)), "SPM", number(m, keySPMLVer)}, nil
}

func (st *Storage) spmStop(_ context.Context, raw json.RawMessage) (any, error) {
	var p poolParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if _, _, err := st.masterOf(string(p.Pool)); err != nil {
		return nil, err
	}
	st.retire(string(p.Pool), true)
	return nil, nil
}

// retire notes whether this host manages a pool no more.
func (st *Storage) retire(pool string, retired bool) {
	st.pools.mu.Lock()
	defer st.pools.mu.Unlock()
	if st.pools.retired == nil {
		st.pools.retired = map[string]bool{}
	}
	st.pools.retired[pool] = retired
}

type spmStartParams struct {
	Pool        param.UUID `json:"storagepoolID"`
	PrevID      param.Int  `json:"prevID" default:"-1"`
	PrevLVer    string     `json:"prevLver" default:"-1"`
	SCSIFencing param.Bool `json:"enableScsiFencing" default:"false"`
	MaxHost     param.Int  `json:"maxHostID" default:"250"`
	Version     string     `json:"domVersion" default:""`
}

func (p spmStartParams) check() error { return nil }

// startSPM is a task, since engines wait for it as for one. All that it changes is a note in memory: after a restart this host
// manages its pools anyway.
func (st *Storage) startSPM() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Make this host the manager of a pool (it is, unless it was told to stop).",
		Name: "StoragePool.spmStart", Word: "spmStart", Params: spmStartParams{}, Forward: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{CancellableUntil: "finished", Undo: "not started", Bound: 5 * time.Second},
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[spmStartParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			_, _, err = st.masterOf(string(p.Pool))
			return err
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[spmStartParams](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			pool := string(p.Pool)
			return &tasks.Plan{
				Tag: tasks.TagLocal, Locks: []tasks.Lock{tasks.TaskLock(id), poolLock(pool)},
				Steps: []tasks.Step{{
					Name: "start",
					Do:   func(context.Context, *tasks.Scope) error { st.retire(pool, false); return nil },
				}},
			}, nil
		},
	}
}

func poolLock(pool string) tasks.Lock { return tasks.Lock{Key: "pool/" + pool, Exclusive: true} }
