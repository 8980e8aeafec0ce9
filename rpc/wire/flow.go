package wire

import (
	"time"

	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

// TaskPage is the answer of Host.getAllTasks with a limit, oldest task first.
type TaskPage struct {
	Tasks []Task `json:"tasks"`
	Next  string `json:"next"` // the "after" of the next page; "" = this is the last
}

// LogEntry is one line of a task's audit trail.
type LogEntry struct {
	At   time.Time `json:"at"`
	Who  string    `json:"who"`
	What string    `json:"what"`
}

// FlowCancel is the answer of Flow.cancel: what became of each task.
type FlowCancel struct {
	FlowID string              `json:"flowID"`
	Fenced bool                `json:"fenced"`
	Tasks  map[string]FlowTask `json:"tasks"`
}

// FlowTask is what became of one task of a cancelled flow. Code and message are those of the task or, if it could not be
// stopped or reverted, say why.
type FlowTask struct {
	Verb    string `json:"verb"` // VDSM's word
	Before  string `json:"before"`
	After   string `json:"after"`
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// FlowStatus is the answer of Flow.getStatus.
type FlowStatus struct {
	FlowID   string                `json:"flowID"`
	Fenced   bool                  `json:"fenced"`
	FencedAt time.Time             `json:"fencedAt,omitzero"`
	Tasks    map[string]TaskStatus `json:"tasks"`
}

// FlowEvent is what the event |flows|status|<flow id> says.
type FlowEvent struct {
	FlowID string         `json:"flowID"`
	Fenced bool           `json:"fenced"`
	Tasks  map[string]int `json:"tasks"` // by state
}

// FlowPage is the answer of Flow.list, by flow id.
type FlowPage struct {
	Flows []Flow `json:"flows"`
	Next  string `json:"next"` // the "after" of the next page; "" = this is the last
}

// Flow is one entry of Flow.list.
type Flow struct {
	FlowID string `json:"flowID"`
	Tasks  int    `json:"tasks"` // uncleared ones; 0 = it is only fenced
	Fenced bool   `json:"fenced"`
}

// Contracts is the answer of Host.getCancelContract.
type Contracts struct {
	Verbs map[string]Contract `json:"verbs"`
}

// Method is one entry of rpc.methods.
type Method struct {
	Name    string        `json:"name"`
	Aliases []string      `json:"aliases"`
	Doc     string        `json:"doc"`
	Role    string        `json:"role"` // that its caller needs
	Ours    bool          `json:"ours"` // refuses parameters that it does not know
	Task    bool          `json:"task"` // makes a task, and answers its id
	Params  []param.Field `json:"params"`
}

// LogOf is the answer of Task.getLog.
func LogOf(entries []store.Entry) []LogEntry {
	out := []LogEntry{}
	for _, e := range entries {
		out = append(out, LogEntry{e.At, e.Who, e.What})
	}
	return out
}

// FlowOf is a flow's entry.
func FlowOf(f tasks.FlowView) Flow {
	return Flow{FlowID: f.ID, Tasks: f.Tasks, Fenced: !f.Fenced.IsZero()}
}

// FlowTaskOf is what became of a task. One that was cleared meanwhile has no view any more.
func FlowTaskOf(c tasks.FlowChange) FlowTask {
	t := FlowTask{Verb: c.After.Word, Before: string(c.Before), After: string(c.After.State), Code: int(c.After.Code), Message: c.After.Message}
	if c.After.ID == "" {
		t.After, t.Message = string(tasks.Cleared), "the task was cleared meanwhile"
	}
	return t
}
