package domaincheck

import (
	"path"
	"strings"
)

// inImages looks at one name in images.
func (s *scan) inImages(name string) {
	full := path.Join(imagesDir, name)
	f := s.look(full)
	switch {
	case f == nil: // gone since it was listed
	case !f.mode.IsDir():
		s.stray(f, "")
	case strings.HasPrefix(name, "_remove_me_"):
		found := s.add("removed-image", full, "VDSM was deleting this image when it died.")
		if s.flat(full) {
			found.repair(Fix{Path: full})
		}
	case !isUUID(name):
		s.add("stray-directory", full, "%s is no image's directory.", full)
	default:
		s.image(name, f)
	}
}

// image looks through an image's directory.
func (s *scan) image(id string, dir *file) {
	img := &image{id: id, volumes: map[string]*volume{}}
	s.images[id] = img
	s.permissionsOf(dir, id)
	names := s.list(dir.name)
	for _, name := range names {
		s.inImage(img, name)
	}
	if len(names) == 0 {
		f := s.add("empty-image", dir.name, "Image %s has no volume.", id)
		f.Image = id
		f.repair(Fix{Image: id})
	}
	for _, v := range img.volumes {
		s.volume(v)
	}
}

func (s *scan) permissionsOf(dir *file, img string) {
	n := len(s.report.Findings)
	s.permissions(dir, dirMode)
	for i := n; i < len(s.report.Findings); i++ {
		s.report.Findings[i].Image = img
	}
}

// inImage puts a file to its volume, or says what it is.
func (s *scan) inImage(img *image, name string) {
	f := s.look(path.Join(imagesDir, img.id, name))
	if f == nil {
		return
	}
	id, suffix, _ := strings.Cut(name, ".")
	if f.mode.IsDir() {
		img.others++
		s.add("stray-directory", f.name, "%s is a directory in an image.", f.name).Image = img.id
		return
	}
	if !f.mode.IsRegular() || !isUUID(id) || suffix != "" && suffix != "meta" && suffix != "lease" || strings.HasSuffix(name, ".") {
		img.others++
		s.stray(f, img.id)
		return
	}
	v := img.volumes[id]
	if v == nil {
		v = &volume{image: img.id, id: id}
		img.volumes[id] = v
	}
	switch suffix {
	case "":
		v.data = f
	case "meta":
		v.meta = f
	case "lease":
		v.lease = f
	}
}

// temporary are the ends of names that tools give to files which they have not finished, with the tool.
var temporary = []struct{ suffix, tool string }{
	{".meta.new", "VDSM, while it rewrote a volume's metadata"}, {".volatile", "VDSM, while it made a volume"}, {".artifact", "VDSM, while it made a volume"},
	{".partial", "a download or copy that was cut off"}, {".part", "a download or copy that was cut off"}, {".tmp", "a tool that was cut off"},
	{".temp", "a tool that was cut off"}, {".new", "a tool that was cut off"}, {".bak", "an editor or a person"}, {".orig", "an editor or a person"},
	{"~", "an editor"}, {".swp", "an editor"}, {".rpmsave", "a package manager"}, {".rpmnew", "a package manager"},
}

// stray says what a file is that is no part of a volume.
func (s *scan) stray(f *file, img string) {
	if !f.mode.IsRegular() {
		s.add("not-a-file", f.name, "%s is %s.", f.name, describe(f.mode)).Image = img
		return
	}
	base := path.Base(f.name)
	class, whose := Class("stray-file"), ""
	for _, t := range temporary {
		if strings.HasSuffix(base, t.suffix) {
			class, whose = "leftover", t.tool
			break
		}
	}
	if whose == "" && (strings.HasPrefix(base, "vl.") || strings.HasPrefix(base, ".nfs")) { // QEMU's temporary overlays; NFS's removed files
		class, whose = "leftover", "QEMU's temporary overlays, or NFS for a file that was open when it was removed"
	}
	found := s.add(class, f.name, "%s is no part of a volume.", f.name)
	if whose != "" {
		found.Message = f.name + " is left by " + whose + "."
	}
	found.Image = img
	if !s.locked(f.name) {
		found.repair(Fix{Path: f.name})
	}
}

// locked says whether a program holds a lock on the file.
func (s *scan) locked(name string) bool {
	f, err := s.fsys.Open(name)
	if err != nil {
		return true // what cannot be looked at is not touched
	}
	defer func() { _ = f.Close() }() // it was only read
	return inUse(f)
}
