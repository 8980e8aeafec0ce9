package rpc

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
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

type historyParams struct {
	Limit param.Int `json:"limit" default:"100" doc:"tasks in the answer, newest first"`
	After string    `json:"after" default:"" doc:"the next of the page before"`
}

// limitsParams are new limits; those that are not given stay.
type limitsParams struct {
	Copy    *param.Int `json:"copy" default:"" doc:"tasks that move much data, at a time; 0 = any number"`
	Merge   *param.Int `json:"merge" default:"" doc:"merges at a time; 0 = any number"`
	VM      *param.Int `json:"vm" default:"" doc:"tasks of virtual machines at a time; 0 = any number"`
	Light   *param.Int `json:"light" default:"" doc:"short tasks at a time; 0 = any number"`
	Migrate *param.Int `json:"migrate" default:"" doc:"virtual machines that leave for other hosts at a time; 0 = any number"`
	Queue   *param.Int `json:"queue" default:"" doc:"tasks that may wait; 0 = any number"`
}

// hostMethods are the verbs about all tasks of the host, and about the agent.
func hostMethods(e Engine) []Method {
	pong := func(context.Context, *Request, param.None) (any, error) { return nil, nil }
	statuses, infos := polled{engine: e, of: statusOf}, polled{engine: e, of: infoOf}
	return []Method{
		with(Method{
			Name: "Host.ping", Role: access.Observe, Instant: true,
			Doc: "Answer at once (VDSM's old form of Host.ping2).",
		}, pong),
		with(Method{
			Name: "Host.ping2", Role: access.Observe, Instant: true,
			Doc: "Answer at once.",
		}, pong),
		with(Method{
			Name: "Host.getAllTasks", Aliases: []string{"getAllTasks"}, Role: access.Observe, Result: wire.TaskList{},
			Doc: "List all tasks, or with a limit a page of them.",
		}, func(_ context.Context, _ *Request, p listParams) (any, error) {
			return allTasks(e, p)
		}),
		with(Method{
			Name: "Host.getAllTasksStatuses", Aliases: []string{"getAllTasksStatuses"}, Role: access.Observe, Result: map[string]wire.TaskStatus{},
			Doc: "Answer the states of all tasks that engines have submitted with a pool.",
		}, func(context.Context, *Request, param.None) (any, error) {
			return answered(statuses.answer())
		}),
		with(Method{
			Name: "Host.getAllTasksInfo", Aliases: []string{"getAllTasksInfo"}, Role: access.Observe, Result: map[string]wire.TaskInfo{},
			Doc: "Answer which verb each task carries out that an engine has submitted with a pool.",
		}, func(context.Context, *Request, param.None) (any, error) {
			return answered(infos.answer())
		}),
		with(Method{
			Name: "Host.getTaskHistory", Role: access.Observe, Ours: true, Result: wire.HistoryPage{},
			Doc: "List cleared tasks, newest first.",
		}, func(_ context.Context, _ *Request, p historyParams) (any, error) { return history(e, p) }),
		with(Method{
			Name: "Host.getQueue", Role: access.Observe, Ours: true, Result: wire.Queue{},
			Doc: "Answer how many tasks run and wait, and the limits.",
		}, func(context.Context, *Request, param.None) (any, error) { return wire.QueueOf(e.Queue()), nil }),
		with(Method{
			Name: "Host.setLimits", Role: access.Admin, Ours: true,
			Doc: "Change how many tasks may run and wait, until the agent ends.",
		}, func(_ context.Context, _ *Request, p limitsParams) (any, error) { return nil, setLimits(e, p) }),
		with(Method{
			Name: "Host.drain", Role: access.Admin, Ours: true,
			Doc: "Refuse new tasks until Host.undrain, or until the agent ends.",
		}, func(ctx context.Context, r *Request, _ param.None) (any, error) { return nil, e.Drain(ctx, r.Who) }),
		with(Method{
			Name: "Host.undrain", Role: access.Admin, Ours: true,
			Doc: "Take new tasks again.",
		}, func(_ context.Context, r *Request, _ param.None) (any, error) { e.Undrain(r.Who); return nil, nil }),
		with(Method{
			Name: "Host.getCancelContract", Role: access.Observe, Ours: true, Result: wire.Contracts{},
			Doc: "Answer what a cancel of each verb guarantees.",
		}, func(context.Context, *Request, param.None) (any, error) {
			out := wire.Contracts{Verbs: map[string]wire.Contract{}}
			for _, v := range e.Verbs() {
				out.Verbs[v.Name] = wire.ContractOf(v.Contract, v.Forward)
			}
			return out, nil
		}),
	}
}

func setLimits(e Engine, p limitsParams) error {
	running := map[tasks.Class]int{}
	for class, limit := range map[tasks.Class]*param.Int{
		tasks.ClassCopy: p.Copy, tasks.ClassMerge: p.Merge, tasks.ClassVM: p.VM, tasks.ClassLight: p.Light, tasks.ClassMigrate: p.Migrate,
	} {
		if limit != nil {
			running[class] = int(*limit)
		}
	}
	var queue *int
	if p.Queue != nil {
		n := int(*p.Queue)
		queue = &n
	}
	return e.SetLimits(running, queue)
}

func allTasks(e Engine, p listParams) (any, error) {
	f := tasks.Filter{State: tasks.State(p.State), Verb: p.Verb, Tag: p.Tag, Flow: string(p.Flow)}
	if p.Limit == 0 && p.After == "" {
		return byID(e.List(f), wire.TaskOf), nil
	}
	limit, err := pageSize(p.Limit)
	if err != nil {
		return nil, err
	}
	var after tasks.Place
	if p.After != "" {
		if after, err = readPlace(p.After); err != nil {
			return nil, err
		}
	}
	page, more := e.Page(f, after, limit)
	out := wire.TaskPage{Tasks: make([]wire.Task, 0, len(page))}
	for _, s := range page {
		out.Tasks = append(out.Tasks, wire.TaskOf(s))
	}
	if more {
		out.Next = writePlace(page[limit-1].Place())
	}
	return out, nil
}

// history answers cleared tasks in pages, newest first.
func history(e Engine, p historyParams) (any, error) {
	limit, err := pageSize(p.Limit)
	if err != nil {
		return nil, err
	}
	var before tasks.Place
	if p.After != "" {
		if before, err = readPlace(p.After); err != nil {
			return nil, err
		}
	}
	page, err := e.Past(store.Place{Updated: before.Created, ID: before.ID}, limit+1) // one more, to know whether there is one
	if err != nil {
		return nil, err
	}
	out := wire.HistoryPage{Tasks: make([]wire.PastTask, 0, len(page))}
	if len(page) > limit {
		page = page[:limit]
		last := page[limit-1]
		out.Next = writePlace(tasks.Place{Created: last.Updated, ID: last.ID})
	}
	for _, s := range page {
		out.Tasks = append(out.Tasks, wire.PastTaskOf(s))
	}
	return out, nil
}

// writePlace makes of a place the text that a client gives back for the next page.
func writePlace(p tasks.Place) string { return fmt.Sprintf("%020d/%s", p.Created.UnixNano(), p.ID) }

func readPlace(text string) (tasks.Place, error) {
	at, id, ok := strings.Cut(text, "/")
	nano, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil {
		return tasks.Place{}, code.Errorf(code.InvalidParameter, "parameter \"after\": it must be the next of the page before")
	}
	return tasks.Place{Created: time.Unix(0, nano).UTC(), ID: id}, nil
}

func pageSize(limit param.Int) (int, error) {
	if limit < 1 || limit > maxPage {
		return 0, code.Errorf(code.InvalidParameter, "parameter \"limit\": a page has 1 to %d entries", maxPage)
	}
	return int(limit), nil
}

// byID makes VDSM's map of a list of tasks.
func byID[T any](list []tasks.Summary, of func(tasks.Summary) T) map[string]T {
	out := make(map[string]T, len(list))
	for _, v := range list {
		out[v.ID] = of(v)
	}
	return out
}
