package storageops

import (
	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// VMReplica is a volume that is to become what another one is, while a machine works on that.
type VMReplica struct {
	Source string `json:"source"` // paths
	Path   string `json:"path"`
	Format string `json:"format"` // QEMU's word
}

// ReplicaLocks are those of a task that mirrors one volume into another. The replica's image is not locked: what is below the replica in it
// is copied meanwhile, by another task.
func (VMVolumes) ReplicaLocks(source, replica VolumeID) []tasks.Lock {
	return []tasks.Lock{domainShared(source.Domain), imageShared(source.Domain, source.Image), domainShared(replica.Domain)}
}

// Replica finds a replica and its source. Both are leaves, with as many volumes below them, and the replica is as large, and LEGAL or left by
// a replication that was stopped.
func (vv VMVolumes) Replica(source, replica VolumeID) (r VMReplica, err error) {
	own, err := vv.chain(source)
	if err != nil {
		return r, err
	}
	if _, err := vv.st.writable(replica.Domain); err != nil {
		return r, err
	}
	there, err := vv.chain(replica)
	if err != nil {
		return r, err
	}
	m := there[0].Meta
	switch {
	case own[0].Meta.VolType != domain.Leaf || m.VolType != domain.Leaf:
		return r, code.Errorf(code.InvalidParameter, "%s and %s must be what a guest works on, leaves, and are %s and %s", source, replica, own[0].Meta.VolType, m.VolType)
	case len(own) != len(there):
		return r, code.Errorf(code.DestImageAction, "%s is in a chain of %d volumes and its source %s in one of %d; make it with Image.cloneStructure", replica, len(there), source, len(own))
	case m.Capacity < own[0].Meta.Capacity:
		return r, code.Errorf(code.DestImageAction, "%s has room for %d bytes, and its source has %d", replica, m.Capacity, own[0].Meta.Capacity)
	}
	return VMReplica{own[0].Path, there[0].Path, imageFormat(m.Format)}, nil
}

// ReplicaReady refuses a replica below which there is a volume that is not LEGAL: it is being copied still (227).
func (vv VMVolumes) ReplicaReady(replica VolumeID) error {
	chain, err := vv.chain(replica)
	if err != nil {
		return err
	}
	for _, l := range chain[1:] {
		if l.Meta.Legality == domain.Illegal {
			return code.Errorf(code.PrepareIllegalVolume, "volume %s below %s is ILLEGAL: it is not copied yet", l.Volume, replica)
		}
	}
	return nil
}

func (vv VMVolumes) chain(v VolumeID) ([]domain.ChainLink, error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return nil, err
	}
	return d.Chain(v.Image, v.Volume)
}
