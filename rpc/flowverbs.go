package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
		cancels(ours("Flow.cancel", func(ctx context.Context, r *Request, p flowCancelParams) (any, error) {
			if err := p.FlowID.required(); err != nil {
				return nil, err
			}
			return cancelFlow(ctx, e, r.Who, p)
		})),
		ours("Flow.getStatus", func(_ context.Context, _ *Request, p flowParams) (any, error) {
			if err := p.FlowID.required(); err != nil {
				return nil, err
			}
			out := wire.FlowStatus{FlowID: string(p.FlowID), Tasks: byID(e.List(tasks.Filter{Flow: string(p.FlowID)}), wire.StatusOf)}
			if since, fenced := e.Fenced(string(p.FlowID)); fenced {
				out.Fenced, out.FencedAt = true, since
			}
			return out, nil
		}),
		ours("Flow.list", func(_ context.Context, _ *Request, p flowListParams) (any, error) {
			flows, next, err := page(flowsOf(e, tasks.State(p.State)), func(f wire.Flow) string { return f.FlowID }, p.After, p.Limit)
			return answered(wire.FlowPage{Flows: wire.OrEmpty(flows), Next: next}, err)
		}),
		ours("Flow.release", func(_ context.Context, _ *Request, p flowParams) (any, error) {
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
			changes[i].After = tasks.View{Word: changes[i].After.Word}
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

// flowsOf lists the flows that have an uncleared task or, if a state is given, one in that state.
func flowsOf(e Engine, state tasks.State) []wire.Flow {
	byFlow := map[string]*wire.Flow{}
	var wanted []string
	for _, v := range e.List(tasks.Filter{}) {
		if v.Flow == "" {
			continue
		}
		f, known := byFlow[v.Flow]
		if !known {
			_, fenced := e.Fenced(v.Flow)
			f = &wire.Flow{FlowID: v.Flow, Fenced: fenced}
			byFlow[v.Flow] = f
		}
		f.Tasks++
		if state == "" || v.State == state {
			wanted = append(wanted, v.Flow)
		}
	}
	slices.Sort(wanted)
	var out []wire.Flow
	for _, id := range slices.Compact(wanted) {
		out = append(out, *byFlow[id])
	}
	return out
}
