package vdsmtasks

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Aside is something in the directory that could not be read.
type Aside struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Found is what a directory of tasks holds.
type Found struct {
	Tasks []Task  `json:"tasks"` // by when they were saved, the oldest first
	Aside []Aside `json:"setAside"`
}

// Read reads the tasks in dir. That there is no such directory is fs.ErrNotExist, one that cannot be listed another error; all else
// is set aside.
func Read(fsys fs.FS, dir string) (Found, error) {
	found := Found{Tasks: []Task{}, Aside: []Aside{}}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return found, err
	}
	dirs := map[string][]string{} // by task: their kinds
	for _, e := range entries {
		id, kind, _ := strings.Cut(e.Name(), ".")
		switch {
		case !e.IsDir():
			found.aside(e.Name(), errors.New("it is not a directory, so it is no task"))
		case !slices.Contains(kinds, kind):
			found.aside(e.Name(), errors.New("its name is no task's"))
		default:
			dirs[id] = append(dirs[id], kind)
		}
	}
	for id, there := range dirs {
		found.take(fsys, dir, id, there)
	}
	slices.SortFunc(found.Tasks, func(a, b Task) int { return cmp.Or(a.Saved.Compare(b.Saved), strings.Compare(a.ID, b.ID)) })
	slices.SortFunc(found.Aside, func(a, b Aside) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

func (f *Found) aside(name string, why error) { f.Aside = append(f.Aside, Aside{name, why.Error()}) }

// kinds are what the directories of a task may be called behind its id, in the order in which VDSM looks for them.
var kinds = []string{"", "temp", "backup"}

// take reads the first of the task's directories that can be read; the others are set aside.
func (f *Found) take(fsys fs.FS, dir, id string, there []string) {
	read := ""
	for _, kind := range kinds {
		if !slices.Contains(there, kind) {
			continue
		}
		name := strings.TrimSuffix(id+"."+kind, ".")
		if read != "" {
			f.aside(name, fmt.Errorf("it is left of a rewrite, and %s is read instead of it", read))
			continue
		}
		r := reader{fsys: fsys, dir: path.Join(dir, name), name: name, id: id, found: f}
		t, err := r.task()
		if err != nil {
			f.aside(name, err)
			continue
		}
		f.Tasks, read = append(f.Tasks, t), name
	}
}

// reader reads one task.
type reader struct {
	fsys  fs.FS
	dir   string
	name  string
	id    string
	found *Found
}

func (r reader) task() (Task, error) {
	t := Task{ID: r.id, Dir: r.name, Jobs: []Job{}, Recoveries: []Recovery{}}
	f, saved, err := r.file(".task")
	if err == nil {
		err = f.need("id", "name", "state", "njobs", "nrecoveries")
	}
	if err != nil {
		return t, fmt.Errorf("%s.task: %w", r.id, err)
	}
	if f["id"] != r.id {
		return t, fmt.Errorf("%s.task is of task %q", r.id, f["id"])
	}
	t.Verb, t.State, t.Tag, t.Saved = f["name"], f["state"], f["tag"], saved.ModTime()
	r.parts(f, "njobs", ".job", []string{"name", "runcmd"}, func(f fields) {
		j := Job{Name: f["name"], Args: []string{}}
		parseCommand(&j, f["runcmd"])
		t.Jobs = append(t.Jobs, j)
	})
	r.parts(f, "nrecoveries", ".recover", []string{"name", "moduleName", "object", "function", "params"}, func(f fields) {
		c := Recovery{Name: f["name"], Function: strings.Join([]string{f["moduleName"], f["object"], f["function"]}, "."), Params: []string{}}
		for p := range strings.SplitSeq(f["params"], ",") {
			if p = strings.TrimSpace(p); p != "" {
				c.Params = append(c.Params, p)
			}
		}
		t.Recoveries = append(t.Recoveries, c)
	})
	switch f, _, err := r.file(".result"); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.found.aside(path.Join(r.name, r.id+".result"), err)
	default:
		t.Result = &Result{f["code"], f["message"], f["result"]}
	}
	return t, nil
}

// parts reads as many numbered files as a field says. One that cannot be read is set aside.
func (r reader) parts(f fields, count, suffix string, need []string, add func(fields)) {
	n, err := f.number(count)
	if err != nil {
		r.found.aside(path.Join(r.name, r.id+".task"), err)
		return
	}
	for i := range n {
		name := suffix + "." + strconv.Itoa(i)
		part, _, err := r.file(name)
		if err == nil {
			err = part.need(need...)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.found.aside(path.Join(r.name, r.id+name), err)
			return
		case err != nil:
			r.found.aside(path.Join(r.name, r.id+name), err)
		default:
			add(part)
		}
	}
}

// file reads <id><suffix>.
func (r reader) file(suffix string) (fields, fs.FileInfo, error) {
	name := path.Join(r.dir, r.id+suffix)
	fi, err := fs.Lstat(r.fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("it is missing: %w", fs.ErrNotExist)
	case err != nil:
		return nil, nil, err
	case !fi.Mode().IsRegular():
		return nil, nil, errors.New("it is not a regular file")
	}
	file, err := r.fsys.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	f, err := parseFields(data)
	return f, fi, err
}
