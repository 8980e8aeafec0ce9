package storageops

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// labelOf names the ith volume of a delete in the trash.
func labelOf(i int) string {
	if i == 0 {
		return labelDeleted
	}
	return fmt.Sprintf("%s %d", labelDeleted, i+1)
}

// findVolumes finds those that are there, and refuses to delete what others depend on than those that go too.
func (x *deletion) findVolumes(d storageDomain) (deletionPlan, error) {
	doomed := map[string]domain.VolumeMeta{}
	for _, v := range x.volumes {
		m, err := d.ReadVolume(x.Image, v)
		if absent(err) {
			continue
		}
		if err != nil {
			return deletionPlan{}, err
		}
		if m.Image != x.Image {
			return deletionPlan{}, code.Errorf(code.CannotDeleteShared, "%s is a share of the template in image %s; delete image %s instead", x.volume(v), m.Image, x.Image)
		}
		doomed[v] = m
	}
	if len(doomed) == 0 {
		return deletionPlan{Gone: true}, nil
	}
	p := deletionPlan{Volumes: childFirst(doomed)}
	for _, v := range p.Volumes {
		if err := notUsed(d, x.volume(v), p.Volumes...); err != nil {
			return deletionPlan{}, code.Errorf(code.Of(err), "%w; delete that first", err)
		}
		m := doomed[v]
		if _, goes := doomed[m.PUUID]; !goes && m.HasParent() && !slices.Contains(p.Parents, m.PUUID) {
			p.Parents = append(p.Parents, m.PUUID)
		}
	}
	return p, nil
}

func (x *deletion) volume(v string) volumeRef { return volumeRef{x.Domain, x.Image, v} }

// childFirst sorts volumes so that no parent comes before its child.
func childFirst(volumes map[string]domain.VolumeMeta) []string {
	depth := func(v string) (n int) {
		for m, there := volumes[v]; there && n <= len(volumes); n++ { // a loop in damaged metadata ends too
			m, there = volumes[m.PUUID]
		}
		return n
	}
	return slices.SortedFunc(maps.Keys(volumes), func(a, b string) int {
		return cmp.Or(depth(b)-depth(a), cmp.Compare(a, b))
	})
}

// legalityWas is in the plan of the step that marks the volumes.
type legalityWas struct {
	Volume   string `json:"volume"`
	Legality string `json:"legality"`
}

// illegalStep marks the volumes, so that nobody starts to use them while they go.
func (x *deletion) illegalStep() tasks.Step {
	set := func(s *tasks.Scope, to func(legalityWas) string) error {
		var all []legalityWas
		if err := s.Plan(&all); err != nil {
			return err
		}
		d, err := x.st.domains.Get(x.Domain)
		if err != nil {
			return err
		}
		for _, was := range all {
			err := d.UpdateVolumeMeta(x.Image, was.Volume, func(m *domain.VolumeMeta) error { m.Legality = to(was); return nil })
			if err != nil {
				return err
			}
		}
		return nil
	}
	return tasks.Step{
		Name: "illegal",
		Plan: func(_ context.Context, s *tasks.Scope) (any, error) {
			found, err := x.found(s)
			all := []legalityWas{}
			for _, v := range found.Volumes {
				_, m, err := x.st.readable(x.volume(v))
				if err != nil {
					return nil, err
				}
				all = append(all, legalityWas{v, m.Legality})
			}
			return all, err
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			return set(s, func(legalityWas) string { return domain.Illegal })
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return err
			}
			// What did not come back whole is told by the files that the manifest names: rewritten metadata is none of them.
			if left, err := d.Trash().Has(x.task); err != nil {
				return err
			} else if left {
				return code.Errorf(code.VolumeMetadataWrite, "%s stays %s until all of it is back from the trash", x.what(), domain.Illegal)
			}
			return set(s, func(was legalityWas) string { return was.Legality })
		},
	}
}

// parentStep turns each parent into a LEAF again whose children all go.
func (x *deletion) parentStep() tasks.Step {
	change := func(s *tasks.Scope, to func(parentWas) string) error {
		var all []parentWas
		if err := s.Plan(&all); err != nil {
			return err
		}
		for _, p := range all {
			if err := p.change(x.st, x.Domain, x.Image, to(p)); err != nil {
				return err
			}
		}
		return nil
	}
	return tasks.Step{
		Name: "parent",
		Plan: func(_ context.Context, s *tasks.Scope) (any, error) {
			found, err := x.found(s)
			if err != nil || len(found.Parents) == 0 {
				return []parentWas{}, err
			}
			d, err := x.st.domains.Get(x.Domain)
			if err != nil {
				return nil, err
			}
			all := []parentWas{}
			for _, v := range found.Parents {
				parent, err := d.ReadVolume(x.Image, v)
				if absent(err) || err == nil && parent.VolType != domain.Internal {
					continue // a broken chain can be deleted too
				}
				if err != nil {
					return nil, err
				}
				if code.Of(notUsed(d, x.volume(v), found.Volumes...)) != code.VolumeImageHasChild {
					all = append(all, parentWas{v, parent.VolType})
				}
			}
			return all, nil
		},
		Do: func(_ context.Context, s *tasks.Scope) error {
			return change(s, func(parentWas) string { return domain.Leaf })
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			return change(s, func(p parentWas) string { return p.VolType })
		},
	}
}
