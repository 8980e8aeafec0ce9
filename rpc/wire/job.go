package wire

import (
	"strconv"
	"strings"

	"vdsm-agent/tasks"
)

// Job is one entry of Host.getJobs. Engines need each word to be one that they know.
type Job struct {
	ID          string    `json:"id"`
	Status      string    `json:"status"` // pending, running, done, aborted, failed
	Description string    `json:"description"`
	JobType     string    `json:"job_type"` // storage, virt
	Progress    *Percent  `json:"progress,omitempty"`
	Error       *JobError `json:"error,omitempty"` // of those that are aborted or failed
}

// JobError is why a job has not been done.
type JobError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Percent is written with a decimal point always: the engine's client takes 12 for another type than 12.0, and gives up.
type Percent float64

// MarshalJSON writes 12.0 and 12.5.
func (p Percent) MarshalJSON() ([]byte, error) {
	text := strconv.FormatFloat(float64(p), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return []byte(text), nil
}

// jobTypes are the tags of tasks that clients see as jobs, and the engine's words for them.
var jobTypes = map[string]string{
	tasks.TagSDM: "storage", tasks.TagLocal: "storage", tasks.TagVirt: "virt", tasks.TagHost: "virt",
}

// IsJob says whether clients see a task as a job.
func IsJob(s tasks.Summary) bool { return jobTypes[s.Tag] != "" }

// JobOf is a task as a job.
func JobOf(s tasks.Summary) Job {
	j := Job{ID: s.ID, Status: jobStatus(s), Description: s.Verb, JobType: jobTypes[s.Tag]}
	if s.Progress.Total > 0 {
		p := Percent(s.Progress.Percent())
		j.Progress = &p
	}
	if j.Status == "failed" || j.Status == "aborted" {
		j.Error = &JobError{int(s.Code), s.Message}
	}
	return j
}

func jobStatus(s tasks.Summary) string {
	switch s.State {
	case tasks.Init, tasks.Queued:
		return "pending"
	case tasks.Finished:
		return "done"
	case tasks.Recovered:
		if s.Stopped {
			return "aborted"
		}
		return "failed"
	case tasks.Failed:
		return "failed"
	}
	return "running"
}
