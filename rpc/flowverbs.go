package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// cancelLimit is how long the cancel of a flow may take until every stop and revert is recorded.
const cancelLimit = time.Minute

type flowParams struct {
	FlowID flowID `json:"flowID" doc:"correlation id of the action"`
}

type flowCancelParams struct {
	FlowID flowID        `json:"flowID" doc:"correlation id of the action"`
	Revert param.Bool    `json:"revert" default:"false" doc:"also revert its tasks that have finished, last first"`
	Wait   param.Seconds `json:"wait" default:"0" doc:"how long to wait until all of its tasks have ended; 0 = not"`
}

type flowListParams struct {
	State state     `json:"state" default:"" doc:"only flows with a task in this state"`
	Limit param.Int `json:"limit" default:"100" doc:"flows in the answer"`
	After string    `json:"after" default:"" doc:"the next of the page before"`
}

// flowMethods are the verbs about whole actions of an engine.
func flowMethods(e Engine) []Method {
	return []Method{
		with(Method{
			Name: "Flow.cancel", Role: access.Operate, Ours: true, Cancels: true, Result: wire.FlowCancel{},
			Doc: "Stop all tasks of a flow, and refuse new ones.",
		}, func(ctx context.Context, r *Request, p flowCancelParams) (any, error) {
			if err := p.FlowID.required(); err != nil {
				return nil, err
			}
			return cancelFlow(ctx, e, r.Who, p)
		}),
		with(Method{
			Name: "Flow.getStatus", Role: access.Observe, Ours: true, Result: wire.FlowStatus{},
			Doc: "Answer the states of a flow's tasks.",
		}, func(_ context.Context, _ *Request, p flowParams) (any, error) {
			if err := p.FlowID.required(); err != nil {
				return nil, err
			}
			out := wire.FlowStatus{FlowID: string(p.FlowID), Tasks: byID(e.List(tasks.Filter{Flow: string(p.FlowID)}), wire.StatusOf)}
			if since, fenced := e.Fenced(string(p.FlowID)); fenced {
				out.Fenced, out.FencedAt = true, since
			}
			return out, nil
		}),
		with(Method{
			Name: "Flow.list", Role: access.Observe, Ours: true, Result: wire.FlowPage{},
			Doc: "List the flows that have tasks or are cancelled.",
		}, func(_ context.Context, _ *Request, p flowListParams) (any, error) {
			return answered(flowPage(e.Flows(tasks.State(p.State)), p))
		}),
		with(Method{
			Name: "Flow.release", Role: access.Operate, Ours: true,
			Doc: "Take new tasks of a cancelled flow again.",
		}, func(_ context.Context, _ *Request, p flowParams) (any, error) {
			if err := p.FlowID.required(); err != nil {
				return nil, err
			}
			return nil, e.ReleaseFlow(string(p.FlowID))
		}),
	}
}

// cancelFlow cancels a flow and, if the client wants to wait, looks at each task again when it has ended.
func cancelFlow(ctx context.Context, e Engine, who string, p flowCancelParams) (any, error) {
	// A cancel is not cut short, with some tasks stopped and others not, because the client goes away meanwhile.
	whole, end := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
	defer end()
	changes, err := e.CancelFlow(whole, string(p.FlowID), who, bool(p.Revert))
	if err != nil {
		return nil, err
	}
	if p.Wait > 0 {
		if err := allEnded(ctx, e, p, changes); err != nil {
			return nil, err
		}
	}
	_, fenced := e.Fenced(string(p.FlowID))
	out := wire.FlowCancel{FlowID: string(p.FlowID), Fenced: fenced, Tasks: map[string]wire.FlowTask{}}
	for _, c := range changes {
		t := wire.FlowTaskOf(c)
		if c.Err != nil {
			t.Code, t.Message = int(code.Of(c.Err)), c.Err.Error()
		}
		out.Tasks[c.ID] = t
	}
	return out, nil
}

// allEnded waits until every task has ended, and puts what it is then into changes.
func allEnded(ctx context.Context, e Engine, p flowCancelParams, changes []tasks.FlowChange) error {
	ctx, end := within(ctx, p.Wait)
	defer end()
	var left []string
	for i := range changes {
		v, err := e.Wait(ctx, changes[i].ID, tasks.Ended)
		switch code.Of(err) {
		case 0:
			changes[i].After = v
		case code.UnknownTask:
			changes[i].After = tasks.Summary{Word: changes[i].After.Word}
		case code.ResourceTimeout:
			left = append(left, fmt.Sprintf("%s (%s)", changes[i].ID, v.State))
		default:
			return err
		}
	}
	if len(left) > 0 {
		return code.Errorf(code.ResourceTimeout, "flow %s is fenced and its cancel goes on; after %s these tasks have not ended: %s",
			p.FlowID, seconds(p.Wait), strings.Join(left, ", "))
	}
	return nil
}

// flowPage cuts a page out of the flows, which are in the order of their ids.
func flowPage(all []tasks.FlowView, p flowListParams) (wire.FlowPage, error) {
	limit, err := pageSize(p.Limit)
	if err != nil {
		return wire.FlowPage{}, err
	}
	out := wire.FlowPage{Flows: []wire.Flow{}}
	for _, f := range all {
		if f.ID <= p.After {
			continue
		}
		if len(out.Flows) == limit {
			out.Next = out.Flows[limit-1].FlowID
			break
		}
		out.Flows = append(out.Flows, wire.FlowOf(f))
	}
	return out, nil
}
