package wire

import (
	"time"

	"vdsm-agent/tasks"
)

// Queue is the answer of Host.getQueue.
type Queue struct {
	Classes map[string]ClassLoad `json:"classes"`
	Waiting int                  `json:"waiting"`           // tasks that wait for locks or for a slot
	Limit   int                  `json:"limit"`             // of them, 0 = none
	Drained *Drained             `json:"drained,omitempty"` // new tasks are refused
}

// Drained says who has the agent drained.
type Drained struct {
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// ClassLoad is how busy a class of tasks is.
type ClassLoad struct {
	Limit   int `json:"limit"` // how many may run at a time, 0 = any number
	Running int `json:"running"`
	Ready   int `json:"ready"` // have their locks and wait for a slot
}

// QueueOf is how busy the agent is.
func QueueOf(q tasks.Queue) Queue {
	out := Queue{Classes: map[string]ClassLoad{}, Waiting: q.Waiting, Limit: q.Limit}
	for class, load := range q.Classes {
		out.Classes[string(class)] = ClassLoad(load)
	}
	if d := q.Drained; d != nil {
		out.Drained = &Drained{d.Who, d.Since}
	}
	return out
}

// PastTask is a task of the history.
type PastTask struct {
	ID      string    `json:"id"`
	Verb    string    `json:"verb"`
	Method  string    `json:"method"`
	Flow    string    `json:"flow,omitempty"`
	Tag     string    `json:"tag"`
	Code    int       `json:"code"`
	Message string    `json:"message"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"`
	Cleared time.Time `json:"cleared"`
}

// HistoryPage is the answer of Host.getTaskHistory; next is "" when there are no more.
type HistoryPage struct {
	Tasks []PastTask `json:"tasks"`
	Next  string     `json:"next"`
}

// PastTaskOf is a cleared task.
func PastTaskOf(s tasks.Summary) PastTask {
	return PastTask{
		ID: s.ID, Verb: s.Word, Method: s.Verb, Flow: s.Flow, Tag: s.Tag, Code: int(s.Code), Message: s.Message, Created: s.Created,
		Ended: s.Ended, Cleared: s.Updated,
	}
}
