package storageops

import (
	"context"
	"errors"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/domaincheck"
)

// domains is what the verbs need of the storage domains of this host; a *domain.Registry has them.
type domains interface {
	// List returns the ids of the domains that can be seen now, sorted.
	List() []string
	// Get returns a domain to change, claimed for this agent: 358, 379, 651 if it cannot be had now. While its file system hangs it
	// does not return: a task that meets that is neither failed nor undone, as little as by any other call that hangs.
	Get(id string) (storageDomain, error)
	// GetNow is Get that answers 379 for a file system that hangs.
	GetNow(id string) (storageDomain, error)
}

// storageDomain is what the verbs need of a storage domain; *domain.Domain says what each answers.
//
// What changes it is on stable storage when nil is returned. It may die at any line, or fail: repeating it, or its inverse,
// then comes to the same end as if it had not. In between an observer may see each of its parts, in the order that is
// given here; a part that is a single rename is there or not.
type storageDomain interface {
	ID() string
	Writable() error
	Free() (int64, error)

	// What follows only reads. 268: no such image. 201: no such volume. 207: its metadata is damaged.

	Volumes(image string) ([]string, error)
	ImagePath(image string) (string, error)
	VolumePath(image, volume string) (string, error)
	ReadVolume(image, volume string) (domain.VolumeMeta, error)
	Chain(image, leaf string) ([]domain.ChainLink, error)
	Children(image, volume string) ([]string, error)
	SharedBy(image, volume string) ([]string, error)
	Fingerprint(image, volume string) (domain.Fingerprint, error)
	// Examine looks at everything in the domain; see domaincheck.Check. It fills in where the domain is, and who should own it.
	Examine(ctx context.Context, o domaincheck.Options) (*domaincheck.Report, error)
	MetaText(image, volume string) ([]byte, error)
	Share(fromImage, volume, image string) (domain.Share, error)
	Permissions(name string) (domain.Permissions, error)

	// HasLeases says whether the domain's volumes have sanlock areas.
	HasLeases() (bool, error)

	// CreateImageDir makes the directory, one that is there already is no error. Its inverse is RemoveImageDirIfEmpty.
	CreateImageDir(image string) (created bool, err error)
	// RemoveImageDirIfEmpty leaves a directory that is not empty. One that is gone is no error.
	RemoveImageDirIfEmpty(image string) error
	// MakeLease makes the file of the volume's sanlock area, one that is there already is no error; nil if they have none. It is on
	// stable storage when SetMode was called. It goes to the trash, and into images derived from a template, with the volume.
	MakeLease(image, volume string) (*domain.Area, error)
	// SetMode gives the data file, and the lease's if there is one, a volume's mode, and puts the file as it is now and its name on
	// stable storage.
	SetMode(image, volume string) error
	// WriteVolumeMeta replaces the metadata by one rename. In the images that hold hard links of the volume it is replaced
	// after that, image by image; each write mends what one that died left of that.
	WriteVolumeMeta(image, volume string, m domain.VolumeMeta) error
	// UpdateVolumeMeta reads, calls change, and writes; if change answers an error, nothing is written.
	UpdateVolumeMeta(image, volume string, change func(*domain.VolumeMeta) error) error
	// ShareTemplate makes hard links of the volume's files in the other image, the data file first, the metadata, which makes
	// it visible, last. Links that are there are no error. Its inverse is UnshareTemplate.
	ShareTemplate(fromImage, volume, image string) error
	// UnshareTemplate removes the links, the metadata first. Those that are gone are no error.
	UnshareTemplate(fromImage, volume, image string) error

	// SetMetaText replaces the metadata by one rename, whatever the text is; hard links of it elsewhere are cut off.
	SetMetaText(image, volume string, text []byte) error
	// SetShare is the inverse of ShareTemplate where there was something before: metadata of its own is written first, then links
	// that were not there are removed, the metadata first.
	SetShare(fromImage, volume, image string, was domain.Share) error
	// SetPermissions sets the owner, then the mode.
	SetPermissions(name string, p domain.Permissions) error

	Trash() trash
}

// trash is what the verbs need of a domain's trash; *domain.Trash says what each answers. Of its changes the same holds as of
// a storageDomain's. The calls for one task come one after the other.
type trash interface {
	Has(task string) (bool, error)
	List() ([]domain.TrashEntry, error)
	Manifest(task string) (domain.Manifest, error)
	Data(task string) ([]string, error)

	// Put writes into the task's manifest what goes, and when that is on stable storage renames each file of the volume, the
	// metadata first, or the image's whole directory. What has moved already is no error. Its inverse is Restore.
	Put(e domain.Entry) error
	// Restore links each file back, the metadata last, and when that is on stable storage removes it from the trash, then
	// the manifest. Nothing there is no error. After Remove has begun it is refused (410).
	Restore(task string, only func(domain.Item) bool) error
	// Remove destroys: from its first change on, one rename, nothing comes back. It goes in pieces of well under 100 ms and
	// returns between two of them when ctx ends. Nothing there is no error.
	Remove(ctx context.Context, task string, progress func(freed int64)) error
}

// registry is the domains as they are on disk.
type registry struct{ *domain.Registry }

func (r registry) Get(id string) (storageDomain, error) {
	d, err := r.patiently(id)
	if err != nil {
		return nil, err
	}
	return onDisk{d}, nil
}

// patiently waits as long as the domain's file system hangs.
func (r registry) patiently(id string) (*domain.Domain, error) {
	for {
		d, err := r.Registry.Get(id)
		var hangs *domain.NoAnswerError
		if !errors.As(err, &hangs) {
			return d, err
		}
		<-hangs.Over()
	}
}

func (r registry) GetNow(id string) (storageDomain, error) {
	d, err := r.Registry.Get(id)
	if err != nil {
		return nil, err
	}
	return onDisk{d}, nil
}

// onDisk is one of them.
type onDisk struct{ *domain.Domain }

func (d onDisk) Trash() trash { return d.Domain.Trash() }

func (d onDisk) Examine(ctx context.Context, o domaincheck.Options) (*domaincheck.Report, error) {
	root, err := domaincheck.Dir(d.Path())
	if err != nil {
		return nil, code.Errorf(code.DomainAccess, "domain %s cannot be looked at: %w", d.ID(), err)
	}
	defer root.Close()
	o.Path = d.Path()
	if owner := d.Owner(); owner.UID >= 0 {
		o.Owner = &owner
	}
	return domaincheck.Check(ctx, root.FS(), o)
}
