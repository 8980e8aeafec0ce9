package storageops

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
)

// memTrash is the trash of a domain in memory, as domain.Trash.
type memTrash struct{ memDomain }

const (
	manifestName = "manifest.json"
	reclaimName  = "reclaim.json"
)

func (t memTrash) trashDir() string            { return path.Join("/", t.id, "trash") }
func (t memTrash) entryDir(task string) string { return path.Join(t.trashDir(), task) }
func (t memTrash) itemDir(m domain.Manifest, i domain.Item) string {
	return path.Join(t.entryDir(m.Task), i.Dir)
}

// home is the directory that the item was in, or was.
func (t memTrash) home(i domain.Item) string { return path.Join("/", t.id, i.Home()) }

func whole(i domain.Item) bool { return i.Kind == domain.KindImage || i.Kind == domain.KindDirectory }

func refused(format string, args ...any) error { return code.Errorf(code.TaskState, format, args...) }

func (t memTrash) Has(task string) (bool, error) { return len(t.disk.list(t.entryDir(task))) > 0, nil }

func (t memTrash) Manifest(task string) (domain.Manifest, error) {
	if _, n := t.disk.lookup(path.Join(t.entryDir(task), manifestName)); n != nil {
		m := n.data.(domain.Manifest)
		m.Items = slices.Clone(m.Items)
		return m, nil
	}
	if _, n := t.disk.lookup(path.Join(t.entryDir(task), reclaimName)); n != nil {
		return domain.Manifest{}, refused("what task %s has put into the trash is being reclaimed", task)
	}
	return domain.Manifest{}, noFile(manifestName)
}

func (t memTrash) List() ([]domain.TrashEntry, error) {
	var out []domain.TrashEntry
	for _, task := range t.disk.list(t.trashDir()) {
		e := domain.TrashEntry{Task: task}
		_, n := t.disk.lookup(path.Join(t.entryDir(task), manifestName))
		if n == nil {
			_, n = t.disk.lookup(path.Join(t.entryDir(task), reclaimName))
			e.Reclaiming = n != nil
		}
		switch {
		case n != nil:
			m := n.data.(domain.Manifest)
			e.Created, e.Deadline, e.Items = m.Created, m.Deadline, m.Items
		case len(t.disk.list(t.entryDir(task))) == 0:
			continue
		default:
			e.Problem = "it has no manifest"
		}
		out = append(out, e)
	}
	return out, nil
}

func (t memTrash) Data(task string) ([]string, error) {
	m, err := t.Manifest(task)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range m.Items {
		for _, f := range i.Files {
			name := path.Join(t.itemDir(m, i), f.Name)
			if ino, n := t.disk.lookup(name); n != nil && !strings.HasSuffix(name, metaSuffix) && !strings.HasSuffix(name, leaseSuffix) && t.disk.links(ino) == 1 {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

func (t memTrash) Put(e domain.Entry) error {
	m, err := t.Manifest(e.Task)
	if errors.Is(err, fs.ErrNotExist) {
		m, err = domain.Manifest{Version: 1, Task: e.Task, Created: time.Now().UTC(), Deadline: e.Deadline.UTC()}, nil
	}
	if err != nil {
		return err
	}
	i, err := t.plan(&m, e)
	if err != nil {
		return err
	}
	if err := t.write(m); err != nil {
		return err
	}
	return t.move(m, i)
}

// plan adds the item to the manifest, or looks again at what of it has not moved.
func (t memTrash) plan(m *domain.Manifest, e domain.Entry) (domain.Item, error) {
	i := domain.Item{Label: e.Label, Kind: domain.KindVolume, Image: e.Image, Volume: e.Volume, Path: e.Path, Dir: strconv.Itoa(len(m.Items))}
	known := slices.IndexFunc(m.Items, func(other domain.Item) bool { return other.Label == e.Label })
	if known < 0 {
		_, n := t.disk.lookup(path.Join("/", t.id, e.Path))
		switch {
		case e.Path != "" && n == nil:
			return i, code.Errorf(code.VolumeDoesNotExist, "there is no %s", e.Path)
		case e.Path != "" && n.names != nil:
			i.Kind = domain.KindDirectory
		case e.Path != "":
			i.Kind = domain.KindFile
		case e.Volume == "":
			i.Kind = domain.KindImage
		}
		if _, there := t.disk.lookup(t.home(i)); there == nil {
			return i, t.image(e.Image)
		}
		t.describe(*m, &i)
		if i.Kind == domain.KindVolume && len(i.Files) == 0 {
			return i, noVolume(e.Image, e.Volume)
		}
		m.Items = append(m.Items, i)
		return i, nil
	}
	i = m.Items[known]
	if i.Image != e.Image || i.Volume != e.Volume || i.Path != e.Path {
		return i, refused("task %s has put something else into the trash as %q", m.Task, e.Label)
	}
	if _, there := t.disk.lookup(t.home(i)); there != nil {
		if _, moved := t.disk.lookup(t.itemDir(*m, i)); !whole(i) || moved == nil {
			t.describe(*m, &i)
			m.Items[known] = i
		}
	}
	return i, nil
}

// describe lists the files that have moved, then those that have not, in the order in which they go.
func (t memTrash) describe(m domain.Manifest, i *domain.Item) {
	_, dir := t.disk.lookup(t.home(*i))
	i.ImageDir = domain.ItemDir{Mode: perm(dir)}
	names := []string{i.Volume + metaSuffix, i.Volume + leaseSuffix, i.Volume}
	if i.Kind == domain.KindFile {
		names = []string{path.Base(i.Path)}
	}
	if whole(*i) {
		names = t.disk.list(t.home(*i))
		slices.SortStableFunc(names, func(a, b string) int {
			return strings.Count(b, metaSuffix) - strings.Count(a, metaSuffix)
		})
	}
	var files []domain.ItemFile
	for _, place := range []string{t.itemDir(m, *i), t.home(*i)} {
		for _, name := range names {
			if ino, n := t.disk.lookup(path.Join(place, name)); n != nil {
				files = append(files, domain.ItemFile{Name: name, Inode: uint64(ino)})
			}
		}
	}
	i.Files = files
}

func (t memTrash) write(m domain.Manifest) error {
	if _, err := t.mkdir("the entry in the trash", t.entryDir(m.Task), 0o755); err != nil {
		return err
	}
	if err := t.sync("the trash", t.trashDir()); err != nil {
		return err
	}
	m.Items = slices.Clone(m.Items)
	return t.replace("the manifest", path.Join(t.entryDir(m.Task), manifestName), m)
}

func (t memTrash) move(m domain.Manifest, i domain.Item) error {
	from, to := t.home(i), t.itemDir(m, i)
	if whole(i) {
		if _, moved := t.disk.lookup(to); moved == nil {
			if err := t.rename("rename the image to the trash", from, to); err != nil {
				return err
			}
		}
		if err := t.sync("images", path.Dir(from)); err != nil {
			return err
		}
		return t.sync("the entry in the trash", t.entryDir(m.Task))
	}
	if _, err := t.mkdir("a directory in the trash", to, 0o755); err != nil {
		return err
	}
	if err := t.sync("the entry in the trash", t.entryDir(m.Task)); err != nil {
		return err
	}
	for _, f := range i.Files {
		if _, there := t.disk.lookup(path.Join(to, f.Name)); there != nil {
			continue
		}
		if err := t.rename("rename to the trash "+f.Name, path.Join(from, f.Name), path.Join(to, f.Name)); err != nil {
			return err
		}
	}
	if _, there := t.disk.lookup(from); there != nil {
		if err := t.sync("the image's directory", from); err != nil {
			return err
		}
	}
	return t.sync("the directory in the trash", to)
}

func (t memTrash) Restore(task string, only func(domain.Item) bool) error {
	m, err := t.Manifest(task)
	if errors.Is(err, fs.ErrNotExist) {
		return t.drop(task)
	}
	if err != nil {
		return err
	}
	var chosen []int
	left := m
	left.Items = nil
	for n, i := range m.Items {
		if only != nil && !only(i) {
			left.Items = append(left.Items, i)
			continue
		}
		if err := t.checkTarget(m, i); err != nil {
			return err
		}
		chosen = append(chosen, n)
	}
	if len(chosen) == 0 && len(m.Items) > 0 {
		return nil
	}
	for _, n := range chosen {
		m.Items[n].Restoring = true
	}
	if err := t.write(m); err != nil {
		return err
	}
	for _, n := range slices.Backward(chosen) {
		if err := t.restoreItem(m, m.Items[n]); err != nil {
			return err
		}
	}
	if len(left.Items) > 0 {
		return t.write(left)
	}
	return t.drop(task)
}

// checkTarget refuses to restore over something else.
func (t memTrash) checkTarget(m domain.Manifest, i domain.Item) error {
	_, moved := t.disk.lookup(t.itemDir(m, i))
	if _, there := t.disk.lookup(t.home(i)); whole(i) && there != nil && moved != nil && !i.Restoring {
		return refused("%s is taken", t.home(i))
	}
	for _, f := range i.Files {
		at, there := t.disk.lookup(path.Join(t.home(i), f.Name))
		_, kept := t.disk.lookup(path.Join(t.itemDir(m, i), f.Name))
		switch {
		case there == nil && kept == nil:
			return refused("%s is neither there nor in the trash", f.Name)
		case there != nil && uint64(at) != f.Inode:
			return refused("%s is taken", f.Name)
		}
	}
	return nil
}

func (t memTrash) restoreItem(m domain.Manifest, i domain.Item) error {
	kept, dst := t.itemDir(m, i), t.home(i)
	_, moved := t.disk.lookup(kept)
	made, err := t.mkdir("the image's directory", dst, 0o700)
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(i.Files) {
		if _, there := t.disk.lookup(path.Join(dst, f.Name)); there != nil {
			continue
		}
		if err := t.link("link back "+f.Name, path.Join(kept, f.Name), path.Join(dst, f.Name)); err != nil {
			return err
		}
	}
	if err := t.syncImage(dst); err != nil {
		return err
	}
	if moved != nil {
		for _, f := range i.Files {
			if err := t.remove("from the trash "+f.Name, path.Join(kept, f.Name)); err != nil {
				return err
			}
		}
		if err := t.remove("a directory in the trash", kept); err != nil {
			return err
		}
		if err := t.sync("the entry in the trash", t.entryDir(m.Task)); err != nil {
			return err
		}
	}
	ino, dir := t.disk.lookup(dst)
	if (whole(i) || made || perm(dir) == 0o700) && perm(dir) != i.ImageDir.Mode {
		err := t.effect("mode of the image's directory", func(d *disk) []change { return []change{d.chmod(ino, i.ImageDir.Mode)} })
		if err != nil {
			return err
		}
	}
	return t.syncImage(dst)
}

func (t memTrash) syncImage(dir string) error {
	if err := t.sync("the image's directory", dir); err != nil {
		return err
	}
	return t.sync("images", path.Dir(dir))
}

// drop removes an entry without items.
func (t memTrash) drop(task string) error {
	if err := t.remove("the manifest", path.Join(t.entryDir(task), manifestName)); err != nil {
		return err
	}
	if err := t.remove("the entry in the trash", t.entryDir(task)); err != nil {
		return err
	}
	return t.sync("the trash", t.trashDir())
}

func (t memTrash) Remove(ctx context.Context, task string, progress func(int64)) error {
	entry := t.entryDir(task)
	if _, n := t.disk.lookup(entry); n != nil {
		manifest := path.Join(entry, manifestName)
		if _, n := t.disk.lookup(manifest); n != nil {
			if err := t.rename("give the trash up", manifest, path.Join(entry, reclaimName)); err != nil {
				return err
			}
		}
		if err := t.sync("the entry in the trash", entry); err != nil {
			return err
		}
		if err := t.removeBelow(ctx, entry); err != nil {
			return err
		}
		if err := t.remove("the manifest", path.Join(entry, reclaimName)); err != nil {
			return err
		}
		if err := t.remove("the entry in the trash", entry); err != nil {
			return err
		}
	}
	return t.sync("the trash", t.trashDir())
}

func (t memTrash) removeBelow(ctx context.Context, dir string) error {
	for _, name := range t.disk.list(dir) {
		if name == reclaimName {
			continue
		}
		full := path.Join(dir, name)
		if _, n := t.disk.lookup(full); n.names != nil {
			if err := t.removeBelow(ctx, full); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := t.remove("for good "+name, full); err != nil {
			return err
		}
	}
	return nil
}
