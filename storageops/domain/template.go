package domain

import (
	"os"
	"slices"

	"vdsm-agent/internal/code"
)

// ShareTemplate puts the template's volume into the directory of the image img, as hard links: what VDSM does for an
// image derived from a template. Repeating it is no error, and links anew metadata that was rewritten meanwhile.
//
//   - The volume is not SHARED: 231. No such image, either of them: 268. No such volume: 201.
//   - img has another volume of that name: 212.
func (d *Domain) ShareTemplate(tmplImg, tmplVol, img string) error {
	if err := d.changeVolume(img, tmplVol); err != nil {
		return err
	}
	m, err := d.ReadVolume(tmplImg, tmplVol)
	if err != nil {
		return err
	}
	if m.VolType != Shared || tmplImg == img {
		return code.Errorf(code.IncorrectType, "volume %s of image %s is no template that image %s could be derived from",
			tmplVol, tmplImg, img)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	from, err := d.volumeFiles(tmplImg, tmplVol)
	if err != nil {
		return err
	}
	to, err := d.volumeFiles(img, tmplVol)
	if err != nil {
		return err
	}
	if from[""] == nil {
		return d.noVolume(tmplImg, tmplVol)
	}
	for _, suffix := range []string{"", leaseSuffix} {
		if to[suffix] != nil && !os.SameFile(from[suffix], to[suffix]) {
			return code.Errorf(code.VolumeAlreadyExists, "image %s has a volume %s that is not the template's", img, tmplVol)
		}
	}
	for _, suffix := range volumeSuffixes {
		src, dst := volumeFile(tmplImg, tmplVol)+suffix, volumeFile(img, tmplVol)+suffix
		switch {
		case from[suffix] == nil || to[suffix] != nil && os.SameFile(from[suffix], to[suffix]):
			continue
		case to[suffix] == nil:
			err = d.t.link(src, dst)
		default:
			err = d.t.replaceByLink(src, dst)
		}
		if err != nil {
			return err
		}
	}
	return d.t.sync(imageDir(img))
}

// UnshareTemplate takes the template's volume out of the image again. It removes only hard links of the template, so
// no data is lost. What is gone already, the whole image included, is no error. A volume of the image that is based
// on the template: 204. A file of that name that is not the template's: 212.
func (d *Domain) UnshareTemplate(tmplImg, tmplVol, img string) error {
	err := d.changeVolume(img, tmplVol)
	if code.Of(err) == code.ImageDoesNotExist {
		return nil
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	from, err := d.volumeFiles(tmplImg, tmplVol)
	if err != nil {
		return err
	}
	to, err := d.volumeFiles(img, tmplVol)
	if err != nil {
		return err
	}
	if err := d.onlyShare(tmplImg, tmplVol, img, from, to); err != nil {
		return err
	}
	for _, suffix := range slices.Backward(volumeSuffixes) {
		if to[suffix] == nil {
			continue
		}
		if err := d.t.remove(volumeFile(img, tmplVol) + suffix); err != nil {
			return err
		}
	}
	return d.t.sync(imageDir(img))
}

// onlyShare returns nil if the files to of img are nothing but the template's, and nothing in img needs them.
func (d *Domain) onlyShare(tmplImg, vol, img string, from, to map[string]os.FileInfo) error {
	for suffix, fi := range to {
		ours := from[suffix] != nil && os.SameFile(from[suffix], fi)
		if !ours && suffix == metaSuffix { // it was cut off by a rewrite that died
			m, err := d.readMeta(img, vol)
			if err != nil {
				return err
			}
			ours = m.Image == tmplImg && m.VolType == Shared
		}
		if !ours || tmplImg == img {
			return code.Errorf(code.VolumeAlreadyExists, "%s in image %s is not of template %s; it is not removed", vol+suffix, img, tmplImg)
		}
	}
	children, err := d.Children(img, vol)
	if err != nil {
		return err
	}
	if len(children) > 0 {
		return code.Errorf(code.VolumeImageHasChild, "template volume %s is still the base of volume %s in image %s",
			vol, children[0], img)
	}
	return nil
}

// SharedBy returns the other images that hold hard links of the volume, sorted: the images derived from a template.
func (d *Domain) SharedBy(img, vol string) ([]string, error) {
	files, err := d.volumeFiles(img, vol)
	if err != nil {
		return nil, err
	}
	if files[""] == nil {
		return nil, d.noVolume(img, vol)
	}
	return d.sharers(img, vol, files[""])
}

func (d *Domain) sharers(img, vol string, data os.FileInfo) ([]string, error) {
	if linkCount(data) == 1 {
		return nil, nil
	}
	images, err := d.Images()
	if err != nil {
		return nil, err
	}
	var sharers []string
	for _, other := range images {
		if other == img {
			continue
		}
		fi, err := d.t.lstat(volumeFile(other, vol))
		if notExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if os.SameFile(fi, data) {
			sharers = append(sharers, other)
		}
	}
	return sharers, nil
}

// relink gives every other image that holds hard links of the volume its metadata, after a rewrite cut the link.
func (d *Domain) relink(img, vol string) error {
	data, err := d.t.regular(volumeFile(img, vol))
	if err != nil || data == nil {
		return err // a volume whose data file is not there yet has no sharers
	}
	sharers, err := d.sharers(img, vol, data)
	if err != nil {
		return err
	}
	for _, other := range sharers {
		if err := d.relinkInto(img, vol, other); err != nil {
			return err
		}
	}
	return nil
}

func (d *Domain) relinkInto(img, vol, other string) error {
	meta, err := d.t.lstat(metaFile(img, vol))
	if err != nil {
		return err
	}
	old, err := d.t.regular(metaFile(other, vol))
	if err != nil {
		return err
	}
	// A rename over another name of the same file does nothing and would leave the temporary name.
	if old == nil || !os.SameFile(meta, old) {
		if err := d.t.replaceByLink(metaFile(img, vol), metaFile(other, vol)); err != nil {
			return err
		}
	}
	return d.t.sync(imageDir(other))
}
