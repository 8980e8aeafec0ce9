package domain

import (
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/internal/code"
)

// Trash is where deleted volumes and images of a domain are kept until their task is cleared:
//
//	.vdsm-agent/trash/<task>/manifest.json    what was where
//	.vdsm-agent/trash/<task>/<n>/<file>…      the files of item n; of an image or another directory, that itself
//	.vdsm-agent/trash/<task>/reclaim.json     the manifest, once reclaim has started: no restore any more
//
// The manifest is on stable storage before anything moves, so a file is always either where it was or where the
// manifest says. Calls for different tasks may run at once; those for one task must not.
type Trash struct{ d *Domain }

// Trash returns the domain's trash.
func (d *Domain) Trash() *Trash { return &Trash{d} }

const (
	manifestName    = "manifest.json"
	reclaimName     = "reclaim.json"
	manifestVersion = 1
	maxManifest     = 4 << 20
)

// Kinds of Item.
const (
	KindVolume    = "volume"
	KindImage     = "image"
	KindFile      = "file"      // any other, by its path
	KindDirectory = "directory" // with nothing but files in it
)

// Entry is what Put is asked to move.
type Entry struct {
	Task     string
	Label    string // chosen by the caller; names the item within the task
	Image    string
	Volume   string    // "" = the whole image
	Path     string    // in place of both: a file that is no volume's, or a directory that is no image's; see checkStray
	Deadline time.Time // when the entry may be reclaimed though its task was not cleared; zero = never
}

// Manifest describes one entry of the trash: all that one task put there.
type Manifest struct {
	Version  int       `json:"version"`
	Task     string    `json:"task"`
	Agent    string    `json:"agent"`
	Created  time.Time `json:"created"`
	Deadline time.Time `json:"deadline,omitzero"`
	Items    []Item    `json:"items"`
}

// Item is one volume or image in the trash.
type Item struct {
	Label     string     `json:"label"`
	Kind      string     `json:"kind"`
	Image     string     `json:"image,omitempty"`
	Volume    string     `json:"volume,omitempty"`
	Path      string     `json:"path,omitempty"` // of a file or directory
	Dir       string     `json:"dir"`            // in the entry's directory
	ImageDir  ItemDir    `json:"imageDir"`       // the directory that it was in, or was
	Files     []ItemFile `json:"files"`          // in the order in which they go; they come back the other way
	Bytes     int64      `json:"bytes"`          // on disk, that reclaim will free
	Restoring bool       `json:"restoring,omitempty"`
}

// ItemFile is one file of an Item. The inode number tells it from another that took its name.
type ItemFile struct {
	Name  string `json:"name"`
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
}

// Home is the directory in which the item's files were, in the domain.
func (it Item) Home() string {
	switch it.Kind {
	case KindFile:
		return path.Dir(it.Path)
	case KindDirectory:
		return it.Path
	}
	return imageDir(it.Image)
}

// Name says what the item is, for lists: image, image/volume or the path.
func (it Item) Name() string {
	if it.Path != "" {
		return it.Path
	}
	return path.Join(it.Image, it.Volume)
}

// whole says whether the item is its directory itself.
func (it Item) whole() bool { return it.Kind == KindImage || it.Kind == KindDirectory }

// ItemDir is a directory as it was.
type ItemDir struct {
	Mode  fs.FileMode `json:"mode"`
	UID   int         `json:"uid"`
	GID   int         `json:"gid"`
	MTime time.Time   `json:"mtime"`
}

// Put moves a volume's files, an image's directory, or what e.Path names into the trash of e.Task. Repeating it goes on where it died,
// and is no error when all was done. Further labels of the same task are added to its entry; the first deadline stays.
//
//   - No such image: 268. None of the volume's files: 201. (A volume of which only some are there is moved.) Nothing at the path: 201.
//   - A directory with something else than files in it: 256, nothing moved.
//   - The label was used for something else, or the entry is being reclaimed: 410.
func (tr *Trash) Put(e Entry) error {
	d := tr.d
	if err := e.check(); err != nil {
		return err
	}
	if err := d.changeable(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := tr.read(e.Task)
	if notExist(err) {
		m, err = &Manifest{Version: manifestVersion, Task: e.Task, Agent: d.agent, Created: now(), Deadline: e.Deadline.UTC()}, nil
	}
	if err != nil {
		return err
	}
	it, err := tr.plan(m, e)
	if err != nil {
		return err
	}
	// As it was written, so again: the manifest may be there though not its directory's sync.
	if err := tr.write(m); err != nil {
		return err
	}
	return tr.move(m, it)
}

func (e Entry) check() error {
	if err := checkUUIDs("task", e.Task); err != nil {
		return err
	}
	if e.Path != "" {
		return checkStray(e.Path)
	}
	if err := checkUUIDs("image", e.Image); err != nil || e.Volume == "" {
		return err
	}
	return checkUUIDs("volume", e.Volume)
}

// checkStray accepts the paths of what can be moved to the trash though it is no volume or image: below images and master/tasks, with
// at most one directory between.
func checkStray(name string) error {
	rest, ok := strings.CutPrefix(name, imagesDir+"/")
	if !ok {
		rest, ok = strings.CutPrefix(name, tasksDir+"/")
	}
	if !ok || path.Clean(name) != name || strings.Count(rest, "/") > 1 || strings.HasPrefix(rest, "..") || strings.ContainsAny(rest, "\n\x00") {
		return code.Errorf(code.InvalidParameter, "%q cannot be moved to the trash; only what is directly in %s, an image or %s can", name, imagesDir, tasksDir)
	}
	return nil
}

// plan returns the item of m for e, added or brought up to date with what has not moved yet.
func (tr *Trash) plan(m *Manifest, e Entry) (*Item, error) {
	i := slices.IndexFunc(m.Items, func(it Item) bool { return it.Label == e.Label })
	if i >= 0 {
		it := &m.Items[i]
		if it.Image != e.Image || it.Volume != e.Volume || it.Path != e.Path {
			return nil, code.Errorf(code.TaskState, "task %s has put %s %s into the trash as %q already; it cannot be another thing too",
				m.Task, it.Kind, it.Name(), e.Label)
		}
		return it, tr.refresh(m, it)
	}
	next := 0
	for _, it := range m.Items {
		n, err := strconv.Atoi(it.Dir)
		if err != nil {
			return nil, code.Errorf(code.TaskState, "the trash of task %s has an item %q, which is no number; it was edited by hand",
				m.Task, it.Dir)
		}
		next = max(next, n+1)
	}
	kind, err := tr.kind(e)
	if err != nil {
		return nil, err
	}
	it := Item{Label: e.Label, Kind: kind, Image: e.Image, Volume: e.Volume, Path: e.Path, Dir: strconv.Itoa(next)}
	if err := tr.describe(&it, nil); err != nil {
		return nil, err
	}
	if kind == KindVolume && len(it.Files) == 0 {
		return nil, tr.d.noVolume(e.Image, e.Volume)
	}
	m.Items = append(m.Items, it)
	return &m.Items[len(m.Items)-1], nil
}

// kind says what it is that goes.
func (tr *Trash) kind(e Entry) (string, error) {
	if e.Path == "" {
		if e.Volume == "" {
			return KindImage, tr.d.checkImage(e.Image)
		}
		return KindVolume, tr.d.checkImage(e.Image)
	}
	fi, err := tr.d.t.lstat(e.Path)
	switch {
	case notExist(err):
		return "", code.Errorf(code.VolumeDoesNotExist, "there is no %s", tr.d.t.abs(e.Path))
	case err != nil:
		return "", err
	case fi.Mode().IsRegular():
		return KindFile, nil
	case fi.IsDir() && !isUUID(strings.TrimPrefix(e.Path, imagesDir+"/")):
		return KindDirectory, nil
	}
	return "", code.Errorf(code.ImageDelete, "%s is %s; it cannot be moved to the trash as it is", tr.d.t.abs(e.Path), describe(fi))
}

// refresh looks again at what a Put that died has not moved yet: it may have been rewritten before the repetition.
func (tr *Trash) refresh(m *Manifest, it *Item) error {
	there, err := tr.d.t.realDir(it.Home())
	if err != nil || !there {
		return err // a directory that has moved, or a volume that was the last one in it
	}
	if it.whole() {
		if moved, err := tr.d.t.realDir(tr.itemDir(m, it)); err != nil || moved {
			return err
		}
		return tr.describe(it, nil)
	}
	var moved []ItemFile
	for _, f := range it.Files {
		fi, err := tr.d.t.regular(path.Join(tr.itemDir(m, it), f.Name))
		if err != nil {
			return err
		}
		if fi != nil {
			moved = append(moved, f)
		}
	}
	return tr.describe(it, moved)
}

// describe fills in what is in the item's directory, after the files that have moved already.
func (tr *Trash) describe(it *Item, moved []ItemFile) error {
	home := it.Home()
	dir, err := tr.d.t.lstat(home)
	if err != nil {
		return err
	}
	st := sysStat(dir)
	it.ImageDir = ItemDir{Mode: dir.Mode().Perm(), UID: int(st.Uid), GID: int(st.Gid), MTime: dir.ModTime().UTC()}
	var names []string
	switch {
	case it.whole():
		if names, err = tr.d.t.list(home); err != nil {
			return err
		}
		slices.SortStableFunc(names, metaFirst)
	case it.Kind == KindFile:
		names = []string{path.Base(it.Path)}
	default:
		for _, suffix := range slices.Backward(volumeSuffixes) {
			names = append(names, it.Volume+suffix)
		}
	}
	files := slices.Clone(moved)
	var bytes int64
	if len(moved) > 0 {
		bytes = it.Bytes // measured when all was there
	}
	for _, name := range names {
		fi, err := tr.d.t.lstat(path.Join(home, name))
		if notExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return code.Errorf(code.ImageDelete, "%s is %s, which VDSM never makes there; remove it by hand", tr.d.t.abs(path.Join(home, name)), describe(fi))
		}
		if slices.ContainsFunc(moved, func(f ItemFile) bool { return f.Name == name }) {
			return code.Errorf(code.TaskState, "%s is there though it was moved to the trash; it is another one now", tr.d.t.abs(path.Join(home, name)))
		}
		files = append(files, ItemFile{Name: name, Inode: sysStat(fi).Ino, Size: fi.Size()})
		if len(moved) == 0 && linkCount(fi) == 1 {
			bytes += allocated(fi)
		}
	}
	it.Files, it.Bytes = files, bytes
	return nil
}

// metaFirst sorts what makes a volume visible before the rest: it goes first, and comes back last.
func metaFirst(a, b string) int {
	_, am := isMeta(a)
	_, bm := isMeta(b)
	switch {
	case am == bm:
		return 0
	case am:
		return -1
	}
	return 1
}

// move does what the manifest says. "Not there" with the target in place is "done": by a call that died, or by a
// rename that an NFS server had carried out before it was sent again.
func (tr *Trash) move(m *Manifest, it *Item) error {
	t, from, to := tr.d.t, it.Home(), tr.itemDir(m, it)
	if it.whole() {
		moved, err := t.realDir(to)
		if err != nil {
			return err
		}
		if !moved {
			if err := tr.rename(from, to); err != nil {
				return err
			}
		}
		return t.sync(path.Dir(from), tr.entryDir(m.Task))
	}
	if _, err := t.ensureDir(to); err != nil {
		return err
	}
	// Before anything moves into it: what is in a directory that has no name after a crash is lost.
	if err := t.sync(tr.entryDir(m.Task)); err != nil {
		return err
	}
	for _, f := range it.Files {
		if fi, err := t.regular(path.Join(to, f.Name)); err != nil {
			return err
		} else if fi != nil {
			continue
		}
		if err := tr.rename(path.Join(from, f.Name), path.Join(to, f.Name)); err != nil {
			return err
		}
	}
	if there, err := t.realDir(from); err != nil {
		return err
	} else if there {
		if err := t.sync(from); err != nil {
			return err
		}
	}
	return t.sync(to)
}

func (tr *Trash) rename(from, to string) error {
	err := tr.d.t.rename(from, to)
	if notExist(err) {
		if _, at := tr.d.t.lstat(to); at == nil {
			return nil
		}
	}
	return err
}

// Manifest returns the entry of a task; fs.ErrNotExist if there is none, 410 if it is being reclaimed or unreadable.
func (tr *Trash) Manifest(task string) (Manifest, error) {
	if err := checkUUIDs("task", task); err != nil {
		return Manifest{}, err
	}
	m, err := tr.read(task)
	if err != nil {
		return Manifest{}, err
	}
	return *m, nil
}

// Has answers whether anything of the task is in the trash, readable or not, to be restored or to be reclaimed.
func (tr *Trash) Has(task string) (bool, error) {
	if err := checkUUIDs("task", task); err != nil {
		return false, err
	}
	there, err := tr.there(task)
	if err != nil || !there {
		return false, err
	}
	names, err := tr.d.t.list(tr.entryDir(task))
	return len(names) > 0, err // an empty one is what a Put left that died before its manifest
}

// there answers whether the task has a directory in the trash.
func (tr *Trash) there(task string) (bool, error) {
	there, err := tr.d.t.realDir(trashDir)
	if err != nil || !there {
		return false, err
	}
	return tr.d.t.realDir(tr.entryDir(task))
}

// read returns the entry's manifest; fs.ErrNotExist if there is none.
func (tr *Trash) read(task string) (*Manifest, error) {
	if there, err := tr.there(task); err != nil {
		return nil, err
	} else if !there {
		return nil, osError(fs.ErrNotExist, "find", tr.d.t.abs(tr.entryDir(task)))
	}
	m, err := tr.readFile(task, manifestName)
	if notExist(err) {
		if fi, rerr := tr.d.t.regular(path.Join(tr.entryDir(task), reclaimName)); rerr != nil {
			return nil, rerr
		} else if fi != nil {
			return nil, code.Errorf(code.TaskState, "what task %s has put into the trash is being reclaimed and cannot come back", task)
		}
	}
	return m, err
}

func (tr *Trash) readFile(task, name string) (*Manifest, error) {
	name = path.Join(tr.entryDir(task), name)
	data, err := tr.d.t.read(name, maxManifest)
	if err != nil {
		return nil, err
	}
	var m Manifest
	switch err := json.Unmarshal(data, &m); {
	case err != nil:
		return nil, code.Errorf(code.TaskState, "%s cannot be read: %w", tr.d.t.abs(name), err)
	case m.Version != manifestVersion:
		return nil, code.Errorf(code.TaskState, "%s has version %d; this agent knows %d", tr.d.t.abs(name), m.Version, manifestVersion)
	case m.Task != task:
		return nil, code.Errorf(code.TaskState, "%s is of task %s", tr.d.t.abs(name), m.Task)
	}
	for _, it := range m.Items {
		if err := it.check(); err != nil {
			return nil, code.Errorf(code.TaskState, "%s cannot be believed: %w", tr.d.t.abs(name), err)
		}
	}
	return &m, nil
}

// check keeps a manifest that was edited by hand from naming paths elsewhere.
func (it Item) check() error {
	if it.Path != "" {
		if err := checkStray(it.Path); err != nil {
			return err
		}
	} else if err := checkUUIDs("image", it.Image); err != nil {
		return err
	}
	if n, err := strconv.Atoi(it.Dir); err != nil || strconv.Itoa(n) != it.Dir {
		return code.Errorf(code.TaskState, "%q is no directory of an item", it.Dir)
	}
	for _, f := range it.Files {
		if f.Name == "" || f.Name == "." || f.Name == ".." || path.Base(f.Name) != f.Name {
			return code.Errorf(code.TaskState, "%q is no name of a file", f.Name)
		}
	}
	return nil
}

// write puts the manifest on stable storage, and the entry's directory with it.
func (tr *Trash) write(m *Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if _, err := tr.d.t.ensureDir(trashDir); err != nil {
		return err
	}
	if _, err := tr.d.t.ensureDir(tr.entryDir(m.Task)); err != nil {
		return err
	}
	if err := tr.d.t.sync(agentDir, trashDir); err != nil {
		return err
	}
	return tr.d.t.replace(path.Join(tr.entryDir(m.Task), manifestName), append(data, '\n'))
}

func (tr *Trash) entryDir(task string) string          { return path.Join(trashDir, task) }
func (tr *Trash) itemDir(m *Manifest, it *Item) string { return path.Join(trashDir, m.Task, it.Dir) }

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
