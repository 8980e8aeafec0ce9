package domaincheck

import (
	"io/fs"

	"vdsm-agent/storageops/domain"
)

// Fix is how a finding is repaired. Which fields count depends on the action.
type Fix struct {
	Action Action

	// Trash: a whole image, a volume with all of its files, or the one file or directory Path.
	Image, Volume, Path string

	// Rewrite: what is changed in the metadata of Volume in Image.
	Change func(*domain.VolumeMeta)

	// Link: the image that the template Volume belongs to.
	Template string

	// Permissions: what Path gets.
	Mode     fs.FileMode
	UID, GID int
}
