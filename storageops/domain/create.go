package domain

import (
	"cmp"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// The types of domains that can be created and claimed: in a directory of this host, on NFS, and on any other file system that is mounted.
const (
	TypeLocalFS = "LOCALFS"
	TypeNFS     = "NFS"
	TypePosixFS = "POSIXFS"
)

// Types are all of them.
var Types = []string{TypeLocalFS, TypeNFS, TypePosixFS}

// createPrefix starts the name of a domain that is being created: no UUID, so that VDSM does not see it.
const createPrefix = ".vdsm-agent.create-"

// mailboxSize is the size of inbox and outbox, for as many hosts as sanlock can count.
const mailboxSize = 16 << 20

// CreateSpec is what StorageDomain.create is asked for, in words.
type CreateSpec struct {
	UUID      string
	Path      string // the root
	Remote    string // what is mounted there; "" = Path
	Name      string
	Type      string // one of Types
	Class     string // Data, Iso, Backup
	Version   int    // Version
	BlockSize int    // 512, 4096, 0 = what the file system needs for direct I/O
	MaxHosts  int    // 1…2000, 0 = 2000
	// Format writes a sanlock area. It is not called for TypeLocalFS.
	Format func(Area) error
}

// Create makes a domain in the root spec.Path, and claims it. It appears whole, under its own name, or not at all.
//
//   - The UUID exists in any root: 365. That is also the answer when a create that died had come to its end.
//   - The root is not one of Roots, or cannot be read or written: 379. No room: 397.
//   - Version: 394. Type: 372. Anything else that cannot be: 1000.
func (r *Registry) Create(spec CreateSpec) (*Domain, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := r.create(spec); err != nil {
		return nil, err
	}
	return r.Get(spec.UUID)
}

func (s *CreateSpec) check() error {
	if err := checkUUIDs("storage domain", s.UUID); err != nil {
		return err
	}
	if s.MaxHosts == 0 {
		s.MaxHosts = 2000
	}
	s.Path = filepath.Clean(s.Path)
	s.Remote = cmp.Or(s.Remote, s.Path)
	switch {
	case s.Version != Version:
		return code.Errorf(code.UnsupportedVersion, "storage domains of version %d cannot be created; version %d is supported",
			s.Version, Version)
	case !slices.Contains(Types, s.Type):
		return code.Errorf(code.DomainType, "storage domains of type %s cannot be created; %s are supported", s.Type, strings.Join(Types, ", "))
	case s.Type != TypeLocalFS && s.Format == nil:
		return code.Errorf(code.InternalError, "nobody has said how the leases of domain %s are made", s.UUID)
	case s.Class != "Data" && s.Class != "Iso" && s.Class != "Backup":
		return code.Errorf(code.InvalidParameter, "the class of a storage domain must be Data, Iso or Backup, not %q", s.Class)
	case s.BlockSize != 0 && s.BlockSize != 512 && s.BlockSize != 4096:
		return code.Errorf(code.InvalidParameter, "the block size of a storage domain must be 0, 512 or 4096, not %d", s.BlockSize)
	case s.MaxHosts < 1 || s.MaxHosts > 2000:
		return code.Errorf(code.InvalidParameter, "a storage domain can be for 1 to 2000 hosts, not %d", s.MaxHosts)
	}
	return nil
}

func (r *Registry) create(spec CreateSpec) error {
	defer r.changing.lock(spec.Path)()
	if err := r.isRoot(spec.Path); err != nil {
		return err
	}
	if root, err := r.find(spec.UUID); err == nil || code.Of(err) == code.DomainLayout {
		return code.Errorf(code.DomainAlreadyExists, "storage domain %s exists already (%s)", spec.UUID, root)
	}
	if err := r.cleanRoot(spec.Path); err != nil {
		return err
	}
	t, err := r.rootTree(spec.Path)
	if err != nil {
		return err
	}
	defer t.root.Close()
	if _, err := t.lstat(spec.UUID); !notExist(err) {
		return errors.Join(err, code.Errorf(code.DomainAlreadyExists, "there is a %s already; it is no domain, remove it by hand",
			t.abs(spec.UUID)))
	}
	tmp := createPrefix + spec.UUID
	if err := t.mkdir(tmp, dirMode); err != nil {
		return err
	}
	lock, err := lockDir(t, tmp) // so that another agent does not take it for a leftover
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := spec.layOut(t, tmp); err != nil {
		return err
	}
	if err := t.rename(tmp, spec.UUID); err != nil {
		return err
	}
	return t.sync(".")
}

func (r *Registry) isRoot(path string) error {
	roots, err := r.Roots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if root.Path == path {
			return root.Err
		}
	}
	return code.Errorf(code.DomainAccess, "%s is not connected; connect it first (StoragePool.connectStorageServer)", path)
}

// layOut fills the directory of a new domain and syncs all of it.
func (s CreateSpec) layOut(t *tree, dir string) error {
	md, images := path.Join(dir, mdDir), path.Join(dir, imagesDir)
	for _, d := range []string{md, images} {
		if err := t.mkdir(d, dirMode); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		size int64
	}{{"ids", 0}, {"leases", 0}, {"inbox", mailboxSize}, {"outbox", mailboxSize}} {
		if err := t.create(path.Join(md, f.name), nil, f.size, dataMode); err != nil {
			return err
		}
	}
	blockSize := s.BlockSize
	if blockSize == 0 {
		var err error
		if blockSize, err = directBlockSize(t, path.Join(md, "ids")); err != nil {
			return err
		}
	}
	meta := DomainMeta{
		UUID: s.UUID, Name: s.Name, Type: s.Type, Class: s.Class, Role: RoleRegular, Version: s.Version, RemotePath: s.Remote,
		BlockSize: blockSize, Alignment: alignment(blockSize, s.MaxHosts),
		Other: map[string]string{
			"IOOPTIMEOUTSEC": "10", "LEASERETRIES": "3", "LEASETIMESEC": "60", "LOCKRENEWALINTERVALSEC": "5", "LOCKPOLICY": "",
		},
	}
	if meta.hasLeases() {
		if err := s.layOutLeases(t, md, meta); err != nil {
			return err
		}
	}
	data, err := meta.Encode()
	if err != nil {
		return err
	}
	if err := t.create(path.Join(md, "metadata"), data, 0, metaMode); err != nil {
		return err
	}
	return t.sync(md, images, dir)
}

// directBlockSize is the unit of direct I/O of the file system that holds name: 512 or 4096.
func directBlockSize(t *tree, name string) (int, error) {
	f, err := t.open(name, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil {
		return 0, osError(err, "ask for the block size of", t.abs(name))
	}
	// Kernels before 6.1 and file systems without direct I/O do not say; all of those take 512.
	if st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align > 512 {
		return 4096, nil
	}
	return 512, nil
}

// alignment is the room of one sanlock area for so many hosts, in bytes.
func alignment(blockSize, maxHosts int) int {
	const mib = 1 << 20
	switch {
	case blockSize == 512 || maxHosts <= 250:
		return mib
	case maxHosts <= 500:
		return 2 * mib
	case maxHosts <= 1000:
		return 4 * mib
	}
	return 8 * mib
}

// cleanRoot removes what creates that died left in the root.
func (r *Registry) cleanRoot(path string) error {
	t, err := r.rootTree(path)
	if err != nil {
		return err
	}
	defer t.root.Close()
	names, err := t.list(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, createPrefix) {
			continue
		}
		lock, err := lockDir(t, name)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // another agent is creating it now
		}
		if err == nil {
			err = t.removeAll(name)
			lock.Close()
		}
		if err != nil {
			return err
		}
		r.o.Log.Info().Str("path", t.abs(name)).Msg("removed what a create that died had left")
	}
	return nil
}

func (r *Registry) rootTree(path string) (*tree, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, rootError(err, "open", path)
	}
	return &tree{root: root, path: path, owner: r.o.Owner, step: r.step}, nil
}

func lockDir(t *tree, name string) (*os.File, error) {
	dir, err := t.root.Open(name)
	if err == nil {
		if err = tryLock(dir); err != nil {
			dir.Close()
		}
	}
	if err != nil {
		return nil, osError(err, "lock", t.abs(name))
	}
	return dir, nil
}
