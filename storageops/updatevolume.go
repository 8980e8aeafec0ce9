package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// updateParams are those of SDM.update_volume.
type updateParams struct {
	Volume divInfo `json:"vol_info" doc:"the volume, and the generation that it must have"`
	Attr   volAttr `json:"vol_attr" doc:"what it shall be; what is left out stays as it is"`
}

// volAttr is what a job may set.
type volAttr struct {
	Legality    string        `json:"legality,omitempty"`
	Description *string       `json:"description,omitempty"`
	Generation  *param.Int    `json:"generation,omitempty"` // in place of the next one: engines fence a job of theirs so
	Type        param.VolType `json:"type,omitempty"`
}

func (p updateParams) check() error {
	invalid := func(format string, args ...any) error { return code.Errorf(code.InvalidParameter, format, args...) }
	switch p.Attr.Legality {
	case "", domain.Legal, domain.Illegal:
	default:
		return invalid("parameter \"vol_attr\": legality %q is none of LEGAL, ILLEGAL", p.Attr.Legality)
	}
	if p.Attr.Type != "" && p.Attr.Type != param.Shared {
		return invalid("parameter \"vol_attr\": a volume can be made SHARED, and nothing else")
	}
	if err := checkGeneration(p.Attr.Generation); err != nil {
		return invalid("parameter \"vol_attr\": %w", err)
	}
	if err := p.Volume.check(); err != nil {
		return invalid("parameter \"vol_info\": %w", err)
	}
	return nil
}

// attributes are those of a volume that the verb can change.
type attributes struct {
	Legality    string `json:"legality"`
	Description string `json:"description"`
	VolType     string `json:"volType"`
	Generation  int    `json:"generation"`
}

func attributesOf(m domain.VolumeMeta) attributes {
	return attributes{m.Legality, m.Description, m.VolType, m.Generation}
}

func (a attributes) set(m *domain.VolumeMeta) {
	m.Legality, m.Description, m.VolType, m.Generation = a.Legality, a.Description, a.VolType, a.Generation
}

// updatePlan is what the check finds: what there is, and what there shall be.
type updatePlan struct {
	jobPlan
	Before attributes `json:"before"`
	After  attributes `json:"after"`
}

// update is a job that changes a volume's metadata only.
type update struct {
	*job
	attr volAttr
}

func (st *Storage) updateVolume() *tasks.Verb {
	return st.jobVerb(&tasks.Verb{
		Role: access.Operate, Doc: "Change what a volume's metadata says of it, by one write, as a job.",
		Name: "SDM.update_volume", Params: updateParams{}, Class: tasks.ClassLight,
		Contract: tasks.Contract{
			CancellableUntil: "started", PointOfNoReturn: "write", Undo: "not started",
			Revert: "old attributes and generation back, unless a generation was given: a fence stays", Bound: 10 * time.Second,
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[updateParams](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			u := update{st.jobOn(p.Volume), p.Attr}
			return &tasks.Plan{
				Tag: tasks.TagSDM, Locks: u.locks(), Steps: []tasks.Step{u.checkStep(u.look), u.writeStep()},
				Fingerprint: u.fingerprint, Unused: u.unused,
			}, nil
		},
	}, func(raw json.RawMessage) (divInfo, error) {
		p, err := decode[updateParams](raw, param.Lenient)
		return p.Volume, err
	})
}

func (u update) look(_ context.Context, _ *tasks.Scope, _ storageDomain, m domain.VolumeMeta) (any, error) {
	p := updatePlan{jobPlan: jobPlanOf(m), Before: attributesOf(m)}
	if u.attr.Type != "" && m.VolType != domain.Shared && (m.VolType != domain.Leaf || m.HasParent()) {
		return nil, code.Errorf(code.InvalidVolumeUpdate, "%s is %s and cannot be made SHARED; only a leaf without a parent can", u.volumeRef, m.VolType)
	}
	if u.attr.Legality != "" {
		m.Legality = u.attr.Legality
	}
	if u.attr.Description != nil {
		m.Description = *u.attr.Description
	}
	if u.attr.Type != "" {
		m.VolType = string(u.attr.Type)
	}
	if u.attr.Generation != nil {
		p.Next = int(*u.attr.Generation)
	}
	m.Generation = p.Next
	text, err := m.Encode()
	if err != nil {
		return nil, err // it would not fit
	}
	if m, err = domain.ParseVolumeMeta(text); err != nil { // a long description was cut
		return nil, err
	}
	p.After = attributesOf(m)
	return p, nil
}

// writeStep writes the attributes. Its undo is that of a revert: whatever else is found then was written since, and stays.
func (u update) writeStep() tasks.Step {
	step := u.lastWrite("write", func(s *tasks.Scope, m *domain.VolumeMeta) error {
		p, err := planned[updatePlan](s)
		p.After.set(m)
		return err
	})
	step.Undo = func(ctx context.Context, s *tasks.Scope) error {
		p, err := planned[updatePlan](s)
		if err != nil {
			return err
		}
		err = u.leased(ctx, s, func(d storageDomain) error {
			return d.UpdateVolumeMeta(u.Image, u.Volume, func(m *domain.VolumeMeta) error {
				if now := attributesOf(*m); now != p.After && now != p.Before {
					return errOthers
				}
				p.Before.set(m) // also when it is so already: the links of a template may not be
				return nil
			})
		})
		if errors.Is(err, errOthers) || absent(err) {
			return nil
		}
		return err
	}
	return step
}

var errOthers = errors.New("somebody else has written it since")

// fingerprint is what the volume looks like when the job finishes.
func (u update) fingerprint(context.Context, *tasks.Scope) (any, error) {
	d, err := u.domain()
	if err != nil {
		return nil, err
	}
	return d.Fingerprint(u.Image, u.Volume)
}

// unused refuses a revert if the metadata was changed since, or an image was derived from what the job has made a template. That data
// was written makes no difference.
func (u update) unused(_ context.Context, s *tasks.Scope, raw json.RawMessage) error {
	if u.attr.Generation != nil {
		return code.Errorf(code.NotRevertible, "a generation that was given stays: what it has fenced must not go on")
	}
	var then domain.Fingerprint
	if err := json.Unmarshal(raw, &then); err != nil {
		return code.Errorf(code.TaskState, "what the volume looked like cannot be read, so it cannot be shown to be unchanged: %w", err)
	}
	d, err := u.st.writable(u.Domain)
	if err != nil {
		return err
	}
	if p, err := planned[updatePlan](s); err != nil {
		return err
	} else if p.Before.VolType != p.After.VolType {
		if err := notUsed(d, u.volumeRef); err != nil {
			return code.Errorf(code.TaskState, "%w", err)
		}
	}
	now, err := d.Fingerprint(u.Image, u.Volume)
	if err != nil {
		return err
	}
	then.Data = now.Data
	if what := then.Differs(now); what != "" {
		return code.Errorf(code.TaskState, "%s was changed since the job finished (%s)", u.volumeRef, what)
	}
	return nil
}
