package domain

import (
	"fmt"
	"os"

	"vdsm-agent/internal/code"
)

// Fingerprint tells whether somebody used or changed a volume since it was taken: writes move size and mtime, and
// whatever else (a mode, a hard link: a template that was shared, a replacement) moves ctime or the inode. It can be
// stored as JSON and compared with ==.
type Fingerprint struct {
	Data FileStamp `json:"data"`
	Meta FileStamp `json:"meta"`
}

// FileStamp is what a Fingerprint holds of one file.
type FileStamp struct {
	Size  int64  `json:"size"`  // bytes
	MTime int64  `json:"mtime"` // nanoseconds since 1970
	CTime int64  `json:"ctime"` // nanoseconds since 1970
	Inode uint64 `json:"inode"`
}

// Fingerprint takes the volume's. No such image: 268. Its data file or its metadata is missing: 201.
func (d *Domain) Fingerprint(img, vol string) (Fingerprint, error) {
	files, err := d.volumeFiles(img, vol)
	if err != nil {
		return Fingerprint{}, err
	}
	if files[""] == nil || files[metaSuffix] == nil {
		return Fingerprint{}, code.Errorf(code.VolumeDoesNotExist, "volume %s in image %s of domain %s is not whole: "+
			"data file there: %t, metadata there: %t", vol, img, d.id, files[""] != nil, files[metaSuffix] != nil)
	}
	return Fingerprint{Data: stamp(files[""]), Meta: stamp(files[metaSuffix])}, nil
}

// Differs returns "" if nothing happened between f and now, else what did first, for a sentence.
func (f Fingerprint) Differs(now Fingerprint) string {
	if s := f.Data.differs(now.Data); s != "" {
		return "its data file " + s
	}
	if s := f.Meta.differs(now.Meta); s != "" {
		return "its metadata " + s
	}
	return ""
}

func (s FileStamp) differs(now FileStamp) string {
	switch {
	case s.Inode != now.Inode:
		return "was replaced"
	case s.Size != now.Size:
		return fmt.Sprintf("had %d bytes and has %d", s.Size, now.Size)
	case s.MTime != now.MTime:
		return "was written"
	case s.CTime != now.CTime:
		return "was changed (mode, owner or links)"
	}
	return ""
}

func stamp(fi os.FileInfo) FileStamp {
	st := sysStat(fi)
	return FileStamp{Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(), Inode: st.Ino}
}
