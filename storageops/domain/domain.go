package domain

import (
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
)

// Domain is one storage domain. A Registry makes it; its methods may be called from many goroutines at once.
//
// Callers hold the image locks of their tasks: two calls that change the same volume at the same time are not expected.
// mu only keeps whole what reaches over images: a template's metadata while it is linked elsewhere, and manifests.
type Domain struct {
	id       string
	rootPath string
	agent    string // our name in manifests and claims
	t        *tree
	log      zerolog.Logger

	claimMu sync.Mutex
	claim   *os.File // nil = opened for reading only
	locks   *os.Root // those of volumes; there as soon as the domain was claimed

	mu sync.Mutex
}

// ID is the domain's UUID.
func (d *Domain) ID() string { return d.id }

// Path is the domain's directory, absolute.
func (d *Domain) Path() string { return d.t.path }

// Info is what StorageDomain.getInfo answers, as far as the domain itself says it. The last three are nil unless the
// domain is a pool's master.
type Info struct {
	UUID       string   `json:"uuid"`
	Type       string   `json:"type"`
	Class      string   `json:"class"`
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	Pool       []string `json:"pool"`
	Version    string   `json:"version"`
	BlockSize  int      `json:"block_size"`
	Alignment  int      `json:"alignment"`
	RemotePath string   `json:"remotePath"`
	LVer       *int     `json:"lver,omitempty"`
	SPMID      *int     `json:"spm_id,omitempty"`
	MasterVer  *int     `json:"master_ver,omitempty"`
}

// Info reads the domain's metadata. Wrong checksum: 752. Damaged: 362.
func (d *Domain) Info() (Info, error) {
	m, err := d.Meta()
	if err != nil {
		return Info{}, err
	}
	i := Info{
		UUID: m.UUID, Type: m.Type, Class: m.Class, Name: m.Name, Role: m.Role, Pool: append([]string{}, m.Pools...),
		Version: strconv.Itoa(m.Version), BlockSize: m.BlockSize, Alignment: m.Alignment, RemotePath: m.RemotePath,
	}
	for key, field := range map[string]**int{"POOL_SPM_LVER": &i.LVer, "POOL_SPM_ID": &i.SPMID, "MASTER_VERSION": &i.MasterVer} {
		if n, err := strconv.Atoi(m.Other[key]); err == nil {
			*field = &n
		}
	}
	return i, nil
}

// Meta reads dom_md/metadata. Wrong checksum: 752. Damaged, or of another domain: 362.
func (d *Domain) Meta() (DomainMeta, error) {
	data, err := d.t.read(metadataFile, 1<<20)
	if err != nil {
		return DomainMeta{}, err
	}
	m, err := ParseDomainMeta(data)
	if err != nil {
		return m, code.Errorf(code.Of(err), "domain %s in %s: %w", d.id, d.rootPath, err)
	}
	if m.UUID != d.id {
		return m, code.Errorf(code.DomainMetadata, "the directory %s holds the metadata of another domain, %s", d.Path(), m.UUID)
	}
	return m, nil
}

// UpdateMeta changes the domain's metadata: f is given what is there, and what it leaves is written if f returns nil.
// The change is whole or did not happen.
func (d *Domain) UpdateMeta(f func(*DomainMeta) error) error {
	if err := d.changeable(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.Meta()
	if err != nil {
		return err
	}
	if err := f(&m); err != nil {
		return err
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return d.t.replace(metadataFile, data)
}

// Stats is the room in the domain's file system, in bytes.
type Stats struct {
	DiskTotal   int64
	DiskFree    int64
	Reclaimable int64 // of the domain's trash; not part of DiskFree
}

// Stats asks the file system and measures the trash.
func (d *Domain) Stats() (Stats, error) {
	fs, err := d.statfs()
	if err != nil {
		return Stats{}, err
	}
	s := Stats{DiskTotal: int64(fs.Blocks) * fs.Frsize, DiskFree: int64(fs.Bavail) * fs.Frsize}
	entries, err := d.Trash().List()
	for _, e := range entries {
		s.Reclaimable += e.Bytes
	}
	return s, err
}

// Free is the room that is left in the domain's file system, in bytes.
func (d *Domain) Free() (int64, error) {
	fs, err := d.statfs()
	return int64(fs.Bavail) * fs.Frsize, err
}

// Writable returns nil if the domain can be changed as far as its file system and its modes go; else 379.
func (d *Domain) Writable() error {
	fs, err := d.statfs()
	if err != nil {
		return err
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return osError(unix.EROFS, "change", d.Path())
	}
	return d.withDir(func(fd int) error {
		for _, dir := range []string{".", imagesDir, mdDir} {
			if err := unix.Faccessat(fd, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
				return osError(err, "change", d.t.abs(dir))
			}
		}
		return nil
	})
}

func (d *Domain) statfs() (st unix.Statfs_t, err error) {
	err = d.withDir(func(fd int) error {
		for {
			if err := unix.Fstatfs(fd, &st); err != unix.EINTR {
				return rootError(err, "ask for the room in", d.Path())
			}
		}
	})
	if st.Frsize == 0 {
		st.Frsize = st.Bsize
	}
	return st, err
}

func (d *Domain) withDir(f func(fd int) error) error {
	dir, err := d.t.root.Open(".")
	if err != nil {
		return rootError(err, "open", d.Path())
	}
	defer dir.Close()
	return f(int(dir.Fd()))
}

// Images returns the UUIDs of the domain's images, sorted. Images that VDSM is deleting are not among them.
func (d *Domain) Images() ([]string, error) {
	names, err := d.t.list(imagesDir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool { return !isUUID(name) }), nil
}

// Volumes returns the UUIDs of the volumes in an image, or with image "" in the whole domain; sorted, each once. A
// template's volume is in its own image and in every image derived from it. No such image: 268.
func (d *Domain) Volumes(image string) ([]string, error) {
	if image != "" {
		return d.volumesOf(image)
	}
	images, err := d.Images()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, img := range images {
		volumes, err := d.volumesOf(img)
		if code.Of(err) == code.ImageDoesNotExist {
			continue // deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		all = append(all, volumes...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (d *Domain) volumesOf(img string) ([]string, error) {
	if err := d.checkImage(img); err != nil {
		return nil, err
	}
	names, err := d.t.list(imageDir(img))
	if notExist(err) {
		return nil, d.noImage(img)
	}
	if err != nil {
		return nil, err
	}
	var volumes []string
	for _, name := range names {
		if vol, ok := isMeta(name); ok && isUUID(vol) {
			volumes = append(volumes, vol)
		}
	}
	return volumes, nil
}

// checkImage returns nil if the image has a directory here, a real one; else 268.
func (d *Domain) checkImage(img string) error {
	if err := checkUUIDs("image", img); err != nil {
		return err
	}
	there, err := d.t.realDir(imageDir(img))
	if err == nil && !there {
		return d.noImage(img)
	}
	return err
}

func (d *Domain) noImage(img string) error {
	return code.Errorf(code.ImageDoesNotExist, "there is no image %s in domain %s", img, d.id)
}

func (d *Domain) noVolume(img, vol string) error {
	return code.Errorf(code.VolumeDoesNotExist, "there is no volume %s in image %s of domain %s", vol, img, d.id)
}
