package storageops

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// emptyTrashParams name what is reclaimed: what one task has put into the trash, or all of a domain's.
type emptyTrashParams struct {
	Task   param.UUID `json:"taskID" default:"" doc:"the task whose trash is emptied"`
	Domain param.UUID `json:"storagedomainID" default:"" doc:"the domain; without a task its whole trash is emptied"`
	// PostZero is as in the verbs that delete.
	PostZero param.Bool `json:"postZero" default:"false" doc:"overwrite the data with zeros first"`
}

func (p emptyTrashParams) check() error {
	if p.Task.IsBlank() && p.Domain.IsBlank() {
		return code.Errorf(code.InvalidParameter, "give a taskID, or the storagedomainID whose whole trash is to be emptied")
	}
	return nil
}

// reclaimTask is the task that unlinks what another has put into the trash, of one domain, or with "" of all.
func reclaimTask(domain, task string, postZero bool) *tasks.Submission {
	params := map[string]any{"taskID": task, "postZero": postZero}
	if domain != "" {
		params["storagedomainID"] = domain
	}
	raw, err := json.Marshal(params)
	if err != nil {
		panic(err) // strings and booleans always marshal
	}
	return &tasks.Submission{Verb: "Trash.empty", Params: raw}
}

// emptyTrash is the reclaim: submitted by a clear, by the end of an undo, or by a person. It never loses its way: what is
// left of the trash is all it needs to know.
func (st *Storage) emptyTrash() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Remove for good what a task, or every task of a domain, moved to the trash.",
		Name: "Trash.empty", Params: emptyTrashParams{}, Ours: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{
			CancellableUntil: "started", PointOfNoReturn: "unlink (with postZero: wipe)", Undo: "nothing was removed", Bound: 5 * time.Second,
		},
		Plan: st.planEmptyTrash,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[emptyTrashParams](raw, param.Strict)
			if err != nil {
				return err
			}
			if !p.Domain.IsBlank() {
				_, err := st.writable(string(p.Domain))
				return err
			}
			found, err := st.trashesOf(string(p.Task))
			if err == nil && len(found) == 0 {
				err = code.Errorf(code.InvalidParameter, "task %s has nothing in the trash of any domain", p.Task)
			}
			return err
		},
	}
}

func (st *Storage) planEmptyTrash(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[emptyTrashParams](raw, param.Strict)
	if err != nil {
		return nil, err
	}
	plan := &tasks.Plan{Tag: tasks.TagLocal, Locks: []tasks.Lock{tasks.TaskLock(id)}}
	if p.Task.IsBlank() {
		// What a live task has put aside must not go: so none may be at work in the domain.
		plan.Locks = append(plan.Locks, domainExclusive(string(p.Domain)))
	} else {
		plan.Locks = append(plan.Locks, tasks.TaskLock(string(p.Task))) // that task is not being reverted meanwhile
	}
	if p.PostZero {
		plan.Steps = append(plan.Steps, tasks.Step{
			Name: "wipe", PointOfNoReturn: true, Slices: true,
			Do: func(ctx context.Context, s *tasks.Scope) error { return st.wipeTrash(ctx, s, p) },
		})
	}
	plan.Steps = append(plan.Steps, tasks.Step{
		Name: "unlink", PointOfNoReturn: true, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error { return st.unlinkTrash(ctx, s, p) },
	})
	return plan, nil
}

// wipeTrash overwrites the data of all entries. Those whose unlinking had begun are left to it.
func (st *Storage) wipeTrash(ctx context.Context, s *tasks.Scope, p emptyTrashParams) error {
	entries, err := st.toReclaim(p)
	if err != nil {
		return err
	}
	var files, domains []string
	for _, e := range entries {
		if e.Reclaiming {
			continue
		}
		if e.Problem != "" {
			return tasks.Permanent(code.Errorf(code.TaskState, "what task %s has in the trash cannot be wiped, since its manifest cannot be read (%s); empty it without postZero",
				e.Task, e.Problem), "the trash of task "+e.Task)
		}
		data, err := e.in.Trash().Data(e.Task)
		if err != nil {
			return err
		}
		files, domains = append(files, data...), append(domains, e.in.ID())
	}
	return st.wipe(ctx, s, files, domains...)
}

func (st *Storage) unlinkTrash(ctx context.Context, s *tasks.Scope, p emptyTrashParams) error {
	entries, err := st.toReclaim(p)
	if err != nil {
		return err
	}
	var total, freed int64
	for _, e := range entries {
		total += e.Bytes
	}
	for _, e := range entries {
		before := freed
		err := e.in.Trash().Remove(ctx, e.Task, func(n int64) {
			freed = before + n
			s.Progress(freed, total)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reclaimed is an entry that is emptied.
type reclaimed struct {
	in storageDomain
	domain.TrashEntry
}

// toReclaim finds the entries that the parameters name, without a domain those of the task in all domains; none is no error.
func (st *Storage) toReclaim(p emptyTrashParams) ([]reclaimed, error) {
	ids := []string{string(p.Domain)}
	if p.Domain.IsBlank() {
		var err error
		if ids, err = st.trashesOf(string(p.Task)); err != nil {
			return nil, err // none: reclaimed before a restart
		}
	}
	var out []reclaimed
	for _, id := range ids {
		d, err := st.domains.Get(id)
		if err != nil {
			return nil, err
		}
		entries, err := d.Trash().List()
		if err != nil {
			return nil, err
		}
		if !p.Task.IsBlank() {
			entries = slices.DeleteFunc(entries, func(e domain.TrashEntry) bool { return e.Task != string(p.Task) })
			if len(entries) == 0 {
				// A reclaim that died may have left an empty directory, which is in no list; its wipe, if it had one, is done.
				entries = []domain.TrashEntry{{Task: string(p.Task), Reclaiming: true}}
			}
		}
		for _, e := range entries {
			out = append(out, reclaimed{d, e})
		}
	}
	return out, nil
}

// trashesOf finds the domains in which the task has put something into the trash.
func (st *Storage) trashesOf(task string) ([]string, error) {
	var out []string
	for _, id := range st.domains.List() {
		d, err := st.domains.Get(id)
		if err != nil {
			st.log.Warn().Err(err).Str("domain", id).Msg("a domain is passed over while a trash is looked for")
			continue
		}
		has, err := d.Trash().Has(task)
		if err != nil {
			return nil, err
		}
		if has {
			out = append(out, id)
		}
	}
	return out, nil
}

// TrashItem is one entry of Trash.list.
type TrashItem struct {
	Task     string    `json:"taskID"`
	Domain   string    `json:"storagedomainID"`
	Bytes    int64     `json:"bytes"`
	Deadline time.Time `json:"deadline,omitzero"`
	Items    []string  `json:"items"`
	Problem  string    `json:"problem,omitempty"`
}

type trashListParams struct {
	Domain param.UUID `json:"storagedomainID" default:"" doc:"only this domain's"`
}

func (st *Storage) listTrash(_ context.Context, raw json.RawMessage) (any, error) {
	var p trashListParams
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	ids := st.registry.List()
	if !p.Domain.IsBlank() {
		ids = []string{string(p.Domain)}
	}
	out := []TrashItem{}
	for _, id := range ids {
		d, err := st.registry.Get(id)
		if err != nil {
			return nil, err
		}
		entries, err := d.Trash().List()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			item := TrashItem{Task: e.Task, Domain: id, Bytes: e.Bytes, Deadline: e.Deadline, Items: []string{}, Problem: e.Problem}
			for _, i := range e.Items {
				item.Items = append(item.Items, i.Name())
			}
			out = append(out, item)
		}
	}
	return out, nil
}
