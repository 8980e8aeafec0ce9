package domain

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"time"

	"vdsm-agent/internal/code"
)

// Area is where sanlock keeps a lockspace, or one resource of it.
type Area struct {
	Path      string // absolute
	Offset    int64
	Lockspace string // the domain's UUID
	Resource  string // "" = the lockspace itself
	Sector    int    // BLOCK_SIZE of the domain
	Align     int    // ALIGNMENT of the domain: the length of the area
}

// sdmResource is the resource that the manager of a pool holds, in dom_md/leases behind one free slot.
const sdmResource = "SDM"

// hasLeases says whether sanlock guards the volumes of the domain: everywhere but on LOCALFS.
func (m DomainMeta) hasLeases() bool { return m.Type != TypeLocalFS }

func (m DomainMeta) area(path, resource string, offset int64) Area {
	return Area{Path: path, Offset: offset, Lockspace: m.UUID, Resource: resource, Sector: m.BlockSize, Align: m.Alignment}
}

// layOutLeases fills what a new domain with leases has more than others.
func (s CreateSpec) layOutLeases(t *tree, md string, m DomainMeta) error {
	ids, leases, index := path.Join(md, "ids"), path.Join(md, "leases"), path.Join(md, "xleases")
	for _, a := range []Area{m.area(t.abs(ids), "", 0), m.area(t.abs(leases), sdmResource, int64(m.Alignment))} {
		if err := s.Format(a); err != nil {
			return err
		}
	}
	if err := t.create(index, nil, 0, dataMode); err != nil {
		return err
	}
	f, err := t.open(index, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	err = t.change("write", index, func() error {
		_, err := f.WriteAt(leaseIndex(m.UUID, time.Now()), int64(m.Alignment))
		return err
	})
	if err == nil {
		err = t.change("sync", index, f.Sync)
	}
	return err
}

// The index of xleases: 512 bytes about itself, and records of 64 bytes, one for each slot of a lease that is not a volume's.
const (
	indexSize   = 62 * 4096
	indexMagic  = 0x12152016
	indexHead   = 512
	indexRecord = 64
)

// leaseIndex is one in which every slot is free.
func leaseIndex(lockspace string, now time.Time) []byte {
	b := make([]byte, indexSize)
	binary.BigEndian.PutUint32(b, indexMagic)
	for at, text := range map[int]string{5: "0001", 10: lockspace, 59: fmt.Sprintf("%010d", now.Unix()), 70: "-", indexHead - 1: "\n"} {
		copy(b[at:], text)
	}
	for at := indexHead; at < indexSize; at += indexRecord {
		copy(b[at+49:], "00000000000\x00--\n")
	}
	return b
}

// HasLeases says whether sanlock guards the domain's volumes.
func (d *Domain) HasLeases() (bool, error) {
	m, err := d.Meta()
	return m.hasLeases(), err
}

// LeaseArea is the volume's sanlock area; nil if the domain's volumes have none. It says nothing about whether it is there.
func (d *Domain) LeaseArea(img, vol string) (*Area, error) {
	if err := checkUUIDs("image", img, "volume", vol); err != nil {
		return nil, err
	}
	m, err := d.Meta()
	if err != nil || !m.hasLeases() {
		return nil, err
	}
	a := m.area(d.t.abs(volumeFile(img, vol)+leaseSuffix), vol, 0)
	return &a, nil
}

// MakeLease makes the file of the volume's sanlock area, empty, if it is missing, and returns the area, which is to be formatted, and
// synced by SetMode, before the volume's metadata makes it visible. nil: the domain's volumes have none. No such image: 268.
func (d *Domain) MakeLease(img, vol string) (*Area, error) {
	if err := d.changeVolume(img, vol); err != nil {
		return nil, err
	}
	a, err := d.LeaseArea(img, vol)
	if err != nil || a == nil {
		return nil, err
	}
	name := volumeFile(img, vol) + leaseSuffix
	switch fi, err := d.t.regular(name); {
	case err != nil:
		return nil, err
	case fi == nil:
		return a, d.t.create(name, nil, 0, dataMode)
	case linkCount(fi) > 1:
		return nil, code.Errorf(code.VolumeAlreadyExists, "%s is the lease of a template; it is not formatted anew", d.t.abs(name))
	}
	return a, nil
}
