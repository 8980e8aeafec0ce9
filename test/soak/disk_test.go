package soak

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// disk is a content that volumes have, in a file outside of the domains.
type disk struct {
	path, format string // format in the words of the verbs
	base         volume // where the clients copy it from
}

// disks are what there is to import and to copy.
type disks struct {
	full   []*disk // with data
	empty  *disk   // what a created volume shows
	broken *disk   // an image that is cut short, which nobody may import
}

const virtual = 64 << 20 // bytes of the small disks and of created volumes

// makeDisks makes small disks, whose copy is one slice, and one whose copy has checkpoints in between.
func (s *soak) makeDisks() disks {
	data := rand.NewChaCha8([32]byte{1})
	make := func(name string, size, step int64) *disk {
		d := &disk{path: filepath.Join(s.dir, name), format: "RAW"}
		f, err := os.Create(d.path)
		s.must(err)
		defer f.Close()
		s.must(f.Truncate(size))
		const piece = 1 << 20
		for at := int64(0); step > 0 && at+piece <= size; at += step {
			_, err := io.Copy(io.NewOffsetWriter(f, at), io.LimitReader(data, piece))
			s.must(err)
		}
		return d
	}
	raw := make("small.raw", virtual, 4<<20)     // 16 MiB of data
	half := make("half.raw", 2*virtual, 3<<20)   // 42 MiB
	large := make("large.raw", 4*virtual, 3<<19) // 170 MiB: three slices
	cow := &disk{filepath.Join(s.dir, "small.qcow2"), "COW", volume{}}
	s.tool(nil, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", half.path, cow.path)
	broken := &disk{filepath.Join(s.dir, "broken.qcow2"), "COW", volume{}}
	s.tool(nil, "cp", cow.path, broken.path)
	s.must(os.Truncate(broken.path, 1<<20))
	return disks{full: []*disk{raw, half, cow, raw, half, cow, large}, empty: make("empty.raw", virtual, 0), broken: broken}
}

// volume is one volume of an image of its own, and what must be in it.
type volume struct {
	domain, root, image, id string
	format                  string
	disk                    *disk // nil = there is no such volume
}

func (c *caller) newVolume() *volume {
	n := c.chance.IntN(len(c.soak.domains))
	return &volume{domain: c.soak.domains[n], root: c.soak.roots[n], image: c.id(), id: c.id()}
}

// refer are the parameters that name the volume.
func (v *volume) refer() map[string]any {
	return map[string]any{"storagedomainID": v.domain, "storagepoolID": nobody, "imageID": v.image, "volumeID": v.id}
}

// nobody is the pool of those who have none, and the parent of volumes that have none.
const nobody = "00000000-0000-0000-0000-000000000000"

func (v *volume) imagePath() string { return filepath.Join(v.root, v.domain, "images", v.image) }
func (v *volume) path() string      { return filepath.Join(v.imagePath(), v.id) }

// check ends the run unless the volume is whole and LEGAL and has its content, or nothing is there of its image.
func (c *caller) check(t *task, v *volume) {
	if v.disk == nil {
		if _, err := os.Stat(v.imagePath()); !errors.Is(err, fs.ErrNotExist) {
			c.soak.fail(t, "image %s must not be there (%v)", v.image, err)
		}
		return
	}
	c.same(t, v, v.disk)
	if info := c.info(t, v); info.VolType != "LEAF" || info.Parent != nobody {
		c.soak.fail(t, "volume %s is %s with the parent %s", v.path(), info.VolType, info.Parent)
	}
}

// same ends the run unless the volume is sound and shows the disk.
func (c *caller) same(t *task, v *volume, d *disk) {
	words := map[string]string{"RAW": "raw", "COW": "qcow2"}
	if info := c.info(t, v); info.Legality != "LEGAL" || info.Format != v.format {
		c.soak.fail(t, "volume %s is %s and %s", v.path(), info.Legality, info.Format)
	}
	if v.format == "COW" {
		c.soak.tool(t, "qemu-img", "check", "-q", "-f", "qcow2", v.path())
	}
	c.soak.tool(t, "qemu-img", "compare", "-f", words[d.format], "-F", words[v.format], d.path, v.path())
}

type volumeInfo struct {
	Legality, Format, VolType, Parent string
}

func (c *caller) info(t *task, v *volume) volumeInfo {
	var info volumeInfo
	if _, err := c.ask(t, "Volume.getInfo", v.refer(), &info); err != nil {
		c.soak.fail(t, "volume %s cannot be looked at: %d %v", v.path(), codeOf(err), err)
	}
	return info
}

// addDomains makes a second domain beside the daemon's own.
func (s *soak) addDomains() {
	c := s.caller(0)
	t := &task{id: "none"} // has the history of the preparation
	s.roots = []string{filepath.Join(s.agent.state, "domains"), filepath.Join(s.dir, "second")}
	s.must(os.Mkdir(s.roots[1], 0o755))
	if _, err := c.ask(t, "Host.getStorageDomains", nil, &s.domains); err != nil || len(s.domains) != 1 {
		s.fail(t, "the daemon has the domains %v (%v)", s.domains, err)
	}
	second := c.id()
	params := map[string]any{"storagedomainID": second, "domainType": "LOCALFS", "typeArgs": s.roots[1], "name": "second", "version": 5}
	if _, err := c.ask(t, "StorageDomain.create", params, nil); err != nil {
		s.fail(t, "the second domain cannot be made: %v", err)
	}
	s.domains = append(s.domains, second)
}

// importBases imports every disk as a volume that stays.
func (s *soak) importBases() {
	c := s.caller(0)
	c.id() // that of the domain
	for _, d := range s.disks.full {
		if d.base.disk != nil {
			continue
		}
		v := c.newVolume()
		t := c.importing(v, d, d.format)
		c.submitting(t)
		if end := c.watch(t, -1); end.State != "finished" {
			s.fail(t, "the import ends as %s: %s", end.State, end.Message)
		}
		v.disk = d
		c.check(t, v)
		d.base = *v
		s.volumes = append(s.volumes, v)
	}
}
