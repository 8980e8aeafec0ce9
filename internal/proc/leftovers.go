package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// subtreeList is the file in Options.Dir that lists, one a line, the cgroups under which workers may be. The agent may be
// started from another cgroup than last time, or with another configuration, and must find them all the same.
const subtreeList = "cgroups"

// Leftovers finds every worker of a former run that is not proven gone, in whatever mode it was started, and sends it
// SIGKILL. It does not wait for them. It is called once, before the first Start; as long as a worker's Gone is open, its
// task must not go on. An error means that there may be more workers than those returned.
func (m *Manager) Leftovers() ([]*Worker, error) {
	var found []*Worker
	var errs error
	take := func(name, task string, h holder, err error) {
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("the worker %s of a former run cannot be examined: %w", name, err))
			return
		}
		w := newWorker(task, name, m.log)
		w.held = h
		if err := m.add(w); err != nil {
			errs = errors.Join(errs, err)
			return
		}
		w.Kill()
		w.launched(nil, nil, nil)
		go m.follow(w)
		found = append(found, w)
	}
	for _, subtree := range m.subtrees {
		names, err := below(subtree)
		errs = errors.Join(errs, err)
		for _, name := range names {
			_, task, ok := parseHolderName(name)
			if !ok {
				m.log.Warn().Str("cgroup", filepath.Join(subtree, name)).Msg("this cgroup is not one of ours; it is left alone")
				continue
			}
			if l, err := leftoverLeaf(filepath.Join(subtree, name)); l != nil || err != nil {
				take(name, task, l, err)
			}
		}
	}
	names, err := recordNames(m.dir)
	errs = errors.Join(errs, err)
	for _, name := range names {
		g, err := m.leftoverGroup(filepath.Join(m.dir, name+recordSuffix))
		if g != nil {
			take(name, g.rec.Task, g, nil)
		} else if err != nil {
			take(name, "", nil, err)
		}
	}
	return found, errors.Join(errs, m.dropSubtrees(false))
}

// leftoverLeaf returns the leaf if a process is in it. An empty one is removed.
func leftoverLeaf(path string) (*leaf, error) {
	l, err := openLeaf(path)
	if err != nil {
		if isGone(err) {
			return nil, nil
		}
		return nil, err
	}
	populated, err := l.populated()
	if populated && err == nil {
		return l, nil
	}
	if err != nil {
		return nil, errors.Join(err, l.events.Close())
	}
	return nil, l.remove()
}

// leftoverGroup returns the group if a process of it is alive. A record of an earlier boot, or of a group that is gone, is
// removed; one that cannot be read is set aside.
func (m *Manager) leftoverGroup(file string) (*group, error) {
	g, err := readGroup(file)
	if err != nil {
		m.log.Error().Err(err).Str("file", file+badSuffix).Msg("the record of a former worker is damaged; it is set aside under this name")
		return nil, os.Rename(file, file+badSuffix)
	}
	if g.rec.Boot != m.boot {
		return nil, g.remove()
	}
	ms, err := g.members()
	defer closeAll(ms)
	if len(ms) == 0 && err == nil {
		return nil, g.remove()
	}
	return g, nil // in doubt it is alive; its watch will tell
}

// findSerial sets m.serial so that no name of a former run that may still be in use is given again.
func (m *Manager) findSerial() error {
	names, err := recordNames(m.dir)
	for _, subtree := range m.subtrees {
		more, berr := below(subtree)
		names, err = append(names, more...), errors.Join(err, berr)
	}
	for _, name := range names {
		if serial, _, ok := parseHolderName(name); ok {
			m.serial = max(m.serial, serial)
		}
	}
	return err
}

func (m *Manager) readSubtrees() error {
	b, err := os.ReadFile(filepath.Join(m.dir, subtreeList))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(b)) {
		m.subtrees = append(m.subtrees, strings.TrimSuffix(line, "\n"))
	}
	return nil
}

func (m *Manager) addSubtree(subtree string) error {
	if slices.Contains(m.subtrees, subtree) {
		return nil
	}
	m.subtrees = append(m.subtrees, subtree)
	return m.saveSubtrees()
}

func (m *Manager) saveSubtrees() error {
	text := ""
	for _, s := range m.subtrees {
		text += s + "\n"
	}
	return replaceFile(filepath.Join(m.dir, subtreeList), []byte(text))
}

// dropSubtrees removes the empty cgroups of former runs, and with all also the one in use, and keeps the others listed.
func (m *Manager) dropSubtrees(all bool) error {
	var errs error
	before := len(m.subtrees)
	m.subtrees = slices.DeleteFunc(m.subtrees, func(s string) bool {
		if s == m.subtree && !all {
			return false
		}
		err := rmdir(s)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = errors.Join(errs, err)
		}
		return err == nil
	})
	if len(m.subtrees) == before {
		return errs
	}
	return errors.Join(errs, m.saveSubtrees())
}
