package storageops

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
)

// memDomains are the domains of a world, as a task reaches them.
type memDomains struct {
	*hand
	world *world
}

func (m memDomains) List() []string {
	return slices.DeleteFunc(m.disk.list("/"), func(name string) bool { return name == path.Dir(outside)[1:] })
}

func (m memDomains) Get(id string) (storageDomain, error) {
	if _, n := m.disk.lookup(path.Join("/", id)); n == nil {
		return nil, code.Errorf(code.DomainDoesNotExist, "there is no storage domain %s", id)
	}
	return memDomain{m.hand, m.world, id}, nil
}

func (m memDomains) GetNow(id string) (storageDomain, error) { return m.Get(id) }

// memDomain is a domain in memory. It does what domain.Domain does in the same order, effect by effect; TestSameDomain holds it
// to that.
type memDomain struct {
	*hand
	world *world
	id    string
}

const (
	metaSuffix  = ".meta"
	leaseSuffix = ".lease"
)

func (m memDomain) imagesDir() string           { return path.Join("/", m.id, "images") }
func (m memDomain) imageDir(img string) string  { return path.Join(m.imagesDir(), img) }
func (m memDomain) file(img, vol string) string { return path.Join(m.imageDir(img), vol) }
func (m memDomain) meta(img, vol string) string { return m.file(img, vol) + metaSuffix }

func (m memDomain) ID() string           { return m.id }
func (m memDomain) Writable() error      { return nil }
func (m memDomain) Free() (int64, error) { return 1 << 40, nil }
func (m memDomain) Trash() trash         { return memTrash{m} }

func (m memDomain) image(img string) error {
	if _, n := m.disk.lookup(m.imageDir(img)); n == nil {
		return code.Errorf(code.ImageDoesNotExist, "there is no image %s", img)
	}
	return nil
}

func noVolume(img, vol string) error {
	return code.Errorf(code.VolumeDoesNotExist, "there is no volume %s in image %s", vol, img)
}

func (m memDomain) Volumes(img string) ([]string, error) {
	if err := m.image(img); err != nil {
		return nil, err
	}
	var out []string
	for _, name := range m.disk.list(m.imageDir(img)) {
		if vol, ok := strings.CutSuffix(name, metaSuffix); ok {
			out = append(out, vol)
		}
	}
	return out, nil
}

func (m memDomain) ImagePath(img string) (string, error) { return m.imageDir(img), m.image(img) }

func (m memDomain) VolumePath(img, vol string) (string, error) {
	if err := m.image(img); err != nil {
		return "", err
	}
	if _, n := m.disk.lookup(m.file(img, vol)); n == nil {
		return "", noVolume(img, vol)
	}
	return m.file(img, vol), nil
}

func (m memDomain) ReadVolume(img, vol string) (domain.VolumeMeta, error) {
	if err := m.image(img); err != nil {
		return domain.VolumeMeta{}, err
	}
	_, n := m.disk.lookup(m.meta(img, vol))
	if n == nil {
		return domain.VolumeMeta{}, noVolume(img, vol)
	}
	if text, ok := n.data.([]byte); ok {
		return domain.ParseVolumeMeta(text)
	}
	v, ok := n.data.(domain.VolumeMeta)
	if !ok {
		return v, code.Errorf(code.VolumeMetadataRead, "the metadata of volume %s is damaged", vol)
	}
	return v, nil
}

func (m memDomain) Chain(img, leaf string) ([]domain.ChainLink, error) {
	var chain []domain.ChainLink
	for vol := leaf; ; {
		v, err := m.ReadVolume(img, vol)
		if err == nil {
			_, err = m.VolumePath(img, vol)
		}
		if code.Of(err) == code.VolumeDoesNotExist && len(chain) > 0 {
			return nil, code.Errorf(code.ImageIsNotLegalChain, "the parent %s is missing", vol)
		}
		if err != nil {
			return nil, err
		}
		chain = append(chain, domain.ChainLink{Volume: vol, Path: m.file(img, vol), Meta: v})
		if !v.HasParent() {
			return chain, nil
		}
		vol = v.PUUID
	}
}

func (m memDomain) Children(img, vol string) ([]string, error) {
	volumes, err := m.Volumes(img)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, other := range volumes {
		v, err := m.ReadVolume(img, other)
		if err != nil {
			return nil, err
		}
		if v.PUUID == vol {
			out = append(out, other)
		}
	}
	return out, nil
}

func (m memDomain) SharedBy(img, vol string) ([]string, error) {
	if _, err := m.VolumePath(img, vol); err != nil {
		return nil, err
	}
	return m.sharers(img, vol), nil
}

// sharers are the other images that hold the volume's data file.
func (m memDomain) sharers(img, vol string) []string {
	ino, _ := m.disk.lookup(m.file(img, vol))
	return slices.DeleteFunc(m.disk.list(m.imagesDir()), func(other string) bool {
		there, n := m.disk.lookup(m.file(other, vol))
		return other == img || n == nil || there != ino
	})
}

func (m memDomain) Fingerprint(img, vol string) (domain.Fingerprint, error) {
	if err := m.image(img); err != nil {
		return domain.Fingerprint{}, err
	}
	ino, data := m.disk.lookup(m.file(img, vol))
	metaIno, text := m.disk.lookup(m.meta(img, vol))
	if data == nil || text == nil {
		return domain.Fingerprint{}, noVolume(img, vol)
	}
	stamp := func(ino inode, n *node) domain.FileStamp {
		return domain.FileStamp{MTime: n.mtime, CTime: n.ctime, Inode: uint64(ino)}
	}
	return domain.Fingerprint{Data: stamp(ino, data), Meta: stamp(metaIno, text)}, nil
}

func (m memDomain) CreateImageDir(img string) (bool, error) {
	made, err := m.mkdir("the image's directory", m.imageDir(img), 0o755)
	if err != nil {
		return made, err
	}
	if ino, n := m.disk.lookup(m.imageDir(img)); n.mode.Perm() != 0o755 {
		err := m.effect("mode of the image's directory", func(d *disk) []change { return []change{d.chmod(ino, n.mode.Perm()|0o755)} })
		if err != nil {
			return made, err
		}
	}
	if err := m.sync("the image's directory", m.imageDir(img)); err != nil {
		return made, err
	}
	return made, m.sync("images", m.imagesDir())
}

func (m memDomain) RemoveImageDirIfEmpty(img string) error {
	if m.image(img) == nil {
		if len(m.disk.list(m.imageDir(img))) > 0 {
			return nil
		}
		if err := m.remove("the image's directory", m.imageDir(img)); err != nil {
			return err
		}
	}
	return m.sync("images", m.imagesDir())
}

func (m memDomain) SetMode(img, vol string) error {
	if _, err := m.VolumePath(img, vol); err != nil {
		return err
	}
	for _, suffix := range []string{"", leaseSuffix} {
		ino, n := m.disk.lookup(m.file(img, vol) + suffix)
		if n == nil {
			continue
		}
		if n.mode != 0o660 {
			if err := m.effect("mode of the volume"+suffix, func(d *disk) []change { return []change{d.chmod(ino, 0o660)} }); err != nil {
				return err
			}
		}
		if err := m.sync("the volume"+suffix, m.file(img, vol)+suffix); err != nil {
			return err
		}
	}
	return m.sync("the image's directory", m.imageDir(img))
}

func (m memDomain) HasLeases() (bool, error) { return m.world.shared, nil }

// MakeLease makes the file as a sync of its own makes it safe, but not its name.
func (m memDomain) MakeLease(img, vol string) (*domain.Area, error) {
	if err := m.image(img); err != nil {
		return nil, err
	}
	if has, err := m.HasLeases(); err != nil || !has {
		return nil, err
	}
	name := m.file(img, vol) + leaseSuffix
	a := &domain.Area{Path: name, Lockspace: m.id, Resource: vol, Sector: 512, Align: 1 << 20}
	if ino, n := m.disk.lookup(name); n != nil {
		if m.disk.links(ino) > 1 {
			return nil, code.Errorf(code.VolumeAlreadyExists, "%s is the lease of a template", name)
		}
		return a, nil
	}
	dir, _ := m.disk.lookup(m.imageDir(img))
	err := m.effect("make the lease's file", func(d *disk) []change {
		d.last++
		return []change{d.link(dir, path.Base(name), d.last), d.chmod(d.last, 0o660)}
	})
	return a, err
}

func (m memDomain) WriteVolumeMeta(img, vol string, v domain.VolumeMeta) error {
	if err := m.image(img); err != nil {
		return err
	}
	if _, err := v.Encode(); err != nil {
		return err
	}
	v.CTime = v.CTime.UTC().Truncate(time.Second)
	if err := m.replace("metadata", m.meta(img, vol), v); err != nil {
		return err
	}
	if _, n := m.disk.lookup(m.file(img, vol)); n == nil {
		return nil
	}
	for _, other := range m.sharers(img, vol) {
		if err := m.relinkInto(img, vol, other); err != nil {
			return err
		}
	}
	return nil
}

func (m memDomain) relinkInto(img, vol, other string) error {
	ino, _ := m.disk.lookup(m.meta(img, vol))
	if old, n := m.disk.lookup(m.meta(other, vol)); n == nil || old != ino {
		if err := m.link("link the metadata into image "+other, m.meta(img, vol), m.meta(other, vol)); err != nil {
			return err
		}
	}
	return m.sync("image "+other, m.imageDir(other))
}

func (m memDomain) UpdateVolumeMeta(img, vol string, f func(*domain.VolumeMeta) error) error {
	v, err := m.ReadVolume(img, vol)
	if err != nil {
		return err
	}
	if err := f(&v); err != nil {
		return err
	}
	return m.WriteVolumeMeta(img, vol, v)
}

func (m memDomain) ShareTemplate(tmpl, vol, img string) error {
	if err := m.image(img); err != nil {
		return err
	}
	v, err := m.ReadVolume(tmpl, vol)
	if err != nil {
		return err
	}
	if v.VolType != domain.Shared || tmpl == img {
		return code.Errorf(code.IncorrectType, "volume %s of image %s is no template", vol, tmpl)
	}
	ino, n := m.disk.lookup(m.file(tmpl, vol))
	if n == nil {
		return noVolume(tmpl, vol)
	}
	lease, _ := m.disk.lookup(m.file(tmpl, vol) + leaseSuffix)
	for suffix, from := range map[string]inode{"": ino, leaseSuffix: lease} {
		if there, n := m.disk.lookup(m.file(img, vol) + suffix); n != nil && there != from {
			return code.Errorf(code.VolumeAlreadyExists, "image %s has another volume %s", img, vol)
		}
	}
	for _, suffix := range []string{"", leaseSuffix, metaSuffix} {
		from, n := m.disk.lookup(m.file(tmpl, vol) + suffix)
		if n == nil {
			continue
		}
		if to, n := m.disk.lookup(m.file(img, vol) + suffix); n != nil && to == from {
			continue
		}
		if err := m.link("link the template's volume"+suffix, m.file(tmpl, vol)+suffix, m.file(img, vol)+suffix); err != nil {
			return err
		}
	}
	return m.sync("the image's directory", m.imageDir(img))
}

func (m memDomain) UnshareTemplate(tmpl, vol, img string) error {
	if code.Of(m.image(img)) == code.ImageDoesNotExist {
		return nil
	}
	if err := m.image(tmpl); err != nil {
		return err
	}
	for _, suffix := range []string{"", leaseSuffix, metaSuffix} {
		from, _ := m.disk.lookup(m.file(tmpl, vol) + suffix)
		to, n := m.disk.lookup(m.file(img, vol) + suffix)
		if n == nil {
			continue
		}
		ours := to == from
		if !ours && suffix == metaSuffix { // it was cut off by a rewrite that died
			v, err := m.ReadVolume(img, vol)
			ours = err == nil && v.Image == tmpl && v.VolType == domain.Shared
		}
		if !ours || tmpl == img {
			return code.Errorf(code.VolumeAlreadyExists, "%s in image %s is not of the template", vol, img)
		}
	}
	children, err := m.Children(img, vol)
	if err != nil {
		return err
	}
	if len(children) > 0 {
		return code.Errorf(code.VolumeImageHasChild, "template %s is the base of %s", vol, children[0])
	}
	for _, suffix := range []string{metaSuffix, leaseSuffix, ""} {
		if err := m.remove("the template's link"+suffix, m.file(img, vol)+suffix); err != nil {
			return err
		}
	}
	return m.sync("the image's directory", m.imageDir(img))
}

// perm is the mode of a directory or file as an observer sees it.
func perm(n *node) fs.FileMode { return n.mode.Perm() }
