package storageops

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// Storage jobs (SDM.*) change one volume that is there already. Whoever may do so holds its lease, and its generation says who
// was last: a job is given the generation that it starts from, and its last write takes the next. A job that finds another one was
// fenced: somebody else has the volume now, and nothing is written any more (911).
//
// A generation that is one ahead after the last write has begun is the job's own: nobody else who keeps the rules can have taken it,
// since the job still has its locks, and engines read it the same way.

// divInfo is VDSM's vol_info: a volume, and the generation that it must have.
type divInfo struct {
	Type       string     `json:"endpoint_type,omitempty"`
	Domain     param.UUID `json:"sd_id"`
	Image      param.UUID `json:"img_id"`
	Volume     param.UUID `json:"vol_id"`
	Generation *param.Int `json:"generation,omitempty"`
}

func (d divInfo) ref() volumeRef {
	return volumeRef{string(d.Domain), string(d.Image), string(d.Volume)}
}

func (d divInfo) check() error {
	if d.Domain.IsBlank() || d.Image.IsBlank() || d.Volume.IsBlank() || d.Type != "" && d.Type != "div" {
		return code.Errorf(code.InvalidParameter, "a volume is named by sd_id, img_id and vol_id, none of them zeros, with endpoint_type div or none")
	}
	return checkGeneration(d.Generation)
}

func checkGeneration(g *param.Int) error {
	if g != nil && (*g < 0 || *g > domain.MaxGeneration) {
		return code.Errorf(code.InvalidParameter, "generation %d is not one of 0 to %d", *g, domain.MaxGeneration)
	}
	return nil
}

// job is a task that changes a volume.
type job struct {
	st *Storage
	volumeRef
	wanted *param.Int // the generation that it must have; nil = any
}

func (st *Storage) jobOn(d divInfo) *job { return &job{st, d.ref(), d.Generation} }

// admitJob refuses at once a volume that is not there, or cannot be written. Its generation is looked at under the locks: a job
// before this one may be about to take the next.
func (st *Storage) admitJob(d divInfo) error {
	if _, err := st.writable(string(d.Domain)); err != nil {
		return err
	}
	_, _, err := st.readable(d.ref())
	return err
}

func (j *job) domain() (storageDomain, error) { return j.st.domains.Get(j.Domain) }

func (j *job) locks() []tasks.Lock {
	return []tasks.Lock{domainShared(j.Domain), imageExclusive(j.Domain, j.Image)}
}

// jobPlan is what the check of every job finds out; the plan of each begins with it.
type jobPlan struct {
	Generation int `json:"generation"` // of the volume when the job began
	Next       int `json:"next"`       // after the job
}

func jobPlanOf(m domain.VolumeMeta) jobPlan {
	return jobPlan{m.Generation, (m.Generation + 1) % (domain.MaxGeneration + 1)}
}

// begin reads the volume's metadata and refuses another generation than the one that was asked for (911).
func (j *job) begin() (storageDomain, domain.VolumeMeta, error) {
	d, err := j.st.writable(j.Domain)
	if err != nil {
		return nil, domain.VolumeMeta{}, err
	}
	m, err := d.ReadVolume(j.Image, j.Volume)
	if err == nil && j.wanted != nil && m.Generation != int(*j.wanted) {
		err = code.Errorf(code.GenerationMismatch, "%s has generation %d, not %d: somebody else has changed it", j.volumeRef, m.Generation, *j.wanted)
	}
	return d, m, err
}

// checkStep is the first step of every job: look finds out, without effects, what there is to do, and answers the job's plan.
func (j *job) checkStep(look func(ctx context.Context, s *tasks.Scope, d storageDomain, m domain.VolumeMeta) (any, error)) tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, m, err := j.begin()
			if err != nil {
				return nil, err
			}
			return look(ctx, s, d, m)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return j.st.reach(ctx, s, j.Domain) }, // again at each resume
	}
}

// planned reads what the check found.
func planned[P any](s *tasks.Scope) (p P, err error) {
	found, err := s.PlanOf(stepCheck, &p)
	if err == nil && !found {
		err = code.Errorf(code.InternalError, "the check step has not run")
	}
	return p, err
}

// mine refuses to go on with a volume that somebody else has changed since the job began.
func (j *job) mine(p jobPlan, m domain.VolumeMeta) error {
	if m.Generation != p.Generation {
		return code.Errorf(code.GenerationMismatch, "%s has generation %d, and had %d when this job began: somebody else has it now, and nothing more is written", j.volumeRef, m.Generation, p.Generation)
	}
	return nil
}

// still is mine with the metadata as it is now. It is asked before each command, and at each boundary of a slice.
func (j *job) still(p jobPlan) error {
	d, err := j.domain()
	if err != nil {
		return err
	}
	m, err := d.ReadVolume(j.Image, j.Volume)
	if err != nil {
		return err
	}
	return j.mine(p, m)
}

// fenced is work on a volume whose checkpoints are refused, and which so ends, when still finds that somebody else has it.
type fenced struct {
	work
	still func() error
}

func (f fenced) Checkpoint(state any) error {
	if err := f.still(); err != nil {
		return err
	}
	return f.work.Checkpoint(state)
}

// fenced is the work of a job's step.
func (j *job) fenced(s *tasks.Scope, p jobPlan) work {
	return fenced{s, func() error { return j.still(p) }}
}

// leased calls f while the task holds the volume's lease.
func (j *job) leased(ctx context.Context, s *tasks.Scope, f func(d storageDomain) error) error {
	release, err := j.st.hold(ctx, s, j.volumeRef)
	if err != nil {
		return err
	}
	defer release()
	d, err := j.domain()
	if err != nil {
		return err
	}
	return f(d)
}

// lastWrite is the last step of a job, and its point of no return: one write of whatever change does and of the next generation.
// A volume that is somebody else's by then, or is gone, refuses it. That the domain is not claimed does not come to that: the check step
// waits for it at each resume.
func (j *job) lastWrite(name string, change func(s *tasks.Scope, m *domain.VolumeMeta) error) tasks.Step {
	return tasks.Step{
		Name: name, PointOfNoReturn: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[jobPlan](s)
			if err != nil {
				return err
			}
			return j.leased(ctx, s, func(d storageDomain) error {
				return d.UpdateVolumeMeta(j.Image, j.Volume, func(m *domain.VolumeMeta) error {
					if m.Generation != p.Next { // else it was written already, and is written again
						if err := j.mine(p, *m); err != nil {
							return err
						}
					}
					m.Generation = p.Next
					return change(s, m)
				})
			})
		},
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			p, err := planned[jobPlan](s)
			if err != nil {
				return false, err
			}
			d, err := j.domain()
			if err != nil {
				return false, err
			}
			m, err := d.ReadVolume(j.Image, j.Volume)
			if absent(err) {
				return false, nil
			}
			// Images that hold links of a template may not have got what was written: writing it again mends that.
			return err == nil && m.Generation == p.Next && m.VolType != domain.Shared, err
		},
		Refused: func(err error) bool { return refusesJob(err) || code.Of(err) == code.AcquireLock },
	}
}

// refusesJob says whether an error means that the volume is not the job's, and will not become so again.
func refusesJob(err error) bool { return code.Of(err) == code.GenerationMismatch || absent(err) }

// stepGeneration is the last step of a job that has changed the volume's file only.
const stepGeneration = "generation"

// unchanged is the change of a last write that changes nothing but the generation.
func unchanged(*tasks.Scope, *domain.VolumeMeta) error { return nil }

// generationStep is the last write of a job that has changed the volume's file only, past its point of no return. Where it is refused
// the job fails, and left says what it has done to the volume.
func (j *job) generationStep(left string) tasks.Step {
	step := j.lastWrite(stepGeneration, unchanged)
	write := step.Do
	step.Do = func(ctx context.Context, s *tasks.Scope) error {
		err := write(ctx, s)
		if refusesJob(err) {
			return tasks.Permanent(err, left)
		}
		return err
	}
	return step
}

// jobVerb fills in what all jobs have in common. of finds the volume that a job changes among its parameters.
func (st *Storage) jobVerb(v *tasks.Verb, of func(raw json.RawMessage) (divInfo, error)) *tasks.Verb {
	v.Job = true
	v.Admit = func(_ context.Context, raw json.RawMessage) error {
		d, err := of(raw)
		if err != nil {
			return err
		}
		return st.admitJob(d)
	}
	return v
}
