package domaincheck

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
)

// volume looks at one volume by itself.
func (s *scan) volume(v *volume) {
	s.readMeta(v)
	s.volumePermissions(v)
	s.readHeader(v)
	s.lease(v)
	if v.inUse && !v.told(v.data) {
		s.add("in-use", v.path(), "A program has %s open and locked.", v.path()).of(v)
	}
	if v.m != nil && v.data != nil && !v.told(v.data) {
		s.dataAsMeta(v)
	}
}

// told says whether what is to be said of the file is said of the template whose hard link it is.
func (v *volume) told(f *file) bool { return v.shares && f != nil && f.links > 1 }

// readMeta reads the .meta file and looks at what it says, for itself.
func (s *scan) readMeta(v *volume) {
	if v.meta == nil {
		return
	}
	text, err := s.read(v.meta.name, 64<<10)
	if err != nil {
		s.unreadable(v.meta.name, err)
		return
	}
	v.text = text
	m, err := domain.ParseVolumeMeta(text)
	if err != nil {
		s.add("meta-damaged", v.meta.name, "%s.", capital(err)).of(v)
		return
	}
	v.m, v.shares = &m, m.VolType == domain.Shared && m.Image != v.image
	if v.told(v.meta) {
		return
	}
	if !bytes.Contains(append([]byte("\n"), text...), []byte("\nEOF")) {
		f := s.add("meta-eof", v.meta.name, "%s has no line EOF.", v.meta.name).of(v)
		s.rewrite(f, v, func(*domain.VolumeMeta) {})
	}
	if n := len(bytes.TrimRight(text, "\x00")); n > domain.MaxMetaSize {
		s.add("meta-overflow", v.meta.name, "%s has %d bytes, and at most %d can be written.", v.meta.name, n, domain.MaxMetaSize).of(v)
	}
	for _, w := range []struct {
		key, value string
		known      []string
	}{
		{"FORMAT", m.Format, []string{domain.FormatCOW, domain.FormatRaw}},
		{"LEGALITY", m.Legality, []string{domain.Legal, domain.Illegal, domain.Fake}},
		{"VOLTYPE", m.VolType, []string{domain.Leaf, domain.Internal, domain.Shared}},
		{"TYPE", m.Type, []string{domain.Sparse, domain.Preallocated, "UNKNOWN"}},
	} {
		if !slices.Contains(w.known, w.value) {
			s.add("meta-word", v.meta.name, "%s says %s=%q; it can be %s.", v.meta.name, w.key, w.value, strings.Join(w.known, ", ")).of(v)
		}
	}
	if s.meta != nil && m.Domain != s.meta.UUID {
		f := s.add("meta-domain", v.meta.name, "%s says that it is in domain %s.", v.meta.name, m.Domain).of(v)
		s.rewrite(f, v, func(m *domain.VolumeMeta) { m.Domain = s.meta.UUID })
	}
	switch m.Legality {
	case domain.Fake:
		s.add("fake", v.meta.name, "Volume %s of image %s is a stand-in.", v.id, v.image).of(v)
	case domain.Illegal:
		if task := s.maker(v); task != "" {
			s.unfinished(v, task)
			return
		}
		s.add("illegal", v.meta.name, "Volume %s of image %s is ILLEGAL.", v.id, v.image).of(v)
	}
}

// unfinished offers to move away what a task of VDSM was making.
func (s *scan) unfinished(v *volume, task string) *Finding {
	f := s.add("unfinished", v.path(), "VDSM's task %s was making volume %s of image %s and did not complete it.", task, v.id, v.image).of(v)
	f.repair(Fix{Image: v.image, Volume: v.id})
	return f
}

// rewrite offers a change of the volume's metadata, unless others hold links of it, or nobody could write what comes out.
func (s *scan) rewrite(f *Finding, v *volume, change func(*domain.VolumeMeta)) {
	after := *v.m
	change(&after)
	if _, err := after.Encode(); err != nil || v.meta.links > 1 || v.data == nil || v.data.links > 1 {
		return
	}
	f.repair(Fix{Image: v.image, Volume: v.id, Change: change})
}

// readHeader reads how the data begins, and asks whether somebody has it open.
func (s *scan) readHeader(v *volume) {
	if v.data == nil {
		return
	}
	f, err := s.fsys.Open(v.data.name)
	if err != nil {
		s.unreadable(v.data.name, err)
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	v.inUse = inUse(f)
	at, ok := f.(io.ReaderAt)
	if !ok {
		return
	}
	h, err := qemuimg.Peek(at)
	if v.m == nil || v.told(v.data) {
		if err == nil {
			v.header = &h
		}
		return
	}
	switch raw := v.m.Format == domain.FormatRaw; {
	case raw && err == nil:
		s.add("format-suspect", v.path(), "The metadata of %s says RAW, and the file begins as a qcow2 image of %d bytes.", v.path(), h.VirtualSize).of(v)
	case raw:
	case errors.Is(err, qemuimg.ErrNotQCOW2):
		s.add("format", v.path(), "The metadata of %s says COW, and the file is no qcow2 image.", v.path()).of(v)
	case err != nil:
		s.add("header", v.path(), "The header of %s is damaged: %v.", v.path(), err).of(v)
	case h.Refused != "":
		s.add("header", v.path(), "The header of %s is refused: %s.", v.path(), h.Refused).of(v)
	default:
		v.header = &h
		if h.Corrupt {
			s.add("corrupt-flag", v.path(), "QEMU has marked %s corrupt.", v.path()).of(v)
		}
	}
}

// dataAsMeta compares the size of the data with the metadata.
func (s *scan) dataAsMeta(v *volume) {
	size := v.data.size
	switch {
	case v.header != nil && v.m.Format == domain.FormatCOW:
		size = v.header.VirtualSize
	case v.m.Format != domain.FormatRaw:
		return
	}
	switch {
	case v.m.Legality == domain.Fake:
	case size < v.m.Capacity:
		s.add("cut-short", v.path(), "The image %s has %d bytes, its metadata says %d.", v.path(), size, v.m.Capacity).of(v)
		return
	case size > v.m.Capacity:
		f := s.add("capacity", v.meta.name, "The image %s has %d bytes, its metadata says %d.", v.path(), size, v.m.Capacity).of(v)
		s.rewrite(f, v, func(m *domain.VolumeMeta) { m.Capacity = size })
	}
	v.clean = v.header != nil && !v.header.Corrupt
	if v.m.Format == domain.FormatRaw && v.m.Type == domain.Preallocated && v.data.blocks < v.data.size {
		s.add("not-allocated", v.path(), "The preallocated volume %s has %d bytes, of which %d are allocated.", v.path(), v.data.size, v.data.blocks).of(v)
	}
}

// lease looks at the volume's lease file.
func (s *scan) lease(v *volume) {
	has, known := s.hasLeases()
	switch {
	case !known:
	case v.lease != nil && v.data == nil && v.meta == nil:
		s.add("orphan-lease", v.lease.name, "%s is the lease of a volume that is not there.", v.lease.name).of(v).repair(Fix{Path: v.lease.name})
	case v.lease != nil && !has:
		f := s.add("lease-on-local", v.lease.name, "%s is a lease, and domains of type %s have none.", v.lease.name, s.meta.Type).of(v)
		if v.lease.links == 1 {
			f.repair(Fix{Path: v.lease.name})
		}
	case !has || v.meta == nil || v.data == nil:
	case v.lease == nil:
		s.add("lease-missing", v.path()+".lease", "Volume %s has no lease: '%s'.", v.id, s.makeLease(v)).of(v)
	case v.lease.size != int64(s.meta.Alignment):
		s.add("lease-size", v.lease.name, "%s has %d bytes and should have %d: '%s'.", v.lease.name, v.lease.size, s.meta.Alignment, s.makeLease(v)).of(v)
	}
}

// makeLease is the command that makes a lease without sanlock's daemon.
func (s *scan) makeLease(v *volume) string {
	file := strings.TrimSuffix(s.o.Path, "/") + "/" + v.path() + ".lease"
	sector := map[int]string{512: "512", 4096: "4K"}[s.meta.BlockSize]
	return "truncate -s 0 " + file + "; sanlock direct init -Z " + sector + " -A " + mib(s.meta.Alignment) + " -r " + s.meta.UUID + ":" + v.id + ":" + file + ":0"
}
