package storageops

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"vdsm-agent/internal/code"
)

// inode numbers a file or directory; no number is used twice.
type inode int

const topDir inode = 1

// node is a file or a directory.
type node struct {
	mode         fs.FileMode
	names        map[string]inode // of a directory; nil = a file
	data         any              // of a file: picture, domain.VolumeMeta or domain.Manifest; never changed in place
	mtime, ctime int64
}

// touch notes a change. Changes become safe in another order than they were made in; the latest counts.
func (n *node) touch(at int64) { n.ctime = max(n.ctime, at) }

// state is all that is on a disk, also what has no name (any more).
type state map[inode]*node

func (s state) clone() state {
	c := make(state, len(s))
	for ino, n := range s {
		m := *n
		m.names = maps.Clone(n.names)
		c[ino] = &m
	}
	return c
}

// at returns the node, an empty file if nothing was heard of it yet.
func (s state) at(ino inode) *node {
	if ino == 0 {
		panic("a change of what is not there")
	}
	n, ok := s[ino]
	if !ok {
		n = &node{}
		s[ino] = n
	}
	return n
}

func (s state) dir(ino inode) *node {
	n := s.at(ino)
	if n.names == nil {
		n.names = map[string]inode{}
	}
	return n
}

func (s state) find(name string) (inode, *node) {
	ino, n := topDir, s[topDir]
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if n == nil {
			return 0, nil
		}
		if part == "" {
			break // the top itself
		}
		ino = n.names[part]
		n = s[ino]
	}
	return ino, n
}

// reach adds all that has a name below ino.
func (s state) reach(ino inode, found map[inode]bool) {
	if found[ino] || s[ino] == nil {
		return
	}
	found[ino] = true
	for _, child := range s[ino].names {
		s.reach(child, found)
	}
}

// disk is a file system in memory. Each change is there for all readers at once and, until all that it needs is synced, it is kept
// or lost by a crash by itself, whatever becomes of those before and after it. A rename is one change, as in every file
// system with a journal; the name of a file and its content are two.
type disk struct {
	mu    sync.Mutex
	now   state // what readers see
	safe  state // what survives a crash for sure
	open  []change
	last  inode
	clock int64          // in place of time: each change has its own
	held  map[inode]bool // files that get their name later
}

// change is one thing that a crash keeps or loses.
type change struct {
	on    inode   // what it changes
	needs []inode // what has to be synced until it is safe
	apply func(state)
}

func newDisk() *disk {
	d := &disk{now: state{}, last: topDir, held: map[inode]bool{}}
	d.now.dir(topDir).mode = fs.ModeDir | 0o755
	d.safe = d.now.clone()
	return d
}

// clone is the disk as it is, with all that is on it safe.
func (d *disk) clone() *disk {
	return &disk{now: d.now.clone(), safe: d.now.clone(), last: d.last, clock: d.clock, held: map[inode]bool{}}
}

// crash is what is left of the disk; keep decides about each change that is not safe, in their order.
func (d *disk) crash(keep func() bool) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.safe.clone()
	for _, c := range d.open {
		if keep() {
			c.apply(left)
		}
	}
	named := map[inode]bool{}
	left.reach(topDir, named)
	maps.DeleteFunc(left, func(ino inode, _ *node) bool { return !named[ino] })
	return &disk{now: left, safe: left.clone(), last: d.last, clock: d.clock, held: map[inode]bool{}}
}

// make applies changes. The caller holds mu.
func (d *disk) make(changes ...change) {
	for _, c := range changes {
		c.apply(d.now)
		d.open = append(d.open, c)
	}
}

// sync makes safe what needs nothing but ino any more. The caller holds mu.
func (d *disk) sync(ino inode) {
	var open []change
	for _, c := range d.open {
		c.needs = slices.DeleteFunc(slices.Clone(c.needs), func(n inode) bool { return n == ino })
		if len(c.needs) == 0 {
			c.apply(d.safe)
		} else {
			open = append(open, c)
		}
	}
	// What was changed on something that is gone for good can make no difference.
	now, safe := map[inode]bool{}, map[inode]bool{}
	d.now.reach(topDir, now)
	d.safe.reach(topDir, safe)
	d.open = slices.DeleteFunc(open, func(c change) bool { return !now[c.on] && !safe[c.on] && !d.held[c.on] })
}

// hold returns a new file without a name.
func (d *disk) hold() inode {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	d.held[d.last] = true
	return d.last
}

func (d *disk) release(ino inode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, ino)
}

func (d *disk) tick() int64 { d.clock++; return d.clock }

// lookup returns what has the name, or nil. The node may be kept: its content is never changed in place.
func (d *disk) lookup(name string) (inode, *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, n := d.now.find(name)
	if n == nil {
		return 0, nil
	}
	c := *n
	c.names = maps.Clone(n.names)
	return ino, &c
}

// list returns the names in a directory, sorted.
func (d *disk) list(name string) []string {
	_, n := d.lookup(name)
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.names))
}

// links counts the names of a file.
func (d *disk) links(ino inode) (count int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.now {
		for _, child := range n.names {
			if child == ino {
				count++
			}
		}
	}
	return count
}

// What follows makes changes; the caller holds mu.

// fill gives a file its content.
func (d *disk) fill(ino inode, edit func(n *node)) change {
	at := d.tick()
	return change{ino, []inode{ino}, func(s state) {
		n := s.at(ino)
		edit(n)
		n.mtime = max(n.mtime, at)
		n.touch(at)
	}}
}

func (d *disk) chmod(ino inode, mode fs.FileMode) change {
	at := d.tick()
	return change{ino, []inode{ino}, func(s state) {
		n := s.at(ino)
		n.mode = n.mode&fs.ModeDir | mode
		n.touch(at)
	}}
}

// link gives ino a name, in place of what had it.
func (d *disk) link(dir inode, name string, ino inode) change {
	at := d.tick()
	return change{dir, []inode{dir}, func(s state) {
		s.dir(dir).names[name] = ino
		s.at(ino).touch(at)
	}}
}

func (d *disk) mkdir(dir inode, name string, mode fs.FileMode) change {
	d.last++
	ino := d.last
	return change{dir, []inode{dir}, func(s state) {
		s.dir(ino).mode = fs.ModeDir | mode
		s.dir(dir).names[name] = ino
	}}
}

// rename is safe when both directories are. It moves only what has the name then.
func (d *disk) rename(from inode, name string, to inode, newName string, ino inode) change {
	at := d.tick()
	return change{to, []inode{from, to}, func(s state) {
		if s.dir(from).names[name] == ino {
			delete(s.dir(from).names, name)
			s.dir(to).names[newName] = ino
			s.at(ino).touch(at)
		}
	}}
}

func (d *disk) unlink(dir inode, name string, ino inode) change {
	at := d.tick()
	return change{dir, []inode{dir}, func(s state) {
		if s.dir(dir).names[name] == ino {
			delete(s.dir(dir).names, name)
			s.at(ino).touch(at)
		}
	}}
}

// noFile is what the real thing answers where a file is missing that should be there.
func noFile(name string) error {
	return code.Errorf(code.Storage, "cannot find %s: %w", path.Base(name), fs.ErrNotExist)
}
