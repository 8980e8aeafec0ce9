package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks/store"

	"golang.org/x/sys/unix"
)

// storeFile is the store's name in the state directory.
const storeFile = "tasks.db"

// How much room there should be: a part of the file system, in percent, and for the state a number of bytes, at which nothing can be recorded soon.
const (
	littleRoom = 5
	leastState = 16 << 20
)

// room is what a file system says of itself.
type room struct {
	size, free uint64
	readOnly   bool
	remote     bool // NFS
	err        error
}

func roomOf(dir string) room {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return room{err: err}
	}
	return room{
		size: st.Blocks * uint64(st.Frsize), free: st.Bavail * uint64(st.Frsize), readOnly: st.Flags&unix.ST_RDONLY != 0,
		remote: st.Type == unix.NFS_SUPER_MAGIC,
	}
}

func (r room) percent() uint64 {
	if r.size == 0 {
		return 100
	}
	return r.free * 100 / r.size
}

func (l *looker) state() {
	dir := l.config.StateDir
	r, answered := within(func() room { return roomOf(dir) })
	before := len(l.found)
	switch {
	case !answered:
		l.add(Error, "look after its disk, and have the state on a local one", "the file system of %s does not answer", dir)
		return
	case errors.Is(r.err, fs.ErrNotExist):
		l.add(Note, "", "there is no %s before the daemon has run", dir)
		return
	case r.err != nil:
		l.add(Error, "look after its disk", "%s cannot be looked at: %s", dir, r.err)
		return
	case r.readOnly:
		l.add(Error, "mount it for writing; after an error of the disk the kernel may have changed that: see dmesg", "the file system of %s is read-only: nothing can be recorded", dir)
	case r.free < leastState:
		l.add(Error, "make room; the agent goes on by itself", "the file system of %s is full: %s are left, and new tasks cannot be recorded", dir, size(r.free))
	case r.percent() < littleRoom:
		l.add(Warning, "make room", "the file system of %s is nearly full: %s are left", dir, size(r.free))
	}
	if r.remote {
		l.add(Warning, "have it on a disk of this host", "%s is on NFS: what is recorded there is only as safe as its server's promises", dir)
	}
	if len(l.found) == before {
		l.ok("%s are left for %s", size(r.free), dir)
	}
}

func (l *looker) store() {
	report, err := store.Check(l.config.StatePath(storeFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.add(Note, "", "there is no store of tasks yet")
		return
	case err != nil:
		l.add(Error, "see docs/store.md", "the store cannot be read: %s", err)
		return
	}
	for _, p := range report.Problems {
		l.add(Error, "stop the daemon, keep a copy of the file, and see docs/store.md", "the store is damaged: %s", p)
	}
	if n := len(report.SetAside); n > 0 {
		l.add(Warning, "'vdsm-agentctl store check' names them; see docs/store.md", "tasks that cannot be read are set aside: %d", n)
	}
	if len(report.Problems)+len(report.SetAside) == 0 {
		l.ok("the store is sound; %d tasks are in it", report.Live)
	}
}

// domains looks at all roots, and at the domains in them.
func (l *looker) domains() {
	roots := append([]string{l.config.StatePath("domains")}, l.config.Roots...)
	mounts := l.config.Mounts
	if mounts == "" {
		mounts = l.config.StatePath("mnt")
	}
	if mounted, err := os.ReadDir(mounts); err == nil {
		for _, one := range mounted {
			if one.IsDir() { // what is linked there is a root already
				roots = append(roots, filepath.Join(mounts, one.Name()))
			}
		}
	}
	for i, root := range roots {
		type looked struct {
			room
			domains []domain.DomainMeta
			bad     []error
		}
		r, answered := within(func() looked {
			out := looked{room: roomOf(root)}
			if out.err == nil {
				out.domains, out.bad = domainsIn(root)
			}
			return out
		})
		before := len(l.found)
		switch {
		case !answered:
			l.add(Error, "look after its server or disk; everything else goes on meanwhile", "the file system of %s does not answer", root)
			continue
		case i == 0 && errors.Is(r.err, fs.ErrNotExist): // the daemon makes it
			continue
		case r.err != nil:
			l.add(Error, "make the directory or mount it, or take it out of storage.roots", "%s cannot be looked at: %s", root, r.err)
			continue
		case r.readOnly:
			l.add(Error, "mount it for writing", "the file system of %s is read-only", root)
		case r.percent() < littleRoom:
			l.add(Warning, "make room: 'vdsm-agentctl trash list' shows what deletes still hold", "the file system of %s is nearly full: %s are left", root, size(r.free))
		}
		for _, err := range r.bad {
			l.add(Error, "'vdsm-agentctl domain check' says more", "%s", err)
		}
		for _, d := range r.domains {
			if _, err := exec.LookPath("sanlock"); d.Type != domain.TypeLocalFS && err != nil {
				l.add(Error, "install the package sanlock", "storage domain %s is for several hosts, and there is no program sanlock, without which no volume can be made in it", d.UUID)
			}
		}
		if len(l.found) == before {
			l.ok("%s: %d domains; %s are left", root, len(r.domains), size(r.free))
		}
	}
}

// domainsIn reads what the domains of a root say of themselves.
func domainsIn(root string) (all []domain.DomainMeta, bad []error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, []error{fmt.Errorf("%s cannot be read: %w", root, err)}
	}
	for _, e := range entries {
		if !param.ValidUUID(e.Name()) {
			continue
		}
		dir := filepath.Join(root, e.Name())
		text, err := os.ReadFile(filepath.Join(dir, "dom_md", "metadata"))
		if err != nil {
			bad = append(bad, fmt.Errorf("the metadata of storage domain %s cannot be read: %w", dir, err))
			continue
		}
		meta, err := domain.ParseDomainMeta(text)
		if err != nil {
			bad = append(bad, fmt.Errorf("the metadata of storage domain %s cannot be understood: %w", dir, err))
			continue
		}
		all = append(all, meta)
	}
	return all, bad
}

// size is a number of bytes for people.
func size(n uint64) string {
	for _, unit := range []struct {
		bytes uint64
		name  string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}} {
		if n >= unit.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
