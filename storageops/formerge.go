package storageops

import (
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// VMMerge is a merge of a volume into the one below it, of a disk that a machine works on.
type VMMerge struct {
	Base  string `json:"base"` // paths
	Top   string `json:"top"`
	Leaf  string `json:"leaf"`            // what the machine writes to; it may be the top
	Child string `json:"child,omitempty"` // the volume that is built on the top; "" = none
	// Was is what the base's metadata says, Grown the capacity that it needs.
	Was   VMMergeBase `json:"was"`
	Grown int64       `json:"grown"`
}

// VMMergeBase is what of a base's metadata a merge changes before it begins.
type VMMergeBase struct {
	Capacity int64  `json:"capacity"`
	Legality string `json:"legality"`
	Merging  bool   `json:"merging,omitempty"`
}

// Merge finds the volumes of a merge of top into base in the chain of leaf. Besides what SDM.merge refuses, it refuses a top that is not in
// that chain, or has other volumes on it than the one of that chain (204).
func (vv VMVolumes) Merge(leaf, base, top VolumeID) (m VMMerge, err error) {
	d, err := vv.st.writable(top.Domain)
	if err != nil {
		return m, err
	}
	chain, err := d.Chain(leaf.Image, leaf.Volume)
	if err != nil {
		return m, err
	}
	at := slices.IndexFunc(chain, func(l domain.ChainLink) bool { return l.Volume == top.Volume })
	if at < 0 {
		return m, code.Errorf(code.ImageIsNotLegalChain, "%s is not in the chain of %s", top, leaf)
	}
	info := subchainInfo{Domain: param.UUID(top.Domain), Image: param.UUID(top.Image), Base: param.UUID(base.Volume), Top: param.UUID(top.Volume)}
	c, err := readSubchain(d, info)
	if err != nil {
		return m, err
	}
	if err := c.mergeable(info); err != nil {
		return m, err
	}
	m = VMMerge{
		Top: chain[at].Path, Leaf: chain[0].Path, Was: VMMergeBase{c.base.Capacity, c.base.Legality, c.base.Merging}, Grown: max(c.base.Capacity, c.top.Capacity),
	}
	if at > 0 {
		m.Child = chain[at-1].Volume
	}
	for _, other := range c.children {
		if other != m.Child {
			return m, code.Errorf(code.VolumeImageHasChild, "%s has the child volume %s too, which would change; delete that first", top, other)
		}
	}
	m.Base, err = d.VolumePath(base.Image, base.Volume)
	return m, err
}

// SetMergeBase writes what a merge changes of its base before it begins.
func (vv VMVolumes) SetMergeBase(_ *tasks.Scope, base VolumeID, to VMMergeBase) error {
	return vv.update(base, func(m *domain.VolumeMeta) {
		m.Capacity, m.Legality, m.Merging = to.Capacity, to.Legality, to.Merging
	})
}

// SetIllegal marks a volume that is not to be used, or takes the mark back.
func (vv VMVolumes) SetIllegal(_ *tasks.Scope, v VolumeID, illegal bool) error {
	return vv.update(v, func(m *domain.VolumeMeta) {
		m.Legality = domain.Legal
		if illegal {
			m.Legality = domain.Illegal
		}
	})
}

// SetParent lets a volume's metadata say what its file does.
func (vv VMVolumes) SetParent(_ *tasks.Scope, v VolumeID, parent string) error {
	return vv.update(v, func(m *domain.VolumeMeta) { m.PUUID = parent })
}

// EndMerge lets a base be LEGAL again: it shows what the top did. leaf = nothing is built on it.
func (vv VMVolumes) EndMerge(_ *tasks.Scope, base VolumeID, leaf bool) error {
	return vv.update(base, func(m *domain.VolumeMeta) {
		m.Legality, m.Merging = domain.Legal, false
		if leaf && m.VolType == domain.Internal {
			m.VolType = domain.Leaf
		}
	})
}

// Below is the volume that a volume's file names as the one below it, whatever its metadata says; "" = none.
func (vv VMVolumes) Below(v VolumeID) (string, error) {
	d, err := vv.st.registry.GetReadOnly(v.Domain)
	if err != nil {
		return "", err
	}
	chain, err := fileChain(d, v.Image, v.Volume)
	if err != nil || len(chain) < 2 {
		return "", err
	}
	return chain[1], nil
}

func (vv VMVolumes) update(v VolumeID, f func(m *domain.VolumeMeta)) error {
	d, err := vv.st.registry.Get(v.Domain)
	if err != nil {
		return err
	}
	return d.UpdateVolumeMeta(v.Image, v.Volume, func(m *domain.VolumeMeta) error { f(m); return nil })
}
