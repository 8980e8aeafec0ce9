package domain

import (
	"context"
	"io/fs"
	"os"
	"path"
	"time"

	"vdsm-agent/internal/code"
)

// reclaimPiece is how much of a file is freed at once, in bytes. Where its pages are cached, ext4 takes about 220 ms
// for 1 GiB (5 ms where they are not): this takes some 30 ms.
const reclaimPiece = 128 << 20

// TrashEntry is one entry as List shows it.
type TrashEntry struct {
	Task       string    `json:"task"`
	Bytes      int64     `json:"bytes"` // on disk now, that Remove will free
	Created    time.Time `json:"created,omitzero"`
	Deadline   time.Time `json:"deadline,omitzero"`
	Items      []Item    `json:"items"`
	Reclaiming bool      `json:"reclaiming,omitempty"` // it cannot be restored any more
	Problem    string    `json:"problem,omitempty"`    // why Items are not known
}

// List returns what is in the trash, sorted by task. An entry whose manifest cannot be read is in it, with its Problem.
func (tr *Trash) List() ([]TrashEntry, error) {
	tasks, err := tr.d.t.list(trashDir)
	if notExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []TrashEntry
	for _, task := range tasks {
		e := TrashEntry{Task: task}
		if e.Bytes, err = tr.bytes(tr.entryDir(task)); notExist(err) {
			continue // gone since it was listed
		}
		if err != nil {
			return nil, err
		}
		m, err := tr.readFile(task, manifestName)
		if notExist(err) {
			m, err = tr.readFile(task, reclaimName)
			e.Reclaiming = err == nil
		}
		switch {
		case notExist(err) && e.Bytes == 0:
			continue // a Put that died before its manifest, or a Remove after it
		case notExist(err):
			e.Problem = "it has no manifest"
		case err != nil:
			e.Problem = err.Error()
		default:
			e.Created, e.Deadline, e.Items = m.Created, m.Deadline, m.Items
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// bytes is what the files below name take on disk and have no other name for.
func (tr *Trash) bytes(name string) (int64, error) {
	fi, err := tr.d.t.lstat(name)
	if err != nil {
		return 0, err
	}
	if !fi.IsDir() {
		return freedBy(fi), nil
	}
	names, err := tr.d.t.list(name)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, n := range names {
		if n == manifestName || n == reclaimName {
			continue
		}
		b, err := tr.bytes(path.Join(name, n))
		if err != nil && !notExist(err) {
			return 0, err
		}
		sum += b
	}
	return sum, nil
}

// freedBy is what is free once the file is unlinked here: nothing, where a hard link of a template remains elsewhere.
func freedBy(fi fs.FileInfo) int64 {
	if !fi.Mode().IsRegular() || linkCount(fi) > 1 {
		return 0
	}
	return allocated(fi)
}

// Remove deletes for good what a task has put into the trash. It frees files from their end, in pieces of well under
// 100 ms, and looks at ctx between them: context.Cause(ctx) is returned then, and a repetition goes on. progress may be
// nil; it is called with all that was freed so far, in bytes. Nothing there is no error. From its first change on the
// entry cannot be restored. Files with a further hard link (a template's) are only unlinked, never truncated.
func (tr *Trash) Remove(ctx context.Context, task string, progress func(freed int64)) error {
	d, entry := tr.d, tr.entryDir(task)
	if err := checkUUIDs("task", task); err != nil {
		return err
	}
	if err := d.changeable(); err != nil {
		return err
	}
	there, err := tr.there(task)
	if err != nil {
		return err
	}
	if there {
		if err := tr.giveUp(task); err != nil {
			return err
		}
		r := reclaim{t: d.t, ctx: ctx, progress: progress}
		if err := r.dir(entry, true); err != nil {
			return err
		}
		if err := d.t.remove(path.Join(entry, reclaimName)); err != nil {
			return err
		}
		if err := d.t.remove(entry); err != nil {
			return err
		}
	}
	if err := d.t.sync(trashDir); err != nil && !notExist(err) {
		return err
	}
	if err := d.keepReserve(); code.Of(err) != code.NoSpaceLeftOnDomain {
		return err
	}
	return nil // still full; the next Remove makes the reserve
}

// giveUp makes the entry unrestorable. It renames the manifest, which needs no room.
func (tr *Trash) giveUp(task string) error {
	tr.d.mu.Lock()
	defer tr.d.mu.Unlock()
	entry := tr.entryDir(task)
	if err := tr.d.t.rename(path.Join(entry, manifestName), path.Join(entry, reclaimName)); err != nil && !notExist(err) {
		return err
	}
	return tr.d.t.sync(entry)
}

// reclaim is one run of Remove.
type reclaim struct {
	t        *tree
	ctx      context.Context
	progress func(int64)
	freed    int64
}

// dir removes all in a directory; at the top all but the manifest.
func (r *reclaim) dir(name string, top bool) error {
	names, err := r.t.list(name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if top && n == reclaimName {
			continue
		}
		n = path.Join(name, n)
		fi, err := r.t.lstat(n)
		switch {
		case notExist(err):
			continue
		case err != nil:
			return err
		case fi.IsDir():
			if err := r.dir(n, false); err != nil {
				return err
			}
		case fi.Mode().IsRegular():
			if err := r.shrink(n); err != nil {
				return err
			}
		}
		if err := r.unlink(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *reclaim) unlink(name string) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	fi, err := r.t.lstat(name)
	if err != nil {
		return err
	}
	freed := freedBy(fi)
	if err := r.t.remove(name); err != nil {
		return err
	}
	r.add(freed)
	return nil
}

// shrink cuts the file until what is left can be unlinked at once.
func (r *reclaim) shrink(name string) error {
	f, err := r.t.open(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		fi, err := f.Stat()
		if err != nil {
			return osError(err, "look at", r.t.abs(name))
		}
		before := freedBy(fi)
		if before <= reclaimPiece {
			return nil
		}
		if err := r.t.truncate(f, name, max(0, fi.Size()-reclaimPiece)); err != nil {
			return err
		}
		if fi, err = f.Stat(); err != nil {
			return osError(err, "look at", r.t.abs(name))
		}
		r.add(before - allocated(fi))
	}
}

func (r *reclaim) add(freed int64) {
	r.freed += freed
	if r.progress != nil && freed > 0 {
		r.progress(r.freed)
	}
}
