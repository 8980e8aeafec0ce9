package storageops

import (
	"context"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// each is a step that does something for each of the repairs that part selects, in their order, and undoes it the other way round. Each
// can be repeated, so nothing is recorded between two of them.
func each[T any](x *repair, name, undone string, part func(repairs) []T, do, undo func(storageDomain, T) error) tasks.Step {
	return tasks.Step{
		Name: name, Undone: undone,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			all, d, err := reachable(x, s, part)
			if err != nil {
				return err
			}
			for _, one := range all {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := do(d, one); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			all, d, err := reachable(x, s, part)
			if err != nil || len(all) == 0 {
				return err
			}
			// What did not come back from the trash is nowhere: writing beside it would make a new thing of it.
			if left, err := d.Trash().Has(x.task); err != nil {
				return err
			} else if left {
				return code.Errorf(code.TaskState, "%s is not taken back until all that was moved is back from the trash", name)
			}
			for i := len(all) - 1; i >= 0; i-- {
				if err := undo(d, all[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// reachable returns one part of the repairs, and the domain.
func reachable[T any](x *repair, s *tasks.Scope, part func(repairs) []T) ([]T, storageDomain, error) {
	p, err := x.found(s)
	if err != nil {
		return nil, nil, err
	}
	d, err := x.st.domains.Get(string(x.Domain))
	return part(p), d, err
}

func (x *repair) permissionsStep() tasks.Step {
	return each(x, "permissions", "modes and owners are as they were", func(p repairs) []permissionsFix { return p.Permissions },
		func(d storageDomain, one permissionsFix) error { return d.SetPermissions(one.Path, one.After) },
		func(d storageDomain, one permissionsFix) error { return d.SetPermissions(one.Path, one.Before) })
}

func (x *repair) linkStep() tasks.Step {
	return each(x, "link", "links of templates are as they were", func(p repairs) []linkFix { return p.Links },
		func(d storageDomain, one linkFix) error { return d.ShareTemplate(one.Template, one.Volume, one.Image) },
		func(d storageDomain, one linkFix) error {
			return d.SetShare(one.Template, one.Volume, one.Image, one.Before)
		})
}

func (x *repair) rewriteStep() tasks.Step {
	return each(x, "rewrite", "metadata is as it was", func(p repairs) []rewriteFix { return p.Rewrites },
		func(d storageDomain, one rewriteFix) error { return d.SetMetaText(one.Image, one.Volume, one.After) },
		func(d storageDomain, one rewriteFix) error { return d.SetMetaText(one.Image, one.Volume, one.Before) })
}

// trashStep comes last, so that it is undone first: what was changed and then moved is back before the change is.
func (x *repair) trashStep() tasks.Step {
	return tasks.Step{
		Name: stepTrash, Undone: "everything is back from the trash",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := x.found(s)
			if err != nil || len(p.Trash) == 0 {
				return err
			}
			d, err := x.st.domains.Get(string(x.Domain))
			if err != nil {
				return err
			}
			for _, e := range p.Trash {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := d.Trash().Put(e); err != nil {
					return err
				}
			}
			for _, image := range p.Empty {
				if err := d.RemoveImageDirIfEmpty(image); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			p, err := x.found(s)
			if err != nil || len(p.Trash) == 0 {
				return err
			}
			d, err := x.st.domains.Get(string(x.Domain))
			if err != nil {
				return err
			}
			return d.Trash().Restore(x.task, nil)
		},
	}
}
