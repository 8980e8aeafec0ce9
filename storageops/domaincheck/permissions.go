package domaincheck

import "io/fs"

// Modes that VDSM gives.
const (
	dirMode  fs.FileMode = 0o755
	metaMode fs.FileMode = 0o644
	dataMode fs.FileMode = 0o660
)

const others = 0o002 // may write

// permissions looks at mode and owner. A mode is wrong only where it keeps out who must get in, or lets others write: umasks and
// versions differ in the rest.
func (s *scan) permissions(f *file, want fs.FileMode) {
	have := f.mode.Perm()
	fix := Fix{Path: f.name, Mode: have, UID: int(f.uid), GID: int(f.gid)}
	if have&want != want || have&others != 0 {
		fix.Mode = want
		s.add("mode", f.name, "%s has the mode %04o and should have %04o.", f.name, have, want).repair(fix)
	}
	if o := s.owner; o != nil && (o.UID >= 0 && int(f.uid) != o.UID || o.GID >= 0 && int(f.gid) != o.GID) {
		fix.Mode, fix.UID, fix.GID = have, o.UID, o.GID
		s.add("owner", f.name, "%s belongs to %d:%d and should to %d:%d.", f.name, f.uid, f.gid, o.UID, o.GID).repair(fix)
	}
}

// volumePermissions is permissions for the files of a volume. One without metadata has greater troubles.
func (s *scan) volumePermissions(v *volume) {
	if v.meta == nil {
		return
	}
	for _, f := range []*file{v.data, v.meta, v.lease} {
		if f == nil || v.told(f) {
			continue
		}
		want := dataMode
		if f == v.meta {
			want = metaMode
		}
		n := len(s.report.Findings)
		s.permissions(f, want)
		for i := n; i < len(s.report.Findings); i++ {
			s.report.Findings[i].of(v)
		}
	}
}
