package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// maxPage is the most entries of one page.
const maxPage = 10_000

type listParams struct {
	State state     `json:"state" default:"" doc:"only tasks in this state"`
	Verb  string    `json:"verb" default:"" doc:"only tasks of this verb, such as Volume.copy"`
	Tag   string    `json:"tag" default:"" doc:"only tasks with this tag"`
	Flow  flowID    `json:"flow" default:"" doc:"only tasks of this flow"`
	Limit param.Int `json:"limit" default:"0" doc:"answer pages of so many tasks, oldest first; 0 = all, by id"`
	After string    `json:"after" default:"" doc:"the next of the page before"`
}

// hostMethods are the verbs about all tasks of the host, and about the agent.
func hostMethods(e Engine) []Method {
	pong := func(context.Context, *Request, param.None) (any, error) { return nil, nil }
	return []Method{
		verb("Host.ping", "", pong),
		verb("Host.ping2", "", pong),
		verb("Host.getAllTasks", "getAllTasks", func(_ context.Context, _ *Request, p listParams) (any, error) {
			return allTasks(e, p)
		}),
		verb("Host.getAllTasksStatuses", "getAllTasksStatuses", func(context.Context, *Request, param.None) (any, error) {
			return byID(e.List(tasks.Filter{Tag: tasks.TagSPM}), wire.StatusOf), nil
		}),
		verb("Host.getAllTasksInfo", "getAllTasksInfo", func(context.Context, *Request, param.None) (any, error) {
			return byID(e.List(tasks.Filter{Tag: tasks.TagSPM}), wire.InfoOf), nil
		}),
		ours("Host.getCancelContract", func(context.Context, *Request, param.None) (any, error) {
			out := wire.Contracts{Verbs: map[string]wire.Contract{}}
			for _, v := range e.Verbs() {
				out.Verbs[v.Name] = wire.ContractOf(v.Contract, v.Forward)
			}
			return out, nil
		}),
	}
}

func allTasks(e Engine, p listParams) (any, error) {
	list := e.List(tasks.Filter{State: tasks.State(p.State), Verb: p.Verb, Tag: p.Tag, Flow: string(p.Flow)})
	if p.Limit == 0 && p.After == "" {
		return byID(list, wire.TaskOf), nil
	}
	// A task's place is its creation and its id: it never moves, so that no page repeats or misses one.
	place := func(v tasks.View) string { return fmt.Sprintf("%020d/%s", v.Created.UnixNano(), v.ID) }
	list, next, err := page(list, place, p.After, p.Limit)
	if err != nil {
		return nil, err
	}
	out := wire.TaskPage{Tasks: []wire.Task{}, Next: next}
	for _, v := range list {
		out.Tasks = append(out.Tasks, wire.TaskOf(v))
	}
	return out, nil
}

// byID makes VDSM's map of a list of tasks.
func byID[T any](list []tasks.View, of func(tasks.View) T) map[string]T {
	out := make(map[string]T, len(list))
	for _, v := range list {
		out[v.ID] = of(v)
	}
	return out
}

// page sorts a list by place and cuts out what comes after a place, limit entries at most. next is the place to go on after;
// "" = there is no more.
func page[T any](list []T, place func(T) string, after string, limit param.Int) (cut []T, next string, err error) {
	if limit < 1 || limit > maxPage {
		return nil, "", code.Errorf(code.InvalidParameter, "parameter \"limit\": a page has 1 to %d entries", maxPage)
	}
	type placed struct {
		at   string
		item T
	}
	var rest []placed
	for _, item := range list {
		if at := place(item); at > after {
			rest = append(rest, placed{at, item})
		}
	}
	slices.SortFunc(rest, func(a, b placed) int { return strings.Compare(a.at, b.at) })
	if len(rest) > int(limit) {
		rest = rest[:limit]
		next = rest[limit-1].at
	}
	for _, p := range rest {
		cut = append(cut, p.item)
	}
	return cut, next, nil
}
