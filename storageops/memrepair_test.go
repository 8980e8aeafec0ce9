package storageops

import (
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/domaincheck"
)

// What repairs need of a domain in memory.

func (m memDomain) Examine(ctx context.Context, o domaincheck.Options) (*domaincheck.Report, error) {
	o.Path = "/" + m.id
	return domaincheck.Check(ctx, memFS{m.disk, m.id}, o)
}

func (m memDomain) MetaText(img, vol string) ([]byte, error) {
	if err := m.image(img); err != nil {
		return nil, err
	}
	_, n := m.disk.lookup(m.meta(img, vol))
	if n == nil {
		return nil, noVolume(img, vol)
	}
	return content(n), nil
}

// SetMetaText keeps text that can be read as what it says, so that the rest of the world sees it.
func (m memDomain) SetMetaText(img, vol string, text []byte) error {
	if err := m.image(img); err != nil {
		return err
	}
	return m.replace("metadata", m.meta(img, vol), metaNode(text))
}

func metaNode(text []byte) any {
	if v, err := domain.ParseVolumeMeta(text); err == nil {
		if again, err := v.Encode(); err == nil && bytes.Equal(again, text) {
			return v
		}
	}
	return text
}

func (m memDomain) Share(tmpl, vol, img string) (s domain.Share, err error) {
	for _, i := range []string{tmpl, img} {
		if err := m.image(i); err != nil {
			return s, err
		}
	}
	_, data := m.disk.lookup(m.file(img, vol))
	from, _ := m.disk.lookup(m.meta(tmpl, vol))
	to, n := m.disk.lookup(m.meta(img, vol))
	_, lease := m.disk.lookup(m.file(img, vol) + leaseSuffix)
	s.Data, s.Lease, s.Linked = data != nil, lease != nil, n != nil && to == from
	if n != nil && !s.Linked {
		s.Own = content(n)
	}
	return s, nil
}

func (m memDomain) SetShare(tmpl, vol, img string, was domain.Share) error {
	for _, i := range []string{img, tmpl} {
		if err := m.image(i); err != nil {
			return err
		}
	}
	linked := func(suffix string) bool {
		from, _ := m.disk.lookup(m.file(tmpl, vol) + suffix)
		to, n := m.disk.lookup(m.file(img, vol) + suffix)
		return n != nil && to == from
	}
	own := was.Own != nil && linked(metaSuffix)
	if own {
		if err := m.replace("metadata of its own", m.meta(img, vol), metaNode(was.Own)); err != nil {
			return err
		}
	}
	if !was.Linked && !own && linked(metaSuffix) {
		if err := m.remove("the template's link"+metaSuffix, m.meta(img, vol)); err != nil {
			return err
		}
	}
	if !was.Lease && linked(leaseSuffix) {
		if err := m.remove("the template's link"+leaseSuffix, m.file(img, vol)+leaseSuffix); err != nil {
			return err
		}
	}
	if !was.Data && linked("") {
		if err := m.remove("the template's link", m.file(img, vol)); err != nil {
			return err
		}
	}
	return m.sync("the image's directory", m.imageDir(img))
}

func (m memDomain) Permissions(name string) (domain.Permissions, error) {
	_, n := m.disk.lookup(path.Join("/", m.id, name))
	if n == nil {
		return domain.Permissions{}, code.Errorf(code.VolumeDoesNotExist, "there is no %s", name)
	}
	return domain.Permissions{Mode: perm(n)}, nil
}

func (m memDomain) SetPermissions(name string, p domain.Permissions) error {
	full := path.Join("/", m.id, name)
	ino, n := m.disk.lookup(full)
	if n == nil {
		return code.Errorf(code.VolumeDoesNotExist, "there is no %s", name)
	}
	if perm(n) != p.Mode {
		if err := m.effect("set the mode of "+path.Base(name), func(d *disk) []change { return []change{d.chmod(ino, p.Mode)} }); err != nil {
			return err
		}
	}
	return m.sync(path.Base(name), full)
}

// memFS shows the domain in memory as the check reads it: its metadata and files that every domain has are made up, the trash is where
// it is on disk, and files have the content that a check looks at.
type memFS struct {
	disk *disk
	id   string
}

var madeUp = map[string][]byte{
	"dom_md/metadata": must(domain.DomainMeta{
		UUID: sdID, Name: "memory", Type: domain.TypeLocalFS, Class: "Data", Role: domain.RoleRegular, Version: 5, BlockSize: 512, Alignment: 1 << 20,
	}.Encode()),
	"dom_md/ids": {}, "dom_md/leases": {}, "dom_md/inbox": make([]byte, 16<<20), "dom_md/outbox": make([]byte, 16<<20),
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (f memFS) find(name string) (fs.FileInfo, *node, error) {
	if data, ok := madeUp[name]; ok {
		mode := fs.FileMode(0o660)
		if name == "dom_md/metadata" {
			mode = 0o644
		}
		return memInfo{name: path.Base(name), mode: mode, size: int64(len(data)), links: 1}, &node{data: data}, nil
	}
	if name == "dom_md" {
		return memInfo{name: name, mode: fs.ModeDir | 0o755, links: 1}, nil, nil
	}
	ino, n := f.disk.lookup(path.Join("/", f.id, strings.TrimPrefix(name, ".vdsm-agent/")))
	if n == nil {
		return nil, nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	size := int64(len(content(n)))
	if p, ok := n.data.(picture); ok && p.format == "raw" {
		size = p.capacity
	}
	return memInfo{path.Base(name), n.mode, size, uint64(ino), uint64(f.disk.links(ino))}, n, nil
}

func (f memFS) Lstat(name string) (fs.FileInfo, error) {
	fi, _, err := f.find(name)
	return fi, err
}

func (f memFS) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

func (f memFS) ReadDir(name string) (out []fs.DirEntry, err error) {
	for _, child := range f.disk.list(path.Join("/", f.id, strings.TrimPrefix(name, ".vdsm-agent/"))) {
		fi, _, err := f.find(path.Join(name, child))
		if err != nil {
			return nil, err
		}
		out = append(out, fs.FileInfoToDirEntry(fi))
	}
	return out, nil
}

func (f memFS) Open(name string) (fs.File, error) {
	fi, n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return memFile{bytes.NewReader(content(n)), fi}, nil
}

// memInfo is what a name is.
type memInfo struct {
	name         string
	mode         fs.FileMode
	size         int64
	inode, links uint64
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return &syscall.Stat_t{Ino: i.inode, Nlink: i.links} }

// memFile is an open file.
type memFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f memFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f memFile) Close() error               { return nil }

// content is a file's, as far as a check looks at it: of a qcow2 image its header.
func content(n *node) []byte {
	switch data := n.data.(type) {
	case []byte:
		return data
	case domain.VolumeMeta:
		return must(data.Encode())
	case picture:
		if data.format == "qcow2" {
			return qcow2Header(data)
		}
	}
	return nil
}

// qcow2Header is that of an image of version 3.
func qcow2Header(p picture) []byte {
	be := binary.BigEndian
	h := make([]byte, 104)
	be.PutUint32(h, 0x514649fb)
	be.PutUint32(h[4:], 3)
	be.PutUint64(h[24:], uint64(p.capacity))
	be.PutUint32(h[100:], 104)
	if p.backing != "" {
		format := append([]byte(p.backingFormat), make([]byte, 8)...)[:8]
		h = be.AppendUint32(h, 0xe2792aca)
		h = be.AppendUint32(h, uint32(len(p.backingFormat)))
		h = append(h, format...)
		h = append(h, make([]byte, 8)...)
		be.PutUint64(h[8:], uint64(len(h)))
		be.PutUint32(h[16:], uint32(len(p.backing)))
		h = append(h, p.backing...)
	}
	return h
}

// What is not as it should be in a messy world: something for each action.
const (
	imgShare = "aaaaaaaa-0000-4000-8000-000000000004" // a link of volTmpl, with metadata of its own, ← volChild, ← volKid
	volChild = "bbbbbbbb-0000-4000-8000-000000000006"
	volKid   = "bbbbbbbb-0000-4000-8000-000000000007"
	deadTask = "cccccccc-0000-4000-8000-000000000008" // of VDSM
)

// messy is what a check would find there and offer to repair.
var messy = []namedFind{
	{"orphan-data", "images/" + imgB + "/" + volNew},
	{"leftover", "images/" + imgA + "/x.tmp"},
	{"removed-image", "images/_remove_me_" + imgNew},
	{"voltype", "images/" + imgA + "/" + volRaw + ".meta"},
	{"meta-eof", "images/" + imgB + "/" + volOld + ".meta"},
	{"meta-domain", "images/" + imgB + "/" + volOld + ".meta"},
	{"share-meta-cut", "images/" + imgShare + "/" + volTmpl + ".meta"},
	{"mode", "images/" + imgB + "/" + volOld},
	{"unfinished", "images/" + imgShare + "/" + volChild},
	{"vdsm-task", "master/tasks/" + deadTask},
}

// messyDisk is the furnished disk with all of that.
func messyDisk() *disk {
	w := &world{disk: furnished().clone()}
	h := &hand{disk: w.disk, gate: open}
	d := memDomain{h, w, sdID}
	put := func(name string, data any) {
		full := path.Join("/", sdID, name)
		for i := 2; i < strings.Count(full, "/"); i++ {
			dir := strings.Join(strings.Split(full, "/")[:i+1], "/")
			must(h.mkdir("", dir, 0o755))
		}
		if err := h.replace("", full, data); err != nil {
			panic(err)
		}
		ino, _ := w.disk.lookup(full)
		mode := fs.FileMode(0o660)
		if strings.HasSuffix(name, metaSuffix) {
			mode = 0o644
		}
		if err := h.effect("", func(d *disk) []change { return []change{d.chmod(ino, mode)} }); err != nil {
			panic(err)
		}
	}
	volume := func(img, vol, parent, volType string) domain.VolumeMeta {
		return domain.VolumeMeta{
			Capacity: 12 << 20, CTime: time.Unix(1700000000, 0).UTC(), DiskType: "DATA", Domain: sdID, Format: domain.FormatCOW, Image: img,
			Legality: domain.Legal, PUUID: parent, Type: domain.Sparse, VolType: volType,
		}
	}
	put(messy[0].Path, picture{format: "qcow2", capacity: 12 << 20})
	put(messy[1].Path, []byte("x"))
	put(messy[2].Path+"/"+volNew, picture{format: "qcow2", capacity: 12 << 20})
	base := must(d.ReadVolume(imgA, volRaw))
	base.VolType = domain.Leaf
	put(messy[3].Path, base)
	old := volume(imgB, volOld, domain.BlankUUID, domain.Leaf)
	old.Domain = imgNew
	text, _, _ := bytes.Cut(must(old.Encode()), []byte("EOF"))
	put(messy[4].Path, text)
	must(d.CreateImageDir(imgShare))
	if err := d.ShareTemplate(imgTmpl, volTmpl, imgShare); err != nil {
		panic(err)
	}
	cut := volume(imgTmpl, volTmpl, domain.BlankUUID, domain.Shared)
	cut.Generation = 1
	put(messy[6].Path, cut)
	ino, _ := w.disk.lookup(d.file(imgB, volOld))
	must(true, h.effect("", func(d *disk) []change { return []change{d.chmod(ino, 0o600)} }))
	child := volume(imgShare, volChild, volTmpl, domain.Leaf)
	put("images/"+imgShare+"/"+volKid+".meta", child)
	put("images/"+imgShare+"/"+volKid, picture{format: "qcow2", capacity: 12 << 20, backing: volTmpl, backingFormat: "qcow2"})
	child.Legality = domain.Illegal
	put(messy[8].Path, picture{format: "qcow2", capacity: 12 << 20, backing: volTmpl, backingFormat: "qcow2"})
	put(messy[8].Path+".meta", child)
	dir := messy[9].Path + "/" + deadTask
	put(dir+".task", []byte("id = "+deadTask+"\nname = createVolume\nstate = running\nnjobs = 0\nnrecoveries = 1\n"))
	put(dir+".recover.0", []byte("name = r\nmoduleName = fileVolume\nobject = FileVolume\nfunction = createVolumeRollback\nparams = "+
		sdID+","+imgShare+","+volChild+"\n"))
	return w.disk.clone()
}
