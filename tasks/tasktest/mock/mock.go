// Package mock is a verb with a knob for every way a step can behave, and a world in memory that it changes. It serves the
// tests of the engine and of everything above it, and the proof of the engine (tasks/tasktest/prove); the agent registers it only
// when its configuration says so. So it imports nothing that only tests need.
package mock

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
)

// Knobs says how one step behaves. The zero value is a step that has its effect at once and can be undone.
type Knobs struct {
	Name   string        `json:"name"`
	Slices int           `json:"slices,omitempty"` // parts of the work, each with a checkpoint
	Pace   time.Duration `json:"pace,omitempty"`   // how long each slice takes

	FailAt    int  `json:"failAt,omitempty"`    // the nth slice fails, counted from 1
	FailTimes int  `json:"failTimes,omitempty"` // so many times, then it works; 0 = always
	UndoFails int  `json:"undoFails,omitempty"` // so many times, then it works
	Panics    bool `json:"panics,omitempty"`

	IgnoresStop bool   `json:"ignoresStop,omitempty"` // goes on to its end whatever ctx says
	Blocks      bool   `json:"blocks,omitempty"`      // waits for World.Release, whatever ctx says
	Worker      string `json:"worker,omitempty"`      // Polite, Stubborn, Immortal: works in something outside the agent, for Pace, or 0 = until it is killed

	Leaves bool `json:"leaves,omitempty"` // does not wait for its worker

	PointOfNoReturn bool   `json:"pointOfNoReturn,omitempty"`
	Refused         bool   `json:"refused,omitempty"`   // its failure past the point of no return is a refusal
	Permanent       bool   `json:"permanent,omitempty"` // its failure past the point of no return is for ever
	DecidedBy       string `json:"decidedBy,omitempty"`
	Finished        bool   `json:"finished,omitempty"` // what the deciding program answers to a cancel: it had finished
	Remainder       string `json:"remainder,omitempty"`
	Verify          bool   `json:"verify,omitempty"`

	Deletes bool `json:"deletes,omitempty"` // its effect is that the thing of its name (see Thing) is in the trash
	Trash   bool `json:"trash,omitempty"`   // its undo moves the effect to the trash
}

// Thing is the name of what a step with the knob Deletes moves to the trash.
func Thing(step string) string { return "thing " + step }

const trash = "trash "

// The kinds of workers.
const (
	Polite   = "polite"   // ends at SIGTERM
	Stubborn = "stubborn" // ends at SIGKILL
	Immortal = "immortal" // ends at World.Release, as a process in an uninterruptible sleep does
)

// Params are the parameters of the verb.
type Params struct {
	Steps []Knobs  `json:"steps"`
	Locks []string `json:"locks" default:"[]" doc:"keys that it holds exclusively"`
	Tag   string   `json:"tag" default:"local"`
	// Reclaims: the end of the task leaves its trash to another task.
	Reclaims param.Bool `json:"reclaims" default:"false"`
}

// ReclaimParams are the parameters of the verb that empties the trash of a task.
type ReclaimParams struct {
	Of string `json:"of" default:"" doc:"the task whose trash is emptied"`
}

// Verbs returns the mock verb over a world, and the one that its Reclaims knob submits.
func Verbs(w *World) []*tasks.Verb { return w.Verbs(nil) }

type gate = func(s *tasks.Scope, effect string) error

func verbs(w *World, g gate) []*tasks.Verb {
	contract := tasks.Contract{
		CancellableUntil: "finished", Undo: "its effects are gone", Revert: "its effects are gone", Bound: 10 * time.Second,
	}
	return []*tasks.Verb{
		{
			Role: access.Operate, Doc: "Do nothing, in steps that behave as their knobs say.",
			Name: "Mock.run", Word: "copyImage", Params: Params{}, Ours: true, Forward: true, Class: tasks.ClassCopy, Contract: contract,
			Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) { return plan(w, g, id, raw) },
		},
		{
			Role: access.Operate, Doc: "Do nothing, as a job.",
			Name: "Mock.job", Params: Params{}, Ours: true, Job: true, Forward: true, Class: tasks.ClassCopy, Contract: contract,
			Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
				p, err := plan(w, g, id, raw)
				if err == nil {
					p.Tag = tasks.TagSDM
				}
				return p, err
			},
		},
		{
			Role: access.Operate, Doc: "Empty the trash of a task of Mock.run.",
			Name: "Mock.reclaim", Params: ReclaimParams{}, Ours: true, Class: tasks.ClassLight,
			Contract: tasks.Contract{CancellableUntil: "started", PointOfNoReturn: "reclaim", Bound: 10 * time.Second},
			Plan:     func(_ string, raw json.RawMessage) (*tasks.Plan, error) { return planReclaim(w, g, raw) },
		},
	}
}

func plan(w *World, g gate, id string, raw json.RawMessage) (*tasks.Plan, error) {
	var p Params
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	out := &tasks.Plan{
		Tag:         p.Tag,
		Fingerprint: func(context.Context, *tasks.Scope) (any, error) { return "as finished", nil },
		Unused: func(_ context.Context, s *tasks.Scope, _ json.RawMessage) error {
			if w.inUse(s.TaskID()) {
				return code.Errorf(code.TaskState, "the result is in use")
			}
			return nil
		},
	}
	for _, key := range p.Locks {
		out.Locks = append(out.Locks, tasks.Lock{Key: key, Exclusive: true})
	}
	trashed := false
	for i, k := range p.Steps {
		if k.Name == "" {
			k.Name = fmt.Sprintf("step-%d", i+1)
		}
		trashed = trashed || k.Trash
		out.Steps = append(out.Steps, newStep(w, g, k))
	}
	if p.Reclaims {
		out.Locks = append(out.Locks, tasks.TaskLock(id))
		out.Deferred = func(s *tasks.Scope, end tasks.End) *tasks.Submission {
			if end == tasks.EndReverted && !trashed {
				return nil
			}
			return &tasks.Submission{Verb: "Mock.reclaim", Params: fmt.Appendf(nil, `{"of":%q}`, s.TaskID())}
		}
	}
	return out, nil
}

// planReclaim empties the trash of a task.
func planReclaim(w *World, g gate, raw json.RawMessage) (*tasks.Plan, error) {
	var p ReclaimParams
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	out := &tasks.Plan{Tag: tasks.TagLocal, Steps: []tasks.Step{{
		Name: "reclaim", PointOfNoReturn: true,
		Do: func(_ context.Context, s *tasks.Scope) error {
			w.happened("do " + s.TaskID() + "/reclaim")
			return emptyTrash(w, g, s, trash+p.Of+"/")
		},
	}}}
	if p.Of != "" {
		out.Locks = []tasks.Lock{tasks.TaskLock(p.Of)}
	}
	return out, nil
}

func emptyTrash(w *World, g gate, s *tasks.Scope, prefix string) error {
	for _, name := range w.named(prefix) {
		if err := g(s, "unlink "+name[len(prefix):]); err != nil {
			return err
		}
		w.write(change{{name, false}})
	}
	if err := g(s, "sync the trash"); err != nil {
		return err
	}
	w.syncAll(prefix)
	return nil
}
