package domain

import (
	"slices"

	"vdsm-agent/internal/code"
)

// ChainLink is one volume of a chain, as it is in the image's directory.
type ChainLink struct {
	Volume string
	Path   string     // data file, absolute
	Meta   VolumeMeta // Meta.Image is another image if the volume is a template's
}

// Chain returns the volumes from leafVol down to its base, into the template if there is one: its volume is in the
// image's directory by hard links. No such image or leaf: 268, 201. A parent that is missing, or a loop: 262.
func (d *Domain) Chain(img, leafVol string) ([]ChainLink, error) {
	var chain []ChainLink
	seen := make(map[string]bool)
	for vol, child := leafVol, ""; vol != ""; {
		if seen[vol] {
			return nil, code.Errorf(code.ImageIsNotLegalChain, "the chain of volume %s in image %s of domain %s is a loop: %s comes twice",
				leafVol, img, d.id, vol)
		}
		seen[vol] = true
		link, err := d.chainLink(img, vol)
		if code.Of(err) == code.VolumeDoesNotExist && child != "" {
			return nil, code.Errorf(code.ImageIsNotLegalChain,
				"the chain of volume %s in image %s of domain %s is broken: the parent %s of %s is missing", leafVol, img, d.id, vol, child)
		}
		if err != nil {
			return nil, err
		}
		chain = append(chain, link)
		if !link.Meta.HasParent() {
			break
		}
		child, vol = vol, link.Meta.PUUID
	}
	return chain, nil
}

func (d *Domain) chainLink(img, vol string) (ChainLink, error) {
	m, err := d.ReadVolume(img, vol)
	if err != nil {
		return ChainLink{}, err
	}
	path, err := d.VolumePath(img, vol)
	return ChainLink{Volume: vol, Path: path, Meta: m}, err
}

// Children returns the volumes of the image whose parent is vol, sorted. Those of a template in other images are not
// among them: see SharedBy. A volume of the image that cannot be read is an error, since it might be one.
func (d *Domain) Children(img, vol string) ([]string, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return nil, err
	}
	volumes, err := d.volumesOf(img)
	if err != nil {
		return nil, err
	}
	var children []string
	for _, v := range volumes {
		m, err := d.readMeta(img, v)
		if err != nil {
			return nil, err
		}
		if m.PUUID == vol {
			children = append(children, v)
		}
	}
	slices.Sort(children)
	return children, nil
}
