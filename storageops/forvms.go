package storageops

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// VolumeID names a volume.
type VolumeID = volumeRef

// VMVolumes is what the verbs of virtual machines need of volumes: to find them, to lock them as the storage verbs do, and to keep in them what is no
// disk of a guest. Each change is on stable storage when nil is returned; repeating it mends what one that died has left.
type VMVolumes struct{ st *Storage }

// VMVolumes are this host's.
func (st *Storage) VMVolumes() VMVolumes { return VMVolumes{st} }

// Locks are those of a task that changes the volumes.
func (VMVolumes) Locks(volumes ...VolumeID) (out []tasks.Lock) {
	for _, v := range volumes {
		out = append(out, domainShared(v.Domain), imageExclusive(v.Domain, v.Image))
	}
	return out
}

// Reach waits until the volume's domain can be used, or ctx ends: for a task that goes on after a restart.
func (vv VMVolumes) Reach(ctx context.Context, s *tasks.Scope, v VolumeID) error {
	return vv.st.reach(ctx, s, v.Domain)
}

// DiskPath is where a guest finds its disk, once the whole chain is seen to be there and LEGAL.
func (vv VMVolumes) DiskPath(v VolumeID) (string, error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return "", err
	}
	return legalChain(d, v.Image, v.Volume, false)
}

// Overlay finds a volume on which a machine can go on that works on base now, and base: it is COW, LEGAL, a leaf, and base is its parent.
func (vv VMVolumes) Overlay(base, v VolumeID) (basePath, path string, err error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return "", "", err
	}
	m, err := d.ReadVolume(v.Image, v.Volume)
	if err != nil {
		return "", "", err
	}
	if m.Format != domain.FormatCOW || m.VolType != domain.Leaf || m.PUUID != base.Volume || v.Image != base.Image || v.Domain != base.Domain {
		return "", "", code.Errorf(code.InvalidParameter, "%s is %s and %s with the parent %s; it must be a COW leaf on %s", v, m.Format, m.VolType, m.PUUID, base)
	}
	if path, err = legalChain(d, v.Image, v.Volume, false); err != nil {
		return "", "", err
	}
	basePath, err = d.VolumePath(base.Image, base.Volume)
	return basePath, path, err
}

// Plain finds a volume that can hold what is no disk: RAW, LEGAL, with no other above or below it.
func (vv VMVolumes) Plain(v VolumeID) (path string, shape domain.Shape, err error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return "", shape, err
	}
	m, err := d.ReadVolume(v.Image, v.Volume)
	if err != nil {
		return "", shape, err
	}
	switch {
	case m.Legality != domain.Legal:
		return "", shape, code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL: it was not completed, or is being deleted", v)
	case m.Format != domain.FormatRaw || m.HasParent() || m.VolType != domain.Leaf:
		return "", shape, code.Errorf(code.InvalidParameter, "%s is %s and %s, of a guest's disk; it must be a RAW one by itself", v, m.Format, m.VolType)
	}
	if path, err = d.VolumePath(v.Image, v.Volume); err != nil {
		return "", shape, err
	}
	shape, err = d.Shape(v.Image, v.Volume)
	return path, shape, err
}

// Read reads the beginning of a volume, most bytes of it.
func (vv VMVolumes) Read(v VolumeID, most int64) ([]byte, error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return nil, err
	}
	return d.ReadContents(v.Image, v.Volume, most)
}

// Replace makes data all that is in the volume, whose file gets that shape.
func (vv VMVolumes) Replace(_ *tasks.Scope, v VolumeID, data []byte, shape domain.Shape) error {
	d, err := vv.st.registry.Get(v.Domain)
	if err != nil {
		return err
	}
	return d.ReplaceContents(v.Image, v.Volume, data, shape)
}

// Sync puts what another program has written to the volume on stable storage.
func (vv VMVolumes) Sync(_ *tasks.Scope, v VolumeID) error {
	d, err := vv.st.registry.Get(v.Domain)
	if err != nil {
		return err
	}
	return d.SetMode(v.Image, v.Volume)
}
