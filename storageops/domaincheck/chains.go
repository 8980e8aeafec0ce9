package domaincheck

import (
	"maps"
	"path"
	"slices"
	"strconv"

	"vdsm-agent/storageops/domain"
)

func mib(bytes int) string { return strconv.Itoa(bytes>>20) + "M" }

// compareImages compares volumes with one another: shares first, then what is whole, then the chains.
func (s *scan) compareImages() {
	byVolume := map[string][]*volume{}
	for _, img := range slices.Sorted(maps.Keys(s.images)) {
		for _, vol := range slices.Sorted(maps.Keys(s.images[img].volumes)) {
			byVolume[vol] = append(byVolume[vol], s.images[img].volumes[vol])
		}
	}
	for _, vol := range slices.Sorted(maps.Keys(byVolume)) {
		s.shares(byVolume[vol])
	}
	for _, id := range slices.Sorted(maps.Keys(s.images)) {
		img := s.images[id]
		s.whole(img)
		for _, vol := range slices.Sorted(maps.Keys(img.volumes)) {
			if v := img.volumes[vol]; v.m != nil {
				s.chain(img, v, byVolume)
			}
		}
	}
}

// shares looks at all volumes of one name: a template with its links, or one volume.
func (s *scan) shares(all []*volume) {
	for _, v := range all {
		if v.m == nil || v.m.Image == v.image {
			continue
		}
		if !v.shares {
			f := s.add("meta-image", v.meta.name, "%s says that it is in image %s.", v.meta.name, v.m.Image).of(v)
			s.rewrite(f, v, func(m *domain.VolumeMeta) { m.Image = v.image })
			continue
		}
		i := slices.IndexFunc(all, func(o *volume) bool { return o.image == v.m.Image })
		if i < 0 || all[i].data == nil {
			s.add("template-gone", v.path(), "Volume %s is the template of image %s, which is not there.", v.path(), v.m.Image).of(v)
			continue
		}
		s.share(all[i], v)
	}
	s.duplicates(all)
}

// share compares a template's volume with its link in a derived image.
func (s *scan) share(own, v *volume) {
	switch {
	case v.data == nil: // what is based on it says so
	case !v.data.same(own.data):
		s.add("share-data-cut", v.path(), "%s is no hard link of the template %s.", v.path(), own.path()).of(v)
	case !v.meta.same(own.meta) && own.m != nil:
		f := s.add("share-meta-cut", v.meta.name, "%s is no hard link of the template's metadata %s.", v.meta.name, own.meta.name).of(v)
		f.repair(Fix{Image: v.image, Volume: v.id, Template: own.image})
	}
}

// duplicates finds volumes of one name that are neither a template nor its links.
func (s *scan) duplicates(all []*volume) {
	for i, v := range all {
		for _, o := range all[:i] {
			if v.data == nil || o.data == nil || v.data.same(o.data) || v.shares || o.shares {
				continue
			}
			s.add("duplicate", v.path(), "%s and %s are different volumes of one id.", v.path(), o.path()).of(v)
			return
		}
	}
}

// whole finds volumes of which a part is missing.
func (s *scan) whole(img *image) {
	own := 0
	for _, vol := range slices.Sorted(maps.Keys(img.volumes)) {
		v := img.volumes[vol]
		if !v.shares {
			own++
		}
		switch {
		case v.data != nil && v.meta == nil:
			s.orphanData(img, v)
		case v.meta != nil && v.data == nil && (v.m == nil || v.m.Legality != domain.Fake) && !v.shares:
			f := s.add("orphan-meta", v.meta.name, "%s describes a volume whose data is not there.", v.meta.name).of(v)
			if len(s.basedOn(img, v)) == 0 {
				f.repair(Fix{Image: v.image, Volume: v.id})
			}
		}
	}
	if own == 0 && len(img.volumes) > 0 && img.others == 0 {
		f := s.add("unused-share", path.Join(imagesDir, img.id), "Image %s has only links of a template.", img.id)
		f.Image = img.id
		if s.sharesWhole(img) {
			f.repair(Fix{Image: img.id})
		}
	}
}

// sharesWhole says whether all in the image is there by another name too.
func (s *scan) sharesWhole(img *image) bool {
	for _, v := range img.volumes {
		if !s.spare(v) {
			return false
		}
	}
	return true
}

// spare says whether a volume is a link of a template that is whole elsewhere.
func (s *scan) spare(v *volume) bool {
	return v.shares && v.data != nil && v.data.links > 1 && s.images[v.m.Image] != nil
}

func (s *scan) orphanData(img *image, v *volume) {
	if task := s.maker(v); task != "" && len(s.basedOn(img, v)) == 0 {
		s.weigh(s.unfinished(v, task), img, v, false)
		return
	}
	what := "no qcow2 image"
	if v.header != nil {
		what = "a qcow2 image of " + strconv.FormatInt(v.header.VirtualSize, 10) + " bytes"
	}
	f := s.add("orphan-data", v.path(), "%s has no metadata; it is %s and takes %d bytes.", v.path(), what, v.data.blocks).of(v)
	if len(s.basedOn(img, v)) == 0 {
		f.repair(Fix{Image: v.image, Volume: v.id})
	}
}

// basedOn are the volumes of the image that need v: by their metadata, or by their image's header.
func (s *scan) basedOn(img *image, v *volume) (out []*volume) {
	for _, vol := range slices.Sorted(maps.Keys(img.volumes)) {
		o := img.volumes[vol]
		if o != v && (o.m != nil && o.m.PUUID == v.id || o.header != nil && path.Base(o.header.Backing) == v.id) {
			out = append(out, o)
		}
	}
	return out
}

// chain looks at a volume's place among the others.
func (s *scan) chain(img *image, v *volume, byVolume map[string][]*volume) {
	children := s.basedOn(img, v)
	if f := s.report.Find("unfinished", v.path()); f != nil {
		s.weigh(f, img, v, len(children) > 0)
	}
	if v.shares {
		return
	}
	s.place(v, children)
	if !v.m.HasParent() {
		s.backing(v, nil)
		return
	}
	parent := img.volumes[v.m.PUUID]
	switch {
	case parent == nil || parent.data == nil || parent.meta == nil:
		s.noParent(v, byVolume)
	case s.loops(img, v):
		s.add("chain-loop", v.meta.name, "The parents of %s lead back to it.", v.path()).of(v)
	case parent.m != nil:
		s.backing(v, parent)
		if v.m.Capacity < parent.m.Capacity {
			s.add("smaller-than-parent", v.meta.name, "%s has %d bytes, its parent %d.", v.path(), v.m.Capacity, parent.m.Capacity).of(v)
		}
	}
}

// weigh withdraws the repair of an unfinished volume that others need, and lets the image go with it where nothing else is in it but
// links of its template.
func (s *scan) weigh(f *Finding, img *image, v *volume, needed bool) {
	if needed {
		f.Fix, f.Repair = nil, ""
		return
	}
	for _, o := range img.volumes {
		if o != v && !s.spare(o) {
			return
		}
	}
	if img.others == 0 && f.Fix != nil {
		f.Fix.Volume = ""
	}
}

// place compares VOLTYPE with what is based on the volume.
func (s *scan) place(v *volume, children []*volume) {
	want := domain.Leaf
	if len(children) > 0 {
		want = domain.Internal
	}
	if v.m.VolType == want || v.m.VolType != domain.Leaf && v.m.VolType != domain.Internal {
		return
	}
	f := s.add("voltype", v.meta.name, "%s says %s, and %d volumes are based on it.", v.meta.name, v.m.VolType, len(children)).of(v)
	s.rewrite(f, v, func(m *domain.VolumeMeta) { m.VolType = want })
}

// noParent says what is known of a parent that is missing.
func (s *scan) noParent(v *volume, byVolume map[string][]*volume) {
	for _, o := range byVolume[v.m.PUUID] {
		if o.m != nil && o.m.VolType == domain.Shared && o.m.Image == o.image && o.data != nil {
			f := s.add("share-missing", v.path(), "%s is based on the template %s, which is not linked into its image.", v.path(), o.path()).of(v)
			f.repair(Fix{Image: v.image, Volume: o.id, Template: o.image})
			return
		}
	}
	s.add("parent-missing", v.meta.name, "The parent %s of %s is not there, or not whole.", v.m.PUUID, v.path()).of(v)
}

// loops says whether the parents of v lead back to v.
func (s *scan) loops(img *image, v *volume) bool {
	seen := map[string]bool{}
	for at := v; at != nil && at.m != nil && at.m.HasParent() && !seen[at.id]; at = img.volumes[at.m.PUUID] {
		seen[at.id] = true
		if at.m.PUUID == v.id {
			return true
		}
	}
	return false
}

// backing compares what the image's header names with the metadata.
func (s *scan) backing(v, parent *volume) {
	if v.m.Format == domain.FormatRaw && parent != nil && v.m.Legality != domain.Fake {
		s.add("backing", v.path(), "%s is RAW, so it cannot have the parent %s that its metadata names.", v.path(), parent.id).of(v)
	}
	if v.header == nil || v.m.Format != domain.FormatCOW {
		return
	}
	want := ""
	if parent != nil {
		want = parent.id
	}
	have := v.header.Backing
	named := have == want || parent != nil && have == "../"+v.image+"/"+want || parent != nil && parent.shares && have == "../"+parent.m.Image+"/"+want
	switch {
	case !named:
		v.clean = false
		s.add("backing", v.path(), "%s names the backing file %q, its metadata the parent %q.", v.path(), have, want).of(v)
	case parent != nil && v.header.BackingFormat != map[string]string{domain.FormatCOW: "qcow2", domain.FormatRaw: "raw"}[parent.m.Format]:
		v.clean = v.clean && v.header.BackingFormat == ""
		s.add("backing-format", v.path(), "%s says %q of the format of its backing file, whose metadata says %s.", v.path(), v.header.BackingFormat, parent.m.Format).of(v)
	}
}
