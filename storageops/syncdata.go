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

// syncParams are those of Image.syncData.
type syncParams struct {
	Image     param.UUID     `json:"imageID" doc:"image whose data is copied into the chain that Image.cloneStructure made"`
	Pool      param.UUID     `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain    param.UUID     `json:"storagedomainID"`
	DstDomain param.UUID     `json:"dstSdUUID"`
	SyncType  param.SyncType `json:"syncType" doc:"which volumes: all, all but the leaf, or the leaf; the others are not looked at"`
}

func (p syncParams) check() error { return otherDomain(p.Domain, p.DstDomain) }

func (st *Storage) syncData() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Copy the data of an image into its chain in another domain.",
		Name: "Image.syncData", Word: "syncImageData", Params: syncParams{}, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Remainder: "destination ILLEGAL (its old data is gone; VDSM leaves it LEGAL and wrong)",
			Bound: 10 * time.Second,
		},
		Plan: st.planSync,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[syncParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			c := p.chain(st, "")
			if err := c.admit(); err != nil {
				return err
			}
			d, err := st.domains.Get(c.dest)
			if err == nil {
				_, err = d.ImagePath(c.image)
			}
			return err
		},
	}
}

func (p syncParams) chain(st *Storage, task string) *chain {
	return &chain{st: st, task: task, image: string(p.Image), source: string(p.Domain), dest: string(p.DstDomain)}
}

func (st *Storage) planSync(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[syncParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	c := p.chain(st, id)
	legal := c.legalStep()
	legal.Undo = func(_ context.Context, s *tasks.Scope) error {
		return c.mark(s, false, func(l link) (string, string) { return domain.Illegal, l.Was.VolType })
	}
	return &tasks.Plan{
		Tag: tag(p.Pool), Locks: c.locks(imageShared(c.source, c.image)),
		Steps: []tasks.Step{c.syncCheck(p.SyncType), c.illegalStep(), c.dataStep(), legal},
	}, nil
}

// syncCheck finds the volumes in both chains. The others may be in use: of a disk that is moved while its guest runs, the leaf in the
// destination is written by the guest.
func (c *chain) syncCheck(which param.SyncType) tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := c.st.writable(c.dest)
			if err != nil {
				return nil, err
			}
			own, _, err := c.read(ctx, s, which)
			if err != nil {
				return nil, err
			}
			into, err := c.destChain(d, which)
			if err != nil {
				return nil, err
			}
			if len(into) != len(own) {
				return nil, code.Errorf(code.DestImageAction, "%s has %d volumes to copy to and %s has %d to copy; make the chain anew with Image.cloneStructure",
					c.destImage(), len(into), c.sourceImage(), len(own))
			}
			for i := range own {
				if err := own[i].into(into[i], c.dest, c.image); err != nil {
					return nil, err
				}
			}
			return links{Volumes: own}, nil
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return c.lookAgain(ctx, s, which) },
	}
}

// destChain is the part of the destination's chain that is written, base first.
func (c *chain) destChain(d storageDomain, which param.SyncType) ([]domain.ChainLink, error) {
	all, err := wholeChain(d, c.image)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(l domain.ChainLink) bool { return l.Meta.Image != c.image })
	switch {
	case len(all) == 0:
	case which == param.SyncInternal:
		all = all[1:]
	case which == param.SyncLeaf:
		all = all[:1]
	}
	slices.Reverse(all)
	return all, nil
}

// into makes of a volume to be copied one whose place is there.
func (l *link) into(there domain.ChainLink, dest, image string) error {
	ref, m := volumeRef{dest, image, there.Volume}, there.Meta
	if l.Volume != there.Volume || l.Parent != m.PUUID {
		return code.Errorf(code.DestImageAction, "%s is in the place of volume %s of the source; make the chain anew with Image.cloneStructure", ref, l.Volume)
	}
	if m.Capacity < l.Capacity {
		return code.Errorf(code.DestImageAction, "%s has room for %d bytes, and its source has %d", ref, m.Capacity, l.Capacity)
	}
	if l.VolType == domain.Leaf {
		l.VolType = m.VolType
	}
	l.Capacity, l.Format, l.Allocation = m.Capacity, m.Format, m.Type
	l.Was = &linkWas{m.Legality, m.VolType, m.Generation}
	return nil
}

// illegalStep marks the volumes: what they hold is neither old nor new. Once data is copied they stay so after a stop.
func (c *chain) illegalStep() tasks.Step {
	return tasks.Step{
		Name: "illegal",
		Do: func(_ context.Context, s *tasks.Scope) error {
			return c.mark(s, false, func(l link) (string, string) { return domain.Illegal, l.Was.VolType })
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			if s.Started(stepCopy) {
				return nil
			}
			return c.mark(s, false, func(l link) (string, string) { return l.Was.Legality, l.Was.VolType })
		},
		Remainder: func(s *tasks.Scope) string {
			if !s.Started(stepCopy) {
				return ""
			}
			return c.destImage().String() + " is ILLEGAL and part copied; copy again, or delete it"
		},
	}
}
