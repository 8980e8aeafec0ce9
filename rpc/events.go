package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"path"
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
)

// hub gives what happens to tasks and flows to the connections that want to know. Each event is written once for all of them, and
// none is while nobody wants any. Nobody who changes a task, and no other connection, ever waits for one that is slow.
type hub struct {
	log zerolog.Logger

	mu        sync.Mutex // guards what follows; never held while anything blocks
	engine    Engine     // nil = the agent is starting
	listeners map[*connection]*listener
	end       context.CancelFunc // of the goroutine that feeds them; nil = there is none
}

// listener is what a connection wants.
type listener struct {
	wanted bool
	topics []string // globs; none = all
}

func (l *listener) wants(method string) bool {
	if len(l.topics) == 0 {
		return true
	}
	return slices.ContainsFunc(l.topics, func(topic string) bool {
		fits, _ := path.Match(topic, method) // it was tried when it was taken
		return fits
	})
}

// change changes what a connection wants, until it has left. Events that happen after it has returned are not missed.
func (h *hub) change(c *connection, change func(*listener)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.left {
		return
	}
	l := h.listeners[c]
	if l == nil {
		l = &listener{}
		h.listeners[c] = l
	}
	change(l)
	h.look()
}

// leave forgets a connection, whose transport may still be about to say what it wants.
func (h *hub) leave(c *connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.left = true
	delete(h.listeners, c)
	h.look()
}

// begin says that there is an engine now.
func (h *hub) begin(e Engine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.engine = e
	h.look()
}

// look sees that somebody feeds the listeners as long as there are some. The caller holds mu.
func (h *hub) look() {
	wanted := false
	for _, l := range h.listeners {
		wanted = wanted || l.wanted
	}
	switch {
	case h.end != nil && !wanted:
		h.end()
		h.end = nil
	case h.end == nil && wanted && h.engine != nil:
		ctx, end := context.WithCancel(context.Background())
		h.end = end
		go h.feed(ctx, h.engine, h.engine.Subscribe())
	}
}

// flowsAfter is how long what happens in a flow is gathered before it is told: its tasks often move together.
const flowsAfter = 100 * time.Millisecond

// feed gives events to the listeners until ctx ends.
func (h *hub) feed(ctx context.Context, e Engine, from *tasks.Subscription) {
	defer from.Close()
	moved := map[string]bool{} // flows of which is to be told
	var due time.Time
	for {
		wait, stop := ctx, context.CancelFunc(func() {})
		if len(moved) > 0 {
			wait, stop = context.WithDeadline(ctx, due)
		}
		event, err := from.Next(wait)
		stop()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, tasks.ErrLost):
			h.lost()
			return
		case err == nil:
			if flow := h.tell(event); flow != "" && !moved[flow] {
				if len(moved) == 0 {
					due = time.Now().Add(flowsAfter)
				}
				moved[flow] = true
			}
		}
		if len(moved) > 0 && !time.Now().Before(due) {
			for flow := range moved {
				h.tellFlow(e, flow)
			}
			clear(moved)
		}
	}
}

// tell sends what an event says of a task, and answers the flow that it concerns, "" if none.
func (h *hub) tell(e tasks.Event) (flow string) {
	s := e.Task
	switch e.Kind {
	case tasks.Fenced:
		return e.Flow
	case tasks.Progressed:
		if s.Progress.Total > 0 {
			h.send("|tasks|progress|"+s.ID, wire.ProgressOf(s), true)
		}
		return ""
	case tasks.Moved:
		h.send("|tasks|status|"+s.ID, wire.TaskOf(s), false)
		if wire.IsJob(s) && s.State.Final() && s.State != tasks.Cleared {
			h.send("|jobs|status|"+s.ID, wire.JobOf(s), false)
		}
		return s.Flow
	}
	return ""
}

func (h *hub) tellFlow(e Engine, flow string) {
	f := wire.FlowEvent{FlowID: flow, Tasks: map[string]int{}}
	_, f.Fenced = e.Fenced(flow)
	for _, s := range e.List(tasks.Filter{Flow: flow}) {
		f.Tasks[string(s.State)]++
	}
	h.send("|flows|status|"+url.PathEscape(flow), f, false)
}

// send writes an event for those who want it.
func (h *hub) send(method string, params any, mayBeLeftOut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var event []byte
	for c, l := range h.listeners {
		if !l.wanted || !l.wants(method) {
			continue
		}
		if event == nil {
			var err error
			if event, err = notification(method, params); err != nil {
				h.log.Error().Err(err).Str("event", method).Msg("an event cannot be written")
				return
			}
		}
		c.stream.Push(event, mayBeLeftOut)
	}
}

// notification is params with the time of the event, as VDSM has it.
func notification(method string, params any) ([]byte, error) {
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	if all["notify_time"], err = json.Marshal(stream.NotifyTime()); err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Version string                     `json:"jsonrpc"`
		Method  string                     `json:"method"`
		Params  map[string]json.RawMessage `json:"params"`
	}{"2.0", method, all})
}

// lost closes the connections of all listeners: they have missed changes of states, and learn from the end of their connection that
// they must connect, subscribe and list again.
func (h *hub) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, l := range h.listeners {
		if l.wanted {
			c.log.Error().Msg("the agent was too busy to tell this client everything that has happened; the connection is closed, so that it lists again")
			_ = c.stream.Close() // the end is what it is told
		}
	}
	h.end = nil
}

type eventParams struct {
	Topics []topic `json:"topics" default:"[]" doc:"globs of events, such as |tasks|status|* or |flows|*; none = all"`
}

// topic is a glob that is matched against the method of an event: * is any part of it, ? any letter, [ab] one of some.
type topic string

// UnmarshalJSON refuses what is no glob.
func (t *topic) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return code.Errorf(code.InvalidParameter, "%q is not a glob such as |tasks|status|*", s)
	}
	*t = topic(s)
	return nil
}

// eventMethods are the verbs by which a connection asks for events.
func eventMethods() []Method {
	return []Method{
		with(Method{
			Name: "Events.subscribe", Role: access.Observe, Ours: true,
			Doc: "Send this connection the events of some topics, instead of those it has asked for before.",
		}, func(_ context.Context, r *Request, p eventParams) (any, error) {
			topics := make([]string, len(p.Topics))
			for i, t := range p.Topics {
				topics[i] = string(t)
			}
			r.conn.server.events.change(r.conn, func(l *listener) {
				l.topics = topics
				l.wanted = l.wanted || !r.conn.asksByItself
			})
			return nil, nil
		}),
		with(Method{
			Name: "Events.unsubscribe", Role: access.Observe, Ours: true,
			Doc: "Send this connection no more events.",
		}, func(_ context.Context, r *Request, _ param.None) (any, error) {
			r.conn.server.events.change(r.conn, func(l *listener) { l.wanted = false })
			return nil, nil
		}),
	}
}
