package storageops

import (
	"errors"
	"io/fs"
	"path"
	"syscall"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
)

// hand changes a disk for a task, effect by effect, each after the gate was asked.
type hand struct {
	disk   *disk
	gate   prove.Gate
	scope  *tasks.Scope // of the step that is at work; a task has one goroutine for all its steps
	worker *memWorker   // who does it: nil = the agent itself
}

var errWorkerEnded = errors.New("the worker was ended by a signal")

// effect makes one change, or several that are there at once.
func (h *hand) effect(what string, changes func(d *disk) []change) error {
	return h.pass(what, func(d *disk) { d.make(changes(d)...) })
}

// sync puts a file, or the names in a directory, on stable storage.
func (h *hand) sync(what string, name string) error {
	ino, n := h.disk.lookup(name)
	if n == nil {
		return noFile(name)
	}
	return h.syncInode(what, ino)
}

func (h *hand) syncInode(what string, ino inode) error {
	return h.pass("sync "+what, func(d *disk) { d.sync(ino) })
}

// pass asks the gate; while it asks nothing is held. What a dead worker was about to do does not happen.
func (h *hand) pass(what string, do func(d *disk)) error {
	if err := h.gate(h.scope, what); err != nil {
		return err
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.worker != nil && h.worker.ended() {
		return errWorkerEnded
	}
	do(h.disk)
	return nil
}

// mkdir makes a directory if it is missing, and says whether it was.
func (h *hand) mkdir(what, name string, mode fs.FileMode) (bool, error) {
	parent, _ := h.disk.lookup(path.Dir(name))
	if _, n := h.disk.lookup(name); n != nil {
		return false, nil
	}
	return true, h.effect("make "+what, func(d *disk) []change { return []change{d.mkdir(parent, path.Base(name), mode)} })
}

// replace puts data in the place of the file name, whole or not at all, synced. The temporary name under which it grows is
// left out: the next claim removes it.
func (h *hand) replace(what, name string, data any) error {
	dir, parent := h.disk.lookup(path.Dir(name))
	if parent == nil {
		return noFile(path.Dir(name))
	}
	mode := fs.FileMode(0o644)
	if _, old := h.disk.lookup(name); old != nil {
		mode = old.mode
	}
	ino := h.disk.hold()
	defer h.disk.release(ino)
	err := h.effect("write "+what, func(d *disk) []change {
		return []change{d.fill(ino, func(n *node) { n.data, n.mode = data, mode })}
	})
	if err != nil {
		return err
	}
	if err := h.syncInode(what, ino); err != nil {
		return err
	}
	err = h.effect("rename "+what, func(d *disk) []change { return []change{d.link(dir, path.Base(name), ino)} })
	if err != nil {
		return err
	}
	return h.syncInode("the directory of "+what, dir)
}

func (h *hand) rename(what, from, to string) error {
	ino, n := h.disk.lookup(from)
	if n == nil {
		return noFile(from)
	}
	a, _ := h.disk.lookup(path.Dir(from))
	b, _ := h.disk.lookup(path.Dir(to))
	return h.effect(what, func(d *disk) []change { return []change{d.rename(a, path.Base(from), b, path.Base(to), ino)} })
}

// link gives the file from another name, in place of what had it.
func (h *hand) link(what, from, to string) error {
	ino, n := h.disk.lookup(from)
	if n == nil {
		return noFile(from)
	}
	dir, _ := h.disk.lookup(path.Dir(to))
	return h.effect(what, func(d *disk) []change { return []change{d.link(dir, path.Base(to), ino)} })
}

// remove removes the name of a file or of an empty directory; that it is gone is no error.
func (h *hand) remove(what, name string) error {
	ino, n := h.disk.lookup(name)
	if n == nil {
		return nil
	}
	if len(n.names) > 0 {
		return code.Errorf(code.Storage, "cannot remove %s: %w", name, syscall.ENOTEMPTY)
	}
	dir, _ := h.disk.lookup(path.Dir(name))
	return h.effect("remove "+what, func(d *disk) []change { return []change{d.unlink(dir, path.Base(name), ino)} })
}
