package domaincheck

import (
	"encoding/json"
	"path"
	"slices"
	"time"

	"vdsm-agent/storageops/domain"
)

// agentFiles looks at what agents keep in the domain.
func (s *scan) agentFiles() {
	if f := s.look(agentDir); f == nil || !f.mode.IsDir() {
		return
	}
	for _, name := range s.list(agentDir) {
		full := path.Join(agentDir, name)
		switch name {
		case "claim", "reserve", "locks":
		case "tmp":
			for _, n := range s.list(full) {
				s.add("agent-temporary", path.Join(full, n), "%s is a temporary file of an agent.", path.Join(full, n))
			}
		case "trash":
			for _, task := range s.list(full) {
				s.trashEntry(task)
			}
		default:
			s.add("agent-file", full, "%s is not known.", full)
		}
	}
}

// trashEntry looks at what one task has put into the trash.
func (s *scan) trashEntry(task string) {
	dir := path.Join(trashDir, task)
	names := s.list(dir)
	if len(names) == 0 {
		return // what a Put or a Remove that died leaves; the next one takes it
	}
	damaged := func(format string, args ...any) { s.add("trash-damaged", dir, format, args...).Task = task }
	manifest := "manifest.json"
	reclaiming := !slices.Contains(names, manifest)
	if reclaiming {
		manifest = "reclaim.json"
	}
	data, err := s.read(path.Join(dir, manifest), 4<<20)
	if err != nil {
		damaged("What task %s has in the trash has no manifest that can be read: %v.", task, err)
		return
	}
	var m domain.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Task != task || !isUUID(task) {
		damaged("The manifest of what task %s has in the trash is damaged.", task)
		return
	}
	if !reclaiming {
		for _, it := range m.Items {
			for _, f := range it.Files {
				if missing := s.missing(dir, it, f); missing != "" {
					damaged("Task %s has put %s into the trash, and it is there no more.", task, missing)
					return
				}
			}
		}
	}
	class, what := Class("trash"), "since "+moment(m.Created)
	switch {
	case reclaiming:
		what = "and being removed"
	case s.o.Known != nil && !s.o.Known(task):
		class, what = "trash-unowned", "and the agent that is running does not know that task"
	case !m.Deadline.IsZero() && m.Deadline.Before(s.o.Now):
		class, what = "trash-overdue", "and should have been removed by "+moment(m.Deadline)
	case !m.Deadline.IsZero():
		what += " and until " + moment(m.Deadline)
	}
	s.add(class, dir, "%s are in the trash of task %s (agent %s), %s.", things(len(m.Items)), task, m.Agent, what).Task = task
}

// missing names a file of the trash that is neither there nor back where it was.
func (s *scan) missing(dir string, it domain.Item, f domain.ItemFile) string {
	if path.Base(f.Name) != f.Name || path.Base(it.Dir) != it.Dir {
		return f.Name
	}
	if s.look(path.Join(dir, it.Dir, f.Name)) != nil {
		return ""
	}
	if back := s.look(path.Join(it.Home(), f.Name)); back != nil && back.inode == f.Inode {
		return ""
	}
	return path.Join(it.Home(), f.Name)
}

func moment(t time.Time) string { return t.Local().Format(time.DateTime) }

func things(n int) string {
	if n == 1 {
		return "1 thing"
	}
	return itoa(n) + " things"
}
