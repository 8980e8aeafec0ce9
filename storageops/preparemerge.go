package storageops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// subchainParams are those of StoragePool.prepareMerge and finalizeMerge.
type subchainParams struct {
	Pool     param.UUID   `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Subchain subchainInfo `json:"subchainInfo" doc:"the volume top_id, and base_id below it"`
}

func (p subchainParams) check() error { return p.Subchain.check() }

func (p subchainParams) locks(id string) []tasks.Lock {
	v := p.Subchain.top()
	return []tasks.Lock{tasks.TaskLock(id), domainShared(v.Domain), imageExclusive(v.Domain, v.Image)}
}

// admitSubchain refuses at once volumes that are not there or no neighbours.
func (st *Storage) admitSubchain(i subchainInfo) error {
	d, err := st.writable(string(i.Domain))
	if err == nil {
		_, err = readSubchain(d, i)
	}
	return err
}

func (st *Storage) subchainVerb(v *tasks.Verb, steps func(id string, i subchainInfo) []tasks.Step) *tasks.Verb {
	v.Params, v.Class, v.Role = subchainParams{}, tasks.ClassLight, access.Operate
	v.Plan = func(id string, raw json.RawMessage) (*tasks.Plan, error) {
		p, err := decode[subchainParams](raw, param.Lenient)
		if err != nil {
			return nil, err
		}
		return &tasks.Plan{Tag: tag(p.Pool), Locks: p.locks(id), Steps: steps(id, p.Subchain)}, nil
	}
	v.Admit = func(_ context.Context, raw json.RawMessage) error {
		p, err := decode[subchainParams](raw, param.Lenient)
		if err != nil {
			return err
		}
		return st.admitSubchain(p.Subchain)
	}
	return v
}

// preparation is what the check of StoragePool.prepareMerge finds.
type preparation struct {
	growth
	Prune []string `json:"prune,omitempty"` // bitmaps of the base
}

func (st *Storage) prepareMerge() *tasks.Verb {
	return st.subchainVerb(&tasks.Verb{
		Doc:  "Make a volume as large as the one that is to be merged into it.",
		Name: "StoragePool.prepareMerge", Word: "prepareMerge", Forward: true,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "capacity back", Remainder: "bitmaps of base that top does not have are gone", Bound: 10 * time.Second,
		},
	}, func(_ string, i subchainInfo) []tasks.Step {
		j := st.jobOn(i.base())
		g := &grower{st, j.volumeRef, planned[growth]}
		check := j.checkStep(func(ctx context.Context, s *tasks.Scope, d storageDomain, m domain.VolumeMeta) (any, error) {
			c, err := readSubchain(d, i)
			if err != nil {
				return nil, err
			}
			if err := c.mergeable(i); err != nil {
				return nil, err
			}
			var p preparation
			if p.growth, err = g.look(ctx, s, d, m, max(c.top.Capacity, m.Capacity)); err != nil {
				return nil, err
			}
			p.Prune, err = st.stale(ctx, s, d, i, c)
			return p, err
		})
		return []tasks.Step{check, st.pruneStep(g), g.fileStep(st.holding(g.volumeRef, g.back), nil), g.metadataStep(g.capacityBack)}
	})
}

// stale are the bitmaps of the base that the top does not have: what the top was written is in none of them, so nothing can be
// backed up with them.
func (st *Storage) stale(ctx context.Context, w work, d storageDomain, i subchainInfo, c subchain) ([]string, error) {
	if c.base.Format != domain.FormatCOW {
		return nil, nil
	}
	of := func(v volumeRef) (names []string, err error) {
		path, err := d.VolumePath(v.Image, v.Volume)
		if err != nil {
			return nil, err
		}
		info, err := st.images.Info(ctx, w, qemuimg.Image{Path: path, Format: qemuimg.QCOW2})
		for _, b := range info.Bitmaps {
			names = append(names, b.Name)
		}
		return names, err
	}
	kept, err := of(i.top())
	if err != nil {
		return nil, err
	}
	names, err := of(i.base().ref())
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(kept, name) }), err
}

// pruneStep removes the stale bitmaps. They cannot come back: one that was only made again would say that nothing was written.
func (st *Storage) pruneStep(g *grower) tasks.Step {
	return tasks.Step{
		Name: "bitmaps",
		Do: st.holding(g.volumeRef, func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[preparation](s)
			if err != nil || len(p.Prune) == 0 {
				return err
			}
			img := p.File.image().Alone()
			info, err := st.images.Info(ctx, s, img)
			if err != nil {
				return err
			}
			for _, b := range info.Bitmaps {
				if !slices.Contains(p.Prune, b.Name) {
					continue
				}
				if err := st.images.RemoveBitmap(ctx, s, img, b.Name); err != nil {
					return err
				}
			}
			return nil
		}),
		Remainder: func(s *tasks.Scope) string {
			p, err := planned[preparation](s)
			if err != nil || len(p.Prune) == 0 {
				return ""
			}
			return fmt.Sprintf("bitmaps that were of no use any more are gone from %s: %s", g.volumeRef, strings.Join(p.Prune, ", "))
		},
	}
}

// capacityBack is the undo of the metadata's part of a growth that nobody has used.
func (g *grower) capacityBack(_ context.Context, s *tasks.Scope) error {
	p, err := g.found(s)
	if err != nil {
		return err
	}
	return g.setCapacity(p.Capacity)
}

// back is the undo of the file's part.
func (g *grower) back(ctx context.Context, s *tasks.Scope) error {
	p, err := g.found(s)
	if err != nil || p.To <= p.Length {
		return err
	}
	_, m, err := g.st.readable(g.volumeRef)
	if err != nil {
		return err
	}
	if m.Capacity > p.Capacity { // its undo failed
		return code.Errorf(code.VolumeMetadataWrite, "%s stays as long as its metadata says that it is", g.volumeRef)
	}
	img := p.File.image()
	if err := g.st.images.Shrink(ctx, s, img, p.Length); err != nil {
		return err
	}
	if img.Format == qemuimg.QCOW2 && p.Allocation == domain.Preallocated { // the file was cut behind its last cluster
		if err := g.st.images.Allocate(ctx, silent{s}, img, p.Length, (*copy.FillState)(nil)); err != nil {
			return err
		}
	}
	return g.sync()
}
