package domain

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
)

// What repairs need besides the usual changes: to put something exactly as it is to be, and exactly back as it was.

// Owner is the user and group that what is created gets; -1 = those of the agent.
func (d *Domain) Owner() Owner { return d.t.owner }

// MetaText returns the .meta file as it is. No such image: 268. No such file: 201.
func (d *Domain) MetaText(img, vol string) ([]byte, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return nil, err
	}
	if err := d.checkImage(img); err != nil {
		return nil, err
	}
	text, err := d.t.read(metaFile(img, vol), maxMetaRead)
	if notExist(err) {
		err = d.noVolume(img, vol)
	}
	return text, err
}

// SetMetaText writes the .meta file, whole or not at all, whatever the text is. Hard links of a template are cut by it.
func (d *Domain) SetMetaText(img, vol string, text []byte) error {
	if err := d.changeVolume(img, vol); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.t.replace(metaFile(img, vol), text)
}

// Share is what an image has of a template's volume.
type Share struct {
	Data   bool   `json:"data,omitempty"`
	Lease  bool   `json:"lease,omitempty"`
	Linked bool   `json:"linked,omitempty"` // its metadata is the template's
	Own    []byte `json:"own,omitempty"`    // the text of metadata of its own; nil = none
}

// Share returns what the image img has of the template's volume. No such image, either of them: 268.
func (d *Domain) Share(tmplImg, tmplVol, img string) (s Share, err error) {
	from, err := d.volumeFiles(tmplImg, tmplVol)
	if err != nil {
		return s, err
	}
	to, err := d.volumeFiles(img, tmplVol)
	if err != nil {
		return s, err
	}
	s.Data, s.Lease = to[""] != nil, to[leaseSuffix] != nil
	meta := to[metaSuffix]
	s.Linked = meta != nil && from[metaSuffix] != nil && os.SameFile(meta, from[metaSuffix])
	if meta != nil && !s.Linked {
		s.Own, err = d.MetaText(img, tmplVol)
	}
	return s, err
}

// SetShare takes back what ShareTemplate has done: of the template's links in img stays what was says, and metadata of its own is
// written again. It removes nothing but links of the template. Repeating it is no error.
func (d *Domain) SetShare(tmplImg, tmplVol, img string, was Share) error {
	if err := d.changeVolume(img, tmplVol); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	from, err := d.volumeFiles(tmplImg, tmplVol)
	if err != nil {
		return err
	}
	to, err := d.volumeFiles(img, tmplVol)
	if err != nil {
		return err
	}
	linked := func(suffix string) bool {
		return to[suffix] != nil && from[suffix] != nil && os.SameFile(to[suffix], from[suffix])
	}
	if was.Own != nil && linked(metaSuffix) {
		if err := d.t.replace(metaFile(img, tmplVol), was.Own); err != nil {
			return err
		}
	}
	stays := map[string]bool{"": was.Data, leaseSuffix: was.Lease, metaSuffix: was.Linked || was.Own != nil}
	for _, suffix := range slices.Backward(volumeSuffixes) {
		if !stays[suffix] && linked(suffix) {
			if err := d.t.remove(volumeFile(img, tmplVol) + suffix); err != nil {
				return err
			}
		}
	}
	return d.t.sync(imageDir(img))
}

// Permissions are the mode and owner of a file or directory.
type Permissions struct {
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
}

// Permissions returns those of a path in the domain. Nothing there: 201. Neither a file nor a directory: 371.
func (d *Domain) Permissions(name string) (Permissions, error) {
	fi, err := d.permitted(name)
	if err != nil {
		return Permissions{}, err
	}
	st := sysStat(fi)
	return Permissions{fi.Mode().Perm(), int(st.Uid), int(st.Gid)}, nil
}

// SetPermissions gives them to a path in the domain, on stable storage.
func (d *Domain) SetPermissions(name string, p Permissions) error {
	if err := d.changeable(); err != nil {
		return err
	}
	fi, err := d.permitted(name)
	if err != nil {
		return err
	}
	if err := d.t.setModeOwner(name, p.Mode.Perm(), Owner{p.UID, p.GID}); err != nil {
		return err
	}
	if fi.IsDir() {
		return d.t.sync(name)
	}
	f, err := d.t.open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(d.t.change("sync", name, f.Sync), f.Close())
}

// permitted returns what has the name, if its permissions are a repair's to change.
func (d *Domain) permitted(name string) (fs.FileInfo, error) {
	top, _, _ := strings.Cut(name, "/")
	if path.Clean(name) != name || top != imagesDir && top != mdDir {
		return nil, code.Errorf(code.InvalidParameter, "%q is no path in %s or %s", name, imagesDir, mdDir)
	}
	fi, err := d.t.lstat(name)
	switch {
	case notExist(err):
		return nil, code.Errorf(code.VolumeDoesNotExist, "there is no %s", d.t.abs(name))
	case err != nil:
		return nil, err
	case !fi.IsDir() && !fi.Mode().IsRegular():
		return nil, code.Errorf(code.DomainLayout, "%s is %s; look at it and remove it by hand", d.t.abs(name), describe(fi))
	}
	return fi, nil
}
