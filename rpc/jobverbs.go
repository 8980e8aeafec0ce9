package rpc

import (
	"context"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

type jobsParams struct {
	Type jobType      `json:"job_type" default:"" doc:"only jobs of this type: storage, virt or v2v"`
	IDs  []param.UUID `json:"job_ids" default:"[]" doc:"only these; none = all"`
}

type jobParams struct {
	JobID param.UUID `json:"job_id" doc:"the job"`
}

// jobType is one of the engine's words for a kind of job; "" = any.
type jobType string

// UnmarshalJSON refuses other words.
func (t *jobType) UnmarshalJSON(b []byte) error { return oneOf(t, b, "storage", "virt", "v2v", "") }

// jobMethods are the verbs about jobs: tasks under another name, whose ids are their clients' choice, and which leave by themselves
// some time after their end.
func jobMethods(e Engine) []Method {
	return []Method{
		with(Method{
			Name: "Host.getJobs", Role: access.Observe, Result: map[string]wire.Job{},
			Doc: "List the tasks that no pool has: storage jobs, and what concerns machines or this host.",
		}, func(_ context.Context, _ *Request, p jobsParams) (any, error) { return jobs(e, p), nil }),
		with(Method{
			Name: "Job.abort", Role: access.Operate, Ours: true, Cancels: true,
			Doc: "Cancel a job that has not passed its point of no return: Task.stop for jobs.",
		}, func(_ context.Context, r *Request, p jobParams) (any, error) {
			s, err := job(e, p)
			switch {
			case err != nil:
				return nil, err
			case s.State == tasks.Finished, s.State.Final() && !s.Stopped:
				return nil, code.Errorf(code.JobNotActive, "job %s has ended: %s", s.ID, s.Message)
			}
			return nil, e.Stop(s.ID, tasks.StopOptions{Who: r.Who})
		}),
		with(Method{
			Name: "Job.delete", Role: access.Operate, Ours: true,
			Doc: "Take a job that has ended out of the lists: Task.clear for jobs.",
		}, func(_ context.Context, r *Request, p jobParams) (any, error) {
			s, err := job(e, p)
			switch {
			case err != nil:
				return nil, err
			case !s.State.Final():
				return nil, code.Errorf(code.JobNotDone, "job %s has not ended: %s", s.ID, s.Message)
			}
			return nil, e.Clear(s.ID, r.Who)
		}),
	}
}

func jobs(e Engine, p jobsParams) map[string]wire.Job {
	out := map[string]wire.Job{}
	add := func(s tasks.Summary) {
		if j := wire.JobOf(s); wire.IsJob(s) && (p.Type == "" || j.JobType == string(p.Type)) {
			out[s.ID] = j
		}
	}
	if len(p.IDs) == 0 {
		for _, s := range e.List(tasks.Filter{}) {
			add(s)
		}
		return out
	}
	for _, id := range p.IDs { // as engines ask: the others need not be looked at
		if s, err := e.Summary(string(id)); err == nil {
			add(s)
		}
	}
	return out
}

// job finds a task that is one. Errors: 66.
func job(e Engine, p jobParams) (tasks.Summary, error) {
	s, err := e.Summary(string(p.JobID))
	if err != nil || !wire.IsJob(s) {
		return s, code.Errorf(code.NoSuchJob, "there is no job %s; it was deleted, or has left some time after its end", p.JobID)
	}
	return s, nil
}
