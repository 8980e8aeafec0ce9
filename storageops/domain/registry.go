package domain

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
)

// Options of a Registry.
type Options struct {
	Dir    string         // state directory
	Mounts string         // where roots are remembered and mounted; "" = mnt in Dir
	Owner  Owner          // of what is created in a domain
	Name   string         // this agent, for the people who read claims and manifests
	Log    zerolog.Logger // what happened besides the answers
}

// Registry is the domains that this agent knows: those in its roots. A root is in the directory Mounts as VDSM has those of its domains:
// <Mounts>/<T> is a symbolic link to a directory of this host, or a mount point, T the path or what is mounted with "_" doubled
// and "/" made "_". What is not mounted is no root.
type Registry struct {
	o    Options
	mnt  string
	step func(op, name string) error // given to every tree; see there

	answers  answers
	seen     seen
	opening  keyed // by domain: held while the roots are searched for it
	changing keyed // by root: held while a domain is created or removed in it

	mu      sync.Mutex
	domains map[string]*Domain // opened ones; nil = closed
}

// Root is one directory that may hold domains. Err is nil, or why it cannot be read now (379).
type Root struct {
	Path string
	Err  error
}

// OpenRegistry opens the registry of the state directory o.Dir, which is made if it is missing. A root that cannot be
// read is no error: its domains answer 379 until it can.
func OpenRegistry(o Options) (*Registry, error) {
	r := &Registry{o: o, mnt: cmp.Or(o.Mounts, filepath.Join(o.Dir, "mnt")), domains: make(map[string]*Domain)}
	if err := os.MkdirAll(r.mnt, dirMode); err != nil {
		return nil, osError(err, "make", r.mnt)
	}
	var err error
	if r.mnt, err = filepath.EvalSymlinks(r.mnt); err != nil { // as the kernel's table of mounts has it
		return nil, osError(err, "find", r.mnt)
	}
	if err := syncPath(filepath.Dir(r.mnt)); err != nil {
		return nil, err
	}
	roots, err := r.roots()
	if err != nil {
		return nil, err
	}
	for _, root := range each(&r.answers, roots, func(root string) (any, error) { return nil, r.cleanRoot(root) }) {
		if root.err != nil {
			o.Log.Warn().Err(root.err).Str("root", root.root).Msg("a storage root is not usable now; it is tried again when asked for")
		}
	}
	return r, nil
}

// AddRoot remembers a directory that may hold domains. It must be absolute and exist (379). Repeating it is no error.
func (r *Registry) AddRoot(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\r\x00") {
		return code.Errorf(code.InvalidParameter, "%q is no absolute path of a directory", path)
	}
	path = filepath.Clean(path)
	if _, err := ask(&r.answers, path, func() (any, error) { return nil, checkRoot(path) }); err != nil {
		return err
	}
	link := filepath.Join(r.mnt, mangle(path))
	err := os.Symlink(path, link)
	if errors.Is(err, fs.ErrExist) {
		if to, err := os.Readlink(link); err != nil || to != path {
			return code.Errorf(code.DomainAccess, "%s should be a symbolic link to %s but is not; remove it", link, path)
		}
	} else if err != nil {
		return osError(err, "link", link)
	}
	return syncPath(r.mnt)
}

// Roots returns the remembered roots, sorted by path.
func (r *Registry) Roots() ([]Root, error) {
	paths, err := r.roots()
	if err != nil {
		return nil, err
	}
	var roots []Root
	for _, root := range each(&r.answers, paths, func(root string) (any, error) { return nil, checkRoot(root) }) {
		roots = append(roots, Root{root.root, root.err})
	}
	return roots, nil
}

// roots are the paths of the remembered roots, sorted.
func (r *Registry) roots() ([]string, error) {
	entries, err := os.ReadDir(r.mnt)
	if err != nil {
		return nil, osError(err, "list", r.mnt)
	}
	mounted, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if point := filepath.Join(r.mnt, e.Name()); mounted[point] {
			paths = append(paths, point)
		} else if path, err := os.Readlink(filepath.Join(r.mnt, e.Name())); err == nil && mangle(path) == e.Name() {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// List returns the UUIDs of the domains in all roots, sorted. It looks afresh. Of a root whose file system hangs it returns those that
// were there before. Domains in a root that cannot be read otherwise are missing: Roots says which that are.
func (r *Registry) List() []string {
	roots, err := r.roots()
	if err != nil {
		r.o.Log.Error().Err(err).Msg("cannot list the storage roots")
	}
	var ids []string
	for _, root := range each(&r.answers, roots, domainsIn) {
		var hangs *NoAnswerError
		switch {
		case root.err == nil:
			r.seen.note(root.root, root.value)
			ids = append(ids, root.value...)
		case errors.As(root.err, &hangs):
			ids = append(ids, r.seen.last(root.root)...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func domainsIn(root string) (ids []string, err error) {
	names, err := os.ReadDir(root)
	for _, e := range names {
		if is, _ := isDomain(root, e.Name()); is {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// Get returns a domain to change; it is claimed for this agent until Close.
//
//   - There is none: 358; but 379 if it was there before, or if a root cannot be read that might hold it.
//   - Its file system hangs, or that of a root that might hold it: *NoAnswerError, 379, after a short time.
//   - It is read-only or unreadable: 379, with its path. It works again by itself when the file system does.
//   - It is claimed by somebody else: 651. It can be read but not changed: 394 (version), 372 (type).
//
// When another directory took the place of a domain, former *Domain of it answer 379.
func (r *Registry) Get(uuid string) (*Domain, error) {
	d, err := r.GetReadOnly(uuid)
	if err != nil {
		return nil, err
	}
	return ask(&r.answers, d.rootPath, func() (*Domain, error) { return d, d.takeClaim() })
}

// GetReadOnly is Get without the claim: the domain can be read, also while somebody else has claimed it.
func (r *Registry) GetReadOnly(uuid string) (*Domain, error) {
	if err := checkUUIDs("storage domain", uuid); err != nil {
		return nil, err
	}
	if d, err := r.cached(uuid); d != nil || err != nil {
		return d, err
	}
	defer r.opening.lock(uuid)()
	if d, err := r.cached(uuid); d != nil || err != nil {
		return d, err
	}
	root, err := r.find(uuid)
	if err != nil {
		return nil, err
	}
	d, err := ask(&r.answers, root, func() (*Domain, error) { return r.open(root, uuid) })
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.domains == nil {
		d.close()
		return nil, errClosed()
	}
	r.domains[uuid] = d
	r.seen.add(root, uuid)
	return d, nil
}

// Close gives up all claims. Domains that were got answer 379 from then on. The claim of one whose file system hangs goes with the
// agent.
func (r *Registry) Close() {
	r.mu.Lock()
	closing := r.domains
	r.domains = nil
	r.mu.Unlock()
	for _, d := range closing {
		r.giveUp(d)
	}
}

// giveUp closes a domain, and waits for that as long as for any answer of its file system.
func (r *Registry) giveUp(d *Domain) {
	if _, err := ask(&r.answers, d.rootPath, func() (any, error) { d.close(); return nil, nil }); err != nil {
		d.log.Warn().Err(err).Msg("the domain is given up without an answer of its file system")
	}
}

func errClosed() error {
	return code.Errorf(code.ShuttingDown, "the agent is shutting down; ask again when it is back")
}

// cached returns the domain if it is open and still the directory of its path; nil if it must be opened.
func (r *Registry) cached(uuid string) (*Domain, error) {
	r.mu.Lock()
	d, open := r.domains[uuid], r.domains != nil
	r.mu.Unlock()
	if !open {
		return nil, errClosed()
	}
	if d == nil {
		return nil, nil
	}
	inPlace, err := ask(&r.answers, d.rootPath, d.inPlace)
	if err != nil {
		return nil, err
	}
	if inPlace {
		return d, nil
	}
	if r.forget(d) {
		d.log.Warn().Msg("another directory took the place of the domain; opening it afresh")
	}
	return nil, nil
}

// forget closes a domain, unless somebody else has.
func (r *Registry) forget(d *Domain) bool {
	r.mu.Lock()
	ours := r.domains[d.id] == d
	if ours {
		delete(r.domains, d.id)
	}
	r.mu.Unlock()
	if ours {
		r.giveUp(d)
	}
	return ours
}

// inPlace says whether the open directory is still the one of the domain's path. That nothing is there is 379.
func (d *Domain) inPlace() (bool, error) {
	there, err := os.Stat(d.Path())
	if err != nil {
		return false, rootError(err, "find domain "+d.id+" in", d.rootPath)
	}
	// What is open but cannot be looked at any more, as after a server has forgotten it, is not that.
	if ours, err := d.t.root.Stat("."); err != nil || !os.SameFile(there, ours) {
		return false, nil //nolint:nilerr // it is opened afresh
	}
	_, err = d.t.lstat(metadataFile)
	if notExist(err) {
		err = rootError(fs.ErrNotExist, "find the metadata of domain "+d.id+" in", d.rootPath)
	}
	return err == nil, err
}

// find returns the root that holds the domain.
func (r *Registry) find(uuid string) (string, error) {
	roots, err := r.roots()
	if err != nil {
		return "", err
	}
	var found []string
	var first fs.FileInfo
	var unread error
	for _, root := range each(&r.answers, roots, func(root string) (fs.FileInfo, error) { return lookFor(root, uuid) }) {
		switch {
		case root.err != nil:
			unread = root.err
		case root.value == nil, first != nil && os.SameFile(first, root.value): // not there, or one directory by two paths
		default:
			first, found = root.value, append(found, root.root)
		}
	}
	switch {
	case len(found) > 1:
		return "", code.Errorf(code.DomainLayout, "domain %s is in more than one place: %s; disconnect all but the right one",
			uuid, strings.Join(found, ", "))
	case len(found) == 1:
		return found[0], nil
	case unread != nil:
		return "", code.Errorf(code.DomainAccess, "domain %s is not in the roots that can be read: %w", uuid, unread)
	}
	return "", code.Errorf(code.DomainDoesNotExist, "there is no storage domain %s in the roots of this agent", uuid)
}

// lookFor returns the domain's directory in the root; nil if it is not there.
func lookFor(root, uuid string) (fs.FileInfo, error) {
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	is, err := isDomain(root, uuid)
	if err != nil || !is {
		return nil, err
	}
	fi, err := os.Lstat(filepath.Join(root, uuid))
	return fi, rootError(err, "find domain "+uuid+" in", root)
}

func (r *Registry) open(rootPath, uuid string) (*Domain, error) {
	path := filepath.Join(rootPath, uuid)
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, rootError(err, "open", path)
	}
	d := &Domain{
		id: uuid, rootPath: rootPath, agent: r.o.Name,
		t:   &tree{root: root, path: path, owner: r.o.Owner, step: r.step},
		log: r.o.Log.With().Str("domain", uuid).Str("path", path).Logger(),
	}
	for _, dir := range []string{mdDir, imagesDir} {
		there, err := d.t.realDir(dir)
		if err == nil && !there {
			err = code.Errorf(code.DomainLayout, "domain %s has no directory %s; it is damaged", uuid, d.t.abs(dir))
		}
		if err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

// isDomain answers whether the directory in the root looks like a domain, without following symbolic links. An error
// means that it is not known.
func isDomain(root, name string) (bool, error) {
	if !isUUID(name) {
		return false, nil
	}
	for _, dir := range []string{name, filepath.Join(name, mdDir)} {
		dir = filepath.Join(root, dir)
		fi, err := os.Lstat(dir)
		if notExist(err) || err == nil && !fi.IsDir() {
			return false, nil
		}
		if err != nil {
			return false, rootError(err, "look at", dir)
		}
	}
	return true, nil
}

func checkRoot(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return rootError(err, "open", path)
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return rootError(err, "list", path)
	}
	return nil
}

// mangle makes one file name of a path, as VDSM does.
func mangle(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, "_", "__"), "/", "_")
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return osError(err, "sync", dir)
	}
	defer f.Close()
	return osError(f.Sync(), "sync", dir)
}
