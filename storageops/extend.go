package storageops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// extendParams are those of Volume.extendSize.
type extendParams struct {
	Pool   param.UUID `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain param.UUID `json:"storagedomainID"`
	Image  param.UUID `json:"imageID"`
	Volume param.UUID `json:"volumeID" doc:"the leaf that a guest writes"`
	Size   param.Size `json:"newSize" doc:"virtual size, rounded up to 4096; not less than it is"`
}

func (p extendParams) volume() volumeRef {
	return volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}
}

func (p extendParams) capacity() int64 { return qemuimg.RoundCapacity(int64(p.Size)) }

func (p extendParams) check() error {
	if p.Size == 0 {
		return code.Errorf(code.InvalidParameter, "parameter \"newSize\": a volume needs at least one byte")
	}
	return nil
}

// allowed refuses what the volume's metadata shows to be impossible.
func (p extendParams) allowed(m domain.VolumeMeta) error {
	if err := writableLeaf(p.volume(), m); err != nil {
		return err
	}
	if p.capacity() < m.Capacity {
		return code.Errorf(code.VolumeResize, "%s has %d bytes and cannot be made smaller, to %d", p.volume(), m.Capacity, p.capacity())
	}
	return nil
}

func (st *Storage) extendVolume() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Make a volume larger, in place.",
		Name: "Volume.extendSize", Word: "extendVolumeSize", Params: extendParams{}, Forward: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Remainder: "the size reached, metadata in step (data is never shrunk)", Bound: 5 * time.Second,
		},
		Plan: st.planExtend,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[extendParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			if _, err := st.writable(string(p.Domain)); err != nil {
				return err
			}
			_, m, err := st.readable(p.volume())
			if err != nil {
				return err
			}
			return p.allowed(m)
		},
	}
}

func (st *Storage) planExtend(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[extendParams](raw, param.Lenient)
	if err != nil {
		return nil, err
	}
	g := &grower{st, p.volume(), planned[growth]}
	check := tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := st.writable(g.Domain)
			if err != nil {
				return nil, err
			}
			m, err := d.ReadVolume(g.Image, g.Volume)
			if err != nil {
				return nil, err
			}
			if err := p.allowed(m); err != nil {
				return nil, err
			}
			return g.look(ctx, s, d, m, p.capacity())
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return st.reach(ctx, s, g.Domain) }, // again at each resume
	}
	return &tasks.Plan{
		Tag:   tag(p.Pool),
		Locks: []tasks.Lock{tasks.TaskLock(id), domainShared(g.Domain), imageExclusive(g.Domain, g.Image)},
		Steps: []tasks.Step{check, g.fileStep(g.keep, g.kept), g.metadataStep(nil)},
	}, nil
}
