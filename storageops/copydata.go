package storageops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// copyDataParams are those of SDM.copy_data.
type copyDataParams struct {
	Source  endpoint   `json:"source" doc:"the volume that is read, with its chain, or with endpoint_type external the url and the format of a file or of an NBD server on a socket of this host"`
	Dest    endpoint   `json:"destination" doc:"the volume that is written, and the generation that it must have; one with a parent is written as an overlay; or an external endpoint"`
	Bitmaps param.Bool `json:"copy_bitmaps" default:"false" doc:"its bitmaps too, from COW to COW"`
}

func (p copyDataParams) check() error {
	for _, e := range []struct {
		name string
		endpoint
	}{{"source", p.Source}, {"destination", p.Dest}} {
		if err := e.endpoint.check(); err != nil {
			return code.Errorf(code.Of(err), "parameter %q: %w", e.name, err)
		}
	}
	if p.Source.same(p.Dest) {
		return code.Errorf(code.InvalidParameter, "%s cannot be copied to itself", p.Dest)
	}
	return nil
}

// copyDataPlan is what the check finds.
type copyDataPlan struct {
	jobPlan
	made
	Format     string `json:"format"` // of the destination
	Allocation string `json:"allocation"`
	Legality   string `json:"legality"` // before
}

// dataCopy is a job that fills a volume that is there with what another one holds.
type dataCopy struct {
	*job
	task string
	copyDataParams
}

func (st *Storage) copyJob() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Fill a volume with the data of another one, or copy from or to what is outside of all domains, as a job.",
		Name: "SDM.copy_data", Params: copyDataParams{}, Job: true, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "that write", PointOfNoReturn: "publish",
			Remainder: "destination ILLEGAL, GEN unchanged, as engines expect; an external one part copied", Bound: 10 * time.Second,
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[copyDataParams](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			plan := &tasks.Plan{Tag: tasks.TagSDM, Locks: append(p.Dest.locks(true), p.Source.locks(false)...)}
			if p.Dest.external() {
				x := outwardCopy{st, id, p}
				plan.Steps = []tasks.Step{x.checkStep(), x.dataStep()}
			} else {
				x := dataCopy{st.jobOn(p.Dest.divInfo), id, p}
				plan.Steps = []tasks.Step{x.checkStep(x.look), x.illegalStep(), x.dataStep(), x.publishStep()}
			}
			return plan, nil
		},
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[copyDataParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			if p.Source.external() {
				if err := st.admitExternal(p.Source, false); err != nil {
					return err
				}
			}
			if p.Dest.external() {
				return st.admitExternal(p.Dest, true)
			}
			return st.admitJob(p.Dest.divInfo)
		},
	}
}

// copySource proves that what is copied is whole, and that it is the one that was meant.
func (st *Storage) copySource(ctx context.Context, s *tasks.Scope, e endpoint) (from, int64, error) {
	if e.external() {
		return st.externalSource(ctx, s, e)
	}
	source, m, err := st.volumeSource(ctx, s, e.ref())
	if g := e.Generation; err == nil && g != nil && m.Generation != int(*g) {
		err = code.Errorf(code.GenerationMismatch, "%s has generation %d, not %d: somebody else has changed it", e.ref(), m.Generation, *g)
	}
	return source, m.Capacity, err
}

// look proves the source, and that the destination has room for it.
func (x dataCopy) look(ctx context.Context, s *tasks.Scope, d storageDomain, m domain.VolumeMeta) (any, error) {
	source, capacity, err := x.st.copySource(ctx, s, x.Source)
	if err != nil {
		return nil, err
	}
	children, err := d.Children(x.Image, x.Volume)
	if err != nil {
		return nil, err
	}
	switch {
	case m.VolType == domain.Shared || len(children) > 0:
		return nil, code.Errorf(code.VolumeImageHasChild, "%s is what others are built on: its data cannot be replaced", x.volumeRef)
	case m.Capacity < capacity:
		return nil, code.Errorf(code.InvalidParameter, "%s has room for %d bytes, and its source has %d", x.volumeRef, m.Capacity, capacity)
	}
	p := copyDataPlan{
		jobPlan: jobPlanOf(m), Format: m.Format, Allocation: m.Type, Legality: m.Legality,
		made: made{Capacity: m.Capacity, Parent: domain.BlankUUID, DiskType: m.DiskType, Source: &source},
	}
	if m.HasParent() {
		parent, err := d.ReadVolume(x.Image, m.PUUID)
		if err != nil {
			return nil, err
		}
		p.Parent, p.ParentFormat = m.PUUID, imageFormat(parent.Format)
	}
	return p, nil
}

// mark changes the destination's legality while the volume is the job's. That it is not is an error (911).
func (x dataCopy) mark(ctx context.Context, s *tasks.Scope, legality func(p copyDataPlan) string) error {
	p, err := planned[copyDataPlan](s)
	if err != nil {
		return err
	}
	return x.leased(ctx, s, func(d storageDomain) error {
		return d.UpdateVolumeMeta(x.Image, x.Volume, func(m *domain.VolumeMeta) error {
			m.Legality = legality(p)
			return x.mine(p.jobPlan, *m)
		})
	})
}

// illegalStep marks the destination: what it holds is neither old nor new. Once data is copied it stays so after a stop.
func (x dataCopy) illegalStep() tasks.Step {
	return tasks.Step{
		Name: "illegal",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			return x.mark(ctx, s, func(copyDataPlan) string { return domain.Illegal })
		},
		Undo: func(ctx context.Context, s *tasks.Scope) error {
			if s.Started(stepCopy) {
				return nil
			}
			err := x.mark(ctx, s, func(p copyDataPlan) string { return p.Legality })
			if refusesJob(err) {
				return nil // somebody else's
			}
			return err
		},
		Remainder: func(s *tasks.Scope) string {
			if !s.Started(stepCopy) {
				return ""
			}
			return x.volumeRef.String() + " is ILLEGAL and part copied; copy again, or delete it"
		},
	}
}

// dataStep copies slice by slice. At each boundary it looks whether the volume is still the job's.
func (x dataCopy) dataStep() tasks.Step {
	return tasks.Step{
		Name: stepCopy, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[copyDataPlan](s)
			if err != nil {
				return err
			}
			var last *copy.State
			var state copy.State
			if found, err := s.LastCheckpoint(&state); err != nil {
				return err
			} else if found {
				last = &state
			}
			return x.leased(ctx, s, func(storageDomain) error {
				if err := x.still(p.jobPlan); err != nil {
					return err
				}
				t := &target{
					st: x.st, task: x.task, volumeRef: x.volumeRef, format: p.Format, allocation: p.Allocation, from: string(x.Source.Domain),
					bitmaps: bool(x.Bitmaps), old: true,
				}
				return t.copyData(ctx, x.fenced(s, p.jobPlan), p.made, last)
			})
		},
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			var last copy.State
			found, err := s.LastCheckpoint(&last)
			return found && last.Complete, err
		},
	}
}

// publishStep says that the destination is whole, and whose: by the same write.
func (x dataCopy) publishStep() tasks.Step {
	return x.lastWrite("publish", func(_ *tasks.Scope, m *domain.VolumeMeta) error {
		m.Legality = domain.Legal
		return nil
	})
}
