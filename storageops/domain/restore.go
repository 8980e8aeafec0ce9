package domain

import (
	"path"
	"slices"

	"vdsm-agent/internal/code"
)

// Restore puts back what a task has put into the trash: the items for which only answers true, with nil all of them.
// Nothing is ever replaced, and all targets are looked at before the first file moves. Files keep inode, mode, owner,
// times and hard links. Repeating it goes on where it died; when nothing of the task is in the trash (any more), it
// returns nil: Has tells before. A Put that died half-way is undone by it too.
//
//   - A path is taken by something else: 410, naming it, nothing moved.
//   - The entry is being reclaimed, or its manifest cannot be read: 410.
//   - A file is neither in the trash nor where it was: 410.
func (tr *Trash) Restore(task string, only func(Item) bool) error {
	d := tr.d
	if err := checkUUIDs("task", task); err != nil {
		return err
	}
	if err := d.changeable(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := tr.read(task)
	if notExist(err) {
		return tr.dropEntry(task)
	}
	if err != nil {
		return err
	}
	var chosen []*Item
	for i := range m.Items {
		if only == nil || only(m.Items[i]) {
			chosen = append(chosen, &m.Items[i])
		}
	}
	if len(chosen) == 0 && len(m.Items) > 0 {
		return nil
	}
	if err := tr.checkTargets(m, chosen); err != nil {
		return err
	}
	for _, it := range chosen {
		it.Restoring = true
	}
	// From here on a directory in an image's place may be our own. So it is written before one is made.
	if err := tr.write(m); err != nil {
		return err
	}
	// What went last comes back first: an image, then the volume that had been taken out of it before.
	for _, it := range slices.Backward(chosen) {
		if err := tr.restoreItem(m, it); err != nil {
			return err
		}
	}
	left := *m
	left.Items = nil
	for i := range m.Items {
		if !slices.Contains(chosen, &m.Items[i]) {
			left.Items = append(left.Items, m.Items[i])
		}
	}
	if len(left.Items) > 0 {
		return tr.write(&left)
	}
	return tr.dropEntry(task)
}

// where a file of an item is.
type place int

const (
	inTrash place = iota
	inBoth        // linked back, not yet unlinked from the trash
	back
)

func (tr *Trash) locate(m *Manifest, it *Item, f ItemFile) (place, error) {
	dst := path.Join(it.Home(), f.Name)
	kept, err := tr.d.t.regular(path.Join(tr.itemDir(m, it), f.Name))
	if err != nil {
		return 0, err
	}
	there, err := tr.d.t.lstat(dst)
	if err != nil && !notExist(err) {
		return 0, err
	}
	switch {
	case there == nil && kept == nil:
		return 0, code.Errorf(code.TaskState, "%s is neither there nor in the trash of task %s; it was removed by somebody else",
			tr.d.t.abs(dst), m.Task)
	case there == nil:
		return inTrash, nil
	case sysStat(there).Ino != f.Inode:
		if kept != nil || !tr.isTemplateMeta(it.Image, f.Name) {
			return 0, tr.taken(m, dst)
		}
		return back, nil // and linked to the template's metadata anew, see mendShares
	case kept != nil:
		return inBoth, nil
	}
	return back, nil
}

func (tr *Trash) taken(m *Manifest, name string) error {
	return code.Errorf(code.TaskState, "%s is taken, so what task %s has put into the trash cannot come back; move it away first",
		tr.d.t.abs(name), m.Task)
}

// checkTargets refuses to restore the items over anything that is not their own, one another included.
func (tr *Trash) checkTargets(m *Manifest, items []*Item) error {
	targets := make(map[string]bool)
	for _, it := range items {
		if err := tr.checkTarget(m, it); err != nil {
			return err
		}
		for _, f := range it.Files {
			name := path.Join(it.Home(), f.Name)
			if targets[name] {
				return code.Errorf(code.TaskState, "task %s has put %s into the trash twice; choose which one comes back",
					m.Task, tr.d.t.abs(name))
			}
			targets[name] = true
		}
	}
	return nil
}

func (tr *Trash) checkTarget(m *Manifest, it *Item) error {
	t, home := tr.d.t, it.Home()
	there, err := t.realDir(home)
	if err != nil {
		return err
	}
	moved, err := t.realDir(tr.itemDir(m, it))
	if err != nil {
		return err
	}
	if it.whole() && there && moved {
		if !it.Restoring {
			return tr.taken(m, home)
		}
		names, err := t.list(home)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.ContainsFunc(it.Files, func(f ItemFile) bool { return f.Name == name }) {
				return tr.taken(m, path.Join(home, name))
			}
		}
	}
	for _, f := range it.Files {
		if _, err := tr.locate(m, it, f); err != nil {
			return err
		}
	}
	return nil
}

// restoreItem links every file back, syncs, then unlinks it from the trash: at no moment a file has no name.
func (tr *Trash) restoreItem(m *Manifest, it *Item) error {
	t, kept, dst := tr.d.t, tr.itemDir(m, it), it.Home()
	made, err := t.realDir(dst)
	if err != nil {
		return err
	}
	moved, err := t.realDir(kept)
	if err != nil {
		return err
	}
	if made = !made; made {
		if err := t.mkdir(dst, 0o700); err != nil {
			return err
		}
	}
	for _, f := range slices.Backward(it.Files) {
		at, err := tr.locate(m, it, f)
		if err == nil && at == inTrash {
			err = t.link(path.Join(kept, f.Name), path.Join(dst, f.Name))
		}
		if err != nil {
			return err
		}
	}
	if err := t.sync(dst, path.Dir(dst)); err != nil {
		return err
	}
	if moved {
		for _, f := range it.Files {
			if err := t.remove(path.Join(kept, f.Name)); err != nil {
				return err
			}
		}
		if err := t.remove(kept); err != nil {
			return err
		}
		// The manifest, which goes next, must not be gone after a crash while this is there.
		if err := t.sync(tr.entryDir(m.Task)); err != nil {
			return err
		}
	}
	if err := tr.mendShares(it); err != nil {
		return err
	}
	return tr.mendDir(it, made)
}

// mendDir gives the directory what it had, where it is a new one.
func (tr *Trash) mendDir(it *Item, made bool) error {
	t, dst := tr.d.t, it.Home()
	fi, err := t.lstat(dst)
	if err != nil {
		return err
	}
	// A volume's or file's restore that died may have made it too: mode 0700 is what only such a one leaves.
	if !it.whole() && !made && fi.Mode().Perm() != 0o700 {
		return t.sync(dst, path.Dir(dst))
	}
	if err := t.setModeOwner(dst, it.ImageDir.Mode, Owner{it.ImageDir.UID, it.ImageDir.GID}); err != nil {
		return err
	}
	if it.whole() && !fi.ModTime().Equal(it.ImageDir.MTime) {
		if err := t.setMTime(dst, it.ImageDir.MTime); err != nil {
			return err
		}
	}
	return t.sync(dst, path.Dir(dst))
}

// mendShares links the templates' metadata anew where it was rewritten while the image was in the trash.
func (tr *Trash) mendShares(it *Item) error {
	for _, f := range it.Files {
		vol, ok := isMeta(f.Name)
		if !ok || !isUUID(vol) || it.Image == "" {
			continue
		}
		tmpl, err := tr.templateOf(it.Image, vol)
		if err != nil {
			return err
		}
		if tmpl != "" {
			if err := tr.d.relinkInto(tmpl, vol, it.Image); err != nil {
				return err
			}
		}
	}
	return nil
}

// templateOf returns the image whose template the volume in img is a hard link of; "" if it is none.
func (tr *Trash) templateOf(img, vol string) (string, error) {
	data, err := tr.d.t.regular(volumeFile(img, vol))
	if err != nil || data == nil || linkCount(data) == 1 {
		return "", err
	}
	m, err := tr.d.readMeta(img, vol)
	if code.Of(err) == code.VolumeMetadataRead || err == nil && (m.Image == img || !isUUID(m.Image)) {
		return "", nil // damaged as it was before, or its own
	}
	if err != nil {
		return "", err
	}
	own, err := tr.d.t.regular(volumeFile(m.Image, vol))
	if err != nil || own == nil || sysStat(own).Ino != sysStat(data).Ino {
		return "", err
	}
	return m.Image, nil
}

func (tr *Trash) isTemplateMeta(img, name string) bool {
	vol, ok := isMeta(name)
	if !ok || !isUUID(vol) || img == "" {
		return false
	}
	tmpl, err := tr.templateOf(img, vol)
	return err == nil && tmpl != ""
}

// dropEntry removes what is left of an entry without items.
func (tr *Trash) dropEntry(task string) error {
	t, entry := tr.d.t, tr.entryDir(task)
	there, err := tr.there(task)
	if err != nil {
		return err
	}
	if there {
		for _, name := range []string{path.Join(entry, manifestName), entry} {
			if err := t.remove(name); err != nil {
				return err
			}
		}
	}
	if there, err = t.realDir(trashDir); err != nil || !there {
		return err
	}
	return t.sync(trashDir)
}
