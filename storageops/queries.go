package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"syscall"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/sanlock"
	"vdsm-agent/tasks"
)

// Calls are the verbs that are answered at once.
func (st *Storage) Calls() []tasks.Call {
	return []tasks.Call{
		{
			Name: "Host.getStorageDomains", Role: access.Observe, Doc: "List the storage domains of this host.",
			Result: []string{}, Params: listDomainsParams{}, Answer: st.listDomains,
		},
		{
			Name: "StorageDomain.create", Role: access.Operate, Doc: "Make a storage domain in a directory.",
			Params: createDomainParams{}, Answer: st.createDomain,
		},
		{
			Name: "StorageDomain.getInfo", Role: access.Observe, Doc: "Answer what a storage domain is.",
			Result: domain.Info{}, Params: domainParams{}, Answer: st.domainInfo,
		},
		{
			Name: "StorageDomain.getStats", Role: access.Observe, Doc: "Answer how much room a storage domain has.",
			Result: domainStats{}, Params: domainParams{}, Answer: st.domainStats,
		},
		{
			Name: "StorageDomain.getImages", Role: access.Observe, Doc: "List the images of a storage domain.",
			Result: []string{}, Params: domainParams{}, Answer: st.domainImages,
		},
		{
			Name: "StorageDomain.getVolumes", Role: access.Observe, Doc: "List the volumes of a storage domain, or of one image.",
			Result: []string{}, Params: volumesParams{}, Answer: st.domainVolumes,
		},
		{
			Name: "Volume.getInfo", Role: access.Observe, Doc: "Answer what a volume is, as its metadata and its file say.",
			Result: volumeInfo{}, Params: volumeParams{}, Answer: st.volumeInfo,
		},
		{
			Name: "Volume.getSize", Role: access.Observe, Doc: "Answer how large a volume's file is.",
			Result: sizes{}, Params: volumeParams{}, Answer: st.volumeSize,
		},
		{
			Name: "StorageDomain.validate", Role: access.Observe, Doc: "Answer whether a storage domain can be read and written.",
			Params: domainParams{}, Answer: st.validateDomain,
		},
		{
			Name: "StorageDomain.setDescription", Role: access.Operate, Doc: "Give a storage domain another name.",
			Params: describeDomainParams{}, Locks: books, Answer: st.describeDomain,
		},
		{
			Name: "StorageDomain.format", Role: access.Operate, Doc: "Destroy a storage domain and all images in it.",
			Params: formatParams{}, Locks: wholeDomain, Answer: st.formatDomain,
		},
		{
			Name: "StorageDomain.attach", Role: access.Operate, Doc: "Put a storage domain into a pool.",
			Params: memberParams{}, Locks: books, Answer: st.attachDomain,
		},
		{
			Name: "StorageDomain.detach", Role: access.Operate, Doc: "Take a storage domain out of its pool.",
			Params: leaveParams{}, Locks: wholeDomain, Answer: st.detachDomain,
		},
		{
			Name: "StorageDomain.activate", Role: access.Operate, Doc: "Note that the hosts of a pool use a storage domain.",
			Params: memberParams{}, Locks: books, Answer: st.activateDomain,
		},
		{
			Name: "StorageDomain.deactivate", Role: access.Operate, Doc: "Note that the hosts of a pool use a storage domain no more.",
			Params: leaveParams{}, Locks: wholeDomain, Answer: st.deactivateDomain,
		},
		{
			Name: "StoragePool.create", Role: access.Operate, Doc: "Make a pool of storage domains.",
			Params: createPoolParams{}, Locks: books, Answer: st.createPool,
		},
		{
			Name: "StoragePool.connect", Role: access.Operate, Doc: "Connect this host to a pool.",
			Params: connectPoolParams{}, Locks: books, Answer: st.connectPool,
		},
		{
			Name: "StoragePool.disconnect", Role: access.Operate, Doc: "Disconnect this host from a pool.",
			Params: poolParams{}, Answer: st.disconnectPool,
		},
		{
			Name: "StoragePool.getInfo", Role: access.Observe, Doc: "Answer what a pool is, and how its domains are.",
			Result: poolInfo{}, Params: poolParams{}, Answer: st.poolInfo,
		},
		{
			Name: "StoragePool.getSpmStatus", Role: access.Observe, Doc: "Answer whether this host manages a pool.",
			Result: spmStatus{}, Params: poolParams{}, Answer: st.getSPMStatus,
		},
		{
			Name: "StoragePool.spmStop", Role: access.Operate, Doc: "Let this host manage a pool no more, until spmStart or a restart.",
			Params: poolParams{}, Answer: st.spmStop,
		},
		{
			Name: "StoragePool.connectStorageServer", Role: access.Operate, Doc: "Mount storage, or look for storage domains in a directory of this host.",
			Result: []connected{}, Params: connectionParams{}, Answer: st.connectServer,
		},
		{
			Name: "StoragePool.disconnectStorageServer", Role: access.Operate, Doc: "Unmount storage that no connection wants any more; directories of this host are not forgotten.",
			Result: []connected{}, Params: connectionParams{}, Locks: st.mountedDomains, Answer: st.disconnectServer,
		},
		{
			Name: "Image.getVolumes", Role: access.Observe, Doc: "List the volumes of an image.",
			Result: []string{}, Params: imageParams{}, Answer: st.imageVolumes,
		},
		{
			Name: "Image.prepare", Role: access.Operate, Doc: "Answer where a guest finds an image, if its whole chain can be used.",
			Result: prepared{}, Params: prepareParams{}, Answer: st.prepareImage,
		},
		{
			Name: "Image.teardown", Role: access.Operate, Doc: "Do nothing: volumes that are files need no teardown.",
			Params: imageParams{}, Answer: st.teardownImage,
		},
		{
			Name: "Image.reconcileVolumeChain", Role: access.Operate, Doc: "Answer the chain of an image as its files say it, base first.",
			Result: []string{}, Params: reconcileParams{}, Answer: st.reconcileChain,
		},
		{
			Name: "Volume.measure", Role: access.Observe, Doc: "Answer how much room a copy of a volume would need.",
			Result: measured{}, Params: measureParams{}, Answer: st.measureVolume,
		},
		{
			Name: "Volume.getQemuImageInfo", Role: access.Observe, Doc: "Answer what qemu-img says of a volume's file.",
			Result: imageInfo{}, Params: volumeParams{}, Answer: st.qemuInfo,
		},
		{
			Name: "Volume.setDescription", Role: access.Operate, Doc: "Give a volume another description.",
			Params: describeVolumeParams{}, Locks: imageLock, Answer: st.describeVolume,
		},
		{
			Name: "Volume.setLegality", Role: access.Operate, Doc: "Mark a volume LEGAL or ILLEGAL.",
			Params: legalityParams{}, Locks: imageLock, Answer: st.setLegality,
		},
		{
			Name: "Volume.verify_untrusted", Role: access.Operate, Doc: "Prove that a volume's file is what its metadata says.",
			Params: volumeParams{}, Answer: st.verifyUntrusted,
		},
		{
			Name: "Volume.refresh", Role: access.Operate, Doc: "Answer whether a volume is there; files need no refresh.",
			Params: volumeParams{}, Answer: st.refreshVolume,
		},
		{
			Name: "Domain.setLimits", Role: access.Operate, Doc: "Limit how many bytes per second the tasks of a domain move together.",
			Params: limitDomainParams{}, Ours: true, Answer: st.limitDomain,
		},
		{
			Name: "Trash.list", Role: access.Observe, Doc: "List what is in the trash, by the task that put it there.",
			Result: []TrashItem{}, Params: trashListParams{}, Ours: true, Answer: st.listTrash,
		},
	}
}

type domainParams struct {
	Domain param.UUID `json:"storagedomainID"`
}

// listDomainsParams are VDSM's filters; a blank one selects all.
type listDomainsParams struct {
	Pool  param.UUID        `json:"storagepoolID" default:""`
	Class param.DomainClass `json:"domainClass" default:""`
	Type  param.DomainType  `json:"storageType" default:""`
	Path  string            `json:"remotePath" default:""`
}

func (st *Storage) listDomains(_ context.Context, raw json.RawMessage) (any, error) {
	var p listDomainsParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	out := []string{}
	all := p == listDomainsParams{}
	for _, id := range st.registry.List() {
		info, err := st.infoOf(id)
		var hangs *domain.NoAnswerError
		if errors.As(err, &hangs) && all { // it is there; whoever asks it gets the reason
			out = append(out, id)
			continue
		}
		if err != nil {
			st.log.Warn().Err(err).Str("domain", id).Msg("a domain is left out of the list")
			continue
		}
		if (p.Class == "" || string(p.Class) == info.Class) && (p.Type == "" || string(p.Type) == info.Type) && (p.Path == "" || p.Path == info.RemotePath) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (st *Storage) infoOf(id string) (domain.Info, error) {
	d, err := st.registry.GetReadOnly(id)
	if err != nil {
		return domain.Info{}, err
	}
	return d.Info()
}

// createDomainParams are those of StorageDomain.create. For file domains typeArgs is the path of the directory it is made in,
// or an object with remotePath.
type createDomainParams struct {
	Domain    param.UUID        `json:"storagedomainID"`
	Type      param.DomainType  `json:"domainType"`
	TypeArgs  remotePath        `json:"typeArgs" doc:"directory in which the domain is made"`
	Name      string            `json:"name"`
	Class     param.DomainClass `json:"domainClass" default:"Data"`
	Version   param.Int         `json:"version" default:"0" doc:"5 is what is made; 0 is taken for it, as engines without a choice send it"`
	BlockSize param.Int         `json:"blockSize" default:"512" doc:"512, 4096, or 0 = what the file system needs"`
	MaxHosts  param.Int         `json:"maxHosts" default:"2000"`
}

// remotePath is a string, or an object with the string in it.
type remotePath string

// UnmarshalJSON takes both forms.
func (r *remotePath) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*r = remotePath(s)
		return nil
	}
	var o struct {
		RemotePath string `json:"remotePath"`
	}
	if err := json.Unmarshal(b, &o); err != nil || o.RemotePath == "" {
		return code.Errorf(code.InvalidParameter, "give the path of a directory, or {\"remotePath\": path}")
	}
	*r = remotePath(o.RemotePath)
	return nil
}

func (st *Storage) createDomain(ctx context.Context, raw json.RawMessage) (any, error) {
	var p createDomainParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if p.Version == 0 {
		p.Version = domain.Version
	}
	root, remote, err := st.rootOf(string(p.Type), string(p.TypeArgs))
	if err != nil {
		return nil, err
	}
	if string(p.Type) != domain.TypeLocalFS {
		if err := st.images.Leasable(); err != nil {
			return nil, err
		}
	}
	w, cancel := newErrand(ctx)
	defer cancel()
	_, err = st.registry.Create(domain.CreateSpec{
		UUID: string(p.Domain), Path: root, Remote: remote, Name: p.Name, Type: string(p.Type), Class: string(p.Class), Version: int(p.Version),
		BlockSize: int(p.BlockSize), MaxHosts: int(p.MaxHosts),
		Format: func(a domain.Area) error { return st.images.FormatLease(w.ctx, w, a) },
	})
	return nil, err
}

// reading decodes a domain's id and opens the domain for reading.
func (st *Storage) reading(raw json.RawMessage) (*domain.Domain, error) {
	var p domainParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	return st.registry.GetReadOnly(string(p.Domain))
}

func (st *Storage) domainInfo(_ context.Context, raw json.RawMessage) (any, error) {
	d, err := st.reading(raw)
	if err != nil {
		return nil, err
	}
	info, err := d.Info()
	if err == nil && info.Pool == nil {
		info.Pool = []string{}
	}
	return info, err
}

// domainStats is VDSM's answer: the sizes are strings.
type domainStats struct {
	DiskTotal    string `json:"disktotal"`
	DiskFree     string `json:"diskfree"`
	MDAValid     bool   `json:"mdavalid"`
	MDAThreshold bool   `json:"mdathreshold"`
	MDASize      int    `json:"mdasize"`
	MDAFree      int    `json:"mdafree"`
	Reclaimable  string `json:"reclaimable"` // ours: what emptying the trash would free
}

func (st *Storage) domainStats(_ context.Context, raw json.RawMessage) (any, error) {
	d, err := st.reading(raw)
	if err != nil {
		return nil, err
	}
	s, err := d.Stats()
	if err != nil {
		return nil, err
	}
	return domainStats{
		DiskTotal: strconv.FormatInt(s.DiskTotal, 10), DiskFree: strconv.FormatInt(s.DiskFree, 10), MDAValid: true, MDAThreshold: true,
		Reclaimable: strconv.FormatInt(s.Reclaimable, 10),
	}, nil
}

func (st *Storage) domainImages(_ context.Context, raw json.RawMessage) (any, error) {
	d, err := st.reading(raw)
	if err != nil {
		return nil, err
	}
	images, err := d.Images()
	return orEmpty(images), err
}

type volumesParams struct {
	Domain param.UUID `json:"storagedomainID"`
	Pool   param.UUID `json:"storagepoolID" default:""`
	Image  param.UUID `json:"imageID" default:"00000000-0000-0000-0000-000000000000" doc:"only this image's; zeros = all"`
}

func (st *Storage) domainVolumes(_ context.Context, raw json.RawMessage) (any, error) {
	var p volumesParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	image := string(p.Image)
	if p.Image.IsBlank() {
		image = ""
	}
	volumes, err := d.Volumes(image)
	return orEmpty(volumes), err
}

type volumeParams struct {
	Volume param.UUID `json:"volumeID"`
	Pool   param.UUID `json:"storagepoolID" default:""`
	Domain param.UUID `json:"storagedomainID"`
	Image  param.UUID `json:"imageID"`
}

// look reads a volume's metadata and looks at its file.
func (st *Storage) look(raw json.RawMessage) (p volumeParams, m domain.VolumeMeta, s sizes, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, m, s, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return p, m, s, err
	}
	if m, err = d.ReadVolume(string(p.Image), string(p.Volume)); err != nil {
		return p, m, s, err
	}
	file, err := d.VolumePath(string(p.Image), string(p.Volume))
	if err != nil {
		return p, m, s, err
	}
	fi, err := os.Lstat(file)
	if err != nil {
		return p, m, s, code.Errorf(code.VolumeAccess, "the volume's file cannot be looked at: %w", err)
	}
	const sector = 512 // the unit of st_blocks, whatever the file system's is
	blocks := fi.Sys().(*syscall.Stat_t).Blocks
	return p, m, sizes{strconv.FormatInt(fi.Size(), 10), strconv.FormatInt(blocks*sector, 10)}, nil
}

// sizes are of the volume's file: its length, and what it takes on disk.
type sizes struct {
	Apparent string `json:"apparentsize"`
	True     string `json:"truesize"`
}

func (st *Storage) volumeSize(_ context.Context, raw json.RawMessage) (any, error) {
	_, _, s, err := st.look(raw)
	return s, err
}

// volumeInfo is VDSM's answer: sizes and ctime are strings, generation and sequence are not, children is always empty.
type volumeInfo struct {
	UUID        string   `json:"uuid"`
	Type        string   `json:"type"`
	Format      string   `json:"format"`
	DiskType    string   `json:"disktype"`
	VolType     string   `json:"voltype"`
	Parent      string   `json:"parent"`
	Domain      string   `json:"domain"`
	Image       string   `json:"image"`
	Pool        string   `json:"pool"`
	Description string   `json:"description"`
	Legality    string   `json:"legality"`
	Children    []string `json:"children"`
	Capacity    string   `json:"capacity"`
	CTime       string   `json:"ctime"`
	MTime       string   `json:"mtime"`
	sizes
	Generation int        `json:"generation"`
	Sequence   int64      `json:"sequence"`
	Status     string     `json:"status"`
	Lease      *leaseInfo `json:"lease,omitempty"` // only on domains whose volumes have one
}

// leaseInfo is what sanlock's area of a volume says.
type leaseInfo struct {
	Path    string `json:"path"`
	Offset  int64  `json:"offset"`
	Owners  []int  `json:"owners"`
	Version int64  `json:"version"`
}

// leaseOf reads a volume's sanlock area; nil if it has none. One that cannot be read has no owner that could be named.
func (st *Storage) leaseOf(p volumeParams) (*leaseInfo, error) {
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	area, err := d.LeaseArea(string(p.Image), string(p.Volume))
	if err != nil || area == nil {
		return nil, err
	}
	l, err := sanlock.Read(*area)
	if err != nil {
		st.log.Warn().Err(err).Str("volume", string(p.Volume)).Msg("the lease of a volume cannot be read")
		l.Owners = []int{}
	}
	return &leaseInfo{area.Path, area.Offset, l.Owners, l.Version}, nil
}

func (st *Storage) volumeInfo(_ context.Context, raw json.RawMessage) (any, error) {
	p, m, s, err := st.look(raw)
	if err != nil {
		return nil, err
	}
	lease, err := st.leaseOf(p)
	if err != nil {
		return nil, err
	}
	status := "OK"
	if m.Legality == domain.Illegal {
		status = "ILLEGAL"
	}
	return volumeInfo{
		UUID: string(p.Volume), Type: m.Type, Format: m.Format, DiskType: m.DiskType, VolType: m.VolType, Parent: m.PUUID, Domain: m.Domain,
		Image: m.Image, Description: m.Description, Legality: m.Legality, Children: []string{}, Capacity: strconv.FormatInt(m.Capacity, 10),
		CTime: strconv.FormatInt(m.CTime.Unix(), 10), MTime: "0", sizes: s, Generation: m.Generation, Sequence: m.Sequence, Status: status, Lease: lease,
	}, nil
}

// orEmpty makes of nil an empty list: clients get [], never null.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
