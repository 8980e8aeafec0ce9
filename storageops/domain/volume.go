package domain

import (
	"os"
	"path"
	"strings"

	"vdsm-agent/internal/code"
)

// maxMetaRead is what is read of a .meta file: versions before 5 may have padded it with NULs.
const maxMetaRead = 64 << 10

// ImagePath is the image's directory, absolute: where qemu-img makes a volume. No such image: 268.
func (d *Domain) ImagePath(img string) (string, error) {
	if err := d.checkImage(img); err != nil {
		return "", err
	}
	return d.t.abs(imageDir(img)), nil
}

// VolumePath is the volume's data file, absolute. It is there and a regular file (else 371); its metadata may be
// missing yet. No such image: 268. No such file: 201.
func (d *Domain) VolumePath(img, vol string) (string, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return "", err
	}
	if err := d.checkImage(img); err != nil {
		return "", err
	}
	name := volumeFile(img, vol)
	fi, err := d.t.regular(name)
	if err == nil && fi == nil {
		err = d.noVolume(img, vol)
	}
	if err != nil {
		return "", err
	}
	return d.t.abs(name), nil
}

// ReadVolume reads the volume's metadata. No such image: 268. No such volume: 201. Damaged: 207.
func (d *Domain) ReadVolume(img, vol string) (VolumeMeta, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return VolumeMeta{}, err
	}
	if err := d.checkImage(img); err != nil {
		return VolumeMeta{}, err
	}
	return d.readMeta(img, vol)
}

func (d *Domain) readMeta(img, vol string) (VolumeMeta, error) {
	data, err := d.t.read(metaFile(img, vol), maxMetaRead)
	if notExist(err) {
		return VolumeMeta{}, d.noVolume(img, vol)
	}
	if err != nil {
		return VolumeMeta{}, err
	}
	m, err := ParseVolumeMeta(data)
	if err != nil {
		return m, code.Errorf(code.Of(err), "volume %s in image %s of domain %s: %w", vol, img, d.id, err)
	}
	return m, nil
}

// WriteVolumeMeta writes the volume's metadata, whole or not at all. The image must be there (268); the volume need
// not. Where other images hold hard links of the volume (a template), they get the new metadata too; if it dies before
// they have, calling it again, with these or other values, mends that.
func (d *Domain) WriteVolumeMeta(img, vol string, m VolumeMeta) error {
	if err := d.changeVolume(img, vol); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeMeta(img, vol, m)
}

// UpdateVolumeMeta is ReadVolume, f, WriteVolumeMeta. What f returns ends it, with nothing written.
func (d *Domain) UpdateVolumeMeta(img, vol string, f func(*VolumeMeta) error) error {
	if err := d.changeVolume(img, vol); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.readMeta(img, vol)
	if err != nil {
		return err
	}
	if err := f(&m); err != nil {
		return err
	}
	return d.writeMeta(img, vol, m)
}

func (d *Domain) writeMeta(img, vol string, m VolumeMeta) error {
	if m.Domain != d.id {
		return code.Errorf(code.InternalError, "metadata of domain %s cannot be written in domain %s", m.Domain, d.id)
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	if err := d.t.replace(metaFile(img, vol), data); err != nil {
		return err
	}
	return d.relink(img, vol)
}

// CreateImageDir makes the directory of an image. If it is there already, created is false, and only what a former
// call that died had left undone is done.
func (d *Domain) CreateImageDir(img string) (created bool, err error) {
	if err := checkUUIDs("image", img); err != nil {
		return false, err
	}
	if err := d.changeable(); err != nil {
		return false, err
	}
	created, err = d.t.ensureDir(imageDir(img))
	if err != nil {
		return false, err
	}
	// Also when it was there: the call that made it may have died before its sync.
	return created, d.t.sync(imageDir(img), imagesDir)
}

// RemoveImageDirIfEmpty removes the image's directory if nothing is in it. That it is not there, or not empty, is no
// error. A half-made .meta.new of VDSM, whose volume is gone, does not count as something.
func (d *Domain) RemoveImageDirIfEmpty(img string) error {
	if err := d.changeable(); err != nil {
		return err
	}
	err := d.checkImage(img)
	if code.Of(err) == code.ImageDoesNotExist {
		return d.t.sync(imagesDir) // removed by a call that may have died before its sync
	}
	if err != nil {
		return err
	}
	names, err := d.t.list(imageDir(img))
	if err != nil {
		return err
	}
	for _, name := range names {
		if vol, ok := strings.CutSuffix(name, metaSuffix+".new"); !ok || !isUUID(vol) {
			return nil
		}
	}
	for _, name := range names {
		if err := d.t.remove(path.Join(imageDir(img), name)); err != nil {
			return err
		}
	}
	if err := d.t.remove(imageDir(img)); err != nil {
		return err
	}
	return d.t.sync(imagesDir)
}

// SetMode gives the volume's data file, and its lease if there is one, the mode and owner of a volume. The files are synced, and
// so are their names: whoever made them has done neither.
func (d *Domain) SetMode(img, vol string) error {
	if err := d.changeVolume(img, vol); err != nil {
		return err
	}
	if _, err := d.VolumePath(img, vol); err != nil {
		return err
	}
	for _, suffix := range []string{"", leaseSuffix} {
		name := volumeFile(img, vol) + suffix
		if fi, err := d.t.regular(name); err != nil {
			return err
		} else if fi == nil {
			continue
		}
		if err := d.t.setMode(name, dataMode); err != nil {
			return err
		}
		f, err := d.t.open(name, os.O_RDONLY)
		if err != nil {
			return err
		}
		err = d.t.change("sync", name, f.Sync)
		f.Close()
		if err != nil {
			return err
		}
	}
	return d.t.sync(imageDir(img))
}

// changeVolume is what every change of a volume checks first: claim, names, image.
func (d *Domain) changeVolume(img, vol string) error {
	if err := checkUUIDs("volume", vol); err != nil {
		return err
	}
	if err := d.changeable(); err != nil {
		return err
	}
	return d.checkImage(img)
}

// volumeFiles returns the files of the volume that are there, by suffix.
func (d *Domain) volumeFiles(img, vol string) (map[string]os.FileInfo, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return nil, err
	}
	if err := d.checkImage(img); err != nil {
		return nil, err
	}
	files := make(map[string]os.FileInfo, len(volumeSuffixes))
	for _, suffix := range volumeSuffixes {
		fi, err := d.t.regular(volumeFile(img, vol) + suffix)
		if err != nil {
			return nil, err
		}
		if fi != nil {
			files[suffix] = fi
		}
	}
	return files, nil
}
