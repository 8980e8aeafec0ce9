package storageops

import (
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
)

// A volume that is no more needed, the top, goes in four calls: StoragePool.prepareMerge makes the volume below, the base, as large
// as it; SDM.merge writes into the base what the top holds; StoragePool.finalizeMerge takes the top out of the chain; and
// Image.deleteVolumes deletes it. From the first byte of the merge to its last the base is ILLEGAL and marked as merging.

// subchainInfo is VDSM's: two neighbours of a chain.
type subchainInfo struct {
	Domain     param.UUID `json:"sd_id"`
	Image      param.UUID `json:"img_id"`
	Base       param.UUID `json:"base_id"`
	Top        param.UUID `json:"top_id"`
	Generation *param.Int `json:"base_generation,omitempty"`
}

func (i subchainInfo) check() error {
	if i.Domain.IsBlank() || i.Image.IsBlank() || i.Base.IsBlank() || i.Top.IsBlank() || i.Base == i.Top {
		return code.Errorf(code.InvalidParameter, "a subchain is named by sd_id, img_id, base_id and top_id, none of them zeros, and two of them volumes")
	}
	return checkGeneration(i.Generation)
}

// base is the volume that is merged into, and the generation that it must have.
func (i subchainInfo) base() divInfo {
	return divInfo{Domain: i.Domain, Image: i.Image, Volume: i.Base, Generation: i.Generation}
}

func (i subchainInfo) top() volumeRef {
	return volumeRef{string(i.Domain), string(i.Image), string(i.Top)}
}

// subchain is what the metadata says of them.
type subchain struct {
	base, top domain.VolumeMeta
	children  []string // of the top
	siblings  []string // of the top: other volumes on the base
}

// readSubchain refuses volumes that are no neighbours (262), and a base that is a template (213).
func readSubchain(d storageDomain, i subchainInfo) (c subchain, err error) {
	base, top := i.base().ref(), i.top()
	if c.top, err = d.ReadVolume(top.Image, top.Volume); err != nil {
		return c, err
	}
	if c.base, err = d.ReadVolume(base.Image, base.Volume); err != nil {
		return c, err
	}
	if c.top.PUUID != base.Volume {
		return c, code.Errorf(code.ImageIsNotLegalChain, "%s is built on %s, not on %s; only neighbours can be merged", top, c.top.PUUID, base.Volume)
	}
	if c.base.VolType == domain.Shared || c.base.Image != base.Image {
		return c, code.Errorf(code.VolumeNonWritable, "%s is a template; nothing can be merged into it", base)
	}
	if c.children, err = d.Children(top.Image, top.Volume); err != nil {
		return c, err
	}
	c.siblings, err = d.Children(base.Image, base.Volume)
	c.siblings = slices.DeleteFunc(c.siblings, func(v string) bool { return v == top.Volume })
	return c, err
}

// mergeable refuses what cannot be merged: whoever reads the base through another volume would see it change (204), and neither a
// top nor a base may be ILLEGAL (227), but for what a merge itself has left.
func (c subchain) mergeable(i subchainInfo) error {
	switch {
	case len(c.siblings) > 0:
		return code.Errorf(code.VolumeImageHasChild, "%s has the child volume %s too, which would change; delete that first", i.base().ref(), c.siblings[0])
	case c.top.Legality == domain.Illegal:
		return code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL and cannot be merged", i.top())
	case c.base.Legality == domain.Illegal && !c.base.Merging:
		return code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL, and not because of a merge; nothing can be merged into it", i.base().ref())
	}
	return nil
}
