package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/wire"
)

// eventsCommand follows what happens.
type eventsCommand struct {
	Topic []string `sep:"none" predictor:"topic" placeholder:"GLOB" help:"Only events that fit, such as '|tasks|status|*' or '|jobs|*'; may be given more than once."`
}

// Help is the end of the command's help text.
func (eventsCommand) Help() string {
	return "A line for each event, until Ctrl-C: |tasks|status|ID, |tasks|progress|ID, |flows|status|FLOW, |jobs|status|ID. With --json a JSON object " +
		"for each. Over a restart of the daemon it waits and goes on, and says so: what happened meanwhile is not told, so list the tasks then."
}

func (e *eventsCommand) Run(ctx context.Context, c *cli) error {
	params := func(s *session) error { return s.conn.Subscribe(ctx, e.Topic...) }
	for {
		if err := c.daemon.follows(ctx, params); err != nil {
			return ended(err)
		}
		c.note("following events; Ctrl-C ends this")
		for {
			event, err := c.daemon.conn.Next(ctx)
			switch {
			case errors.Is(err, client.ErrConnectionLost), errors.Is(err, client.ErrTooSlow):
				c.daemon.close()
			case err != nil:
				return ended(err)
			default:
				c.event(event)
				continue
			}
			fmt.Fprintf(c.stderr, "%s: the events were interrupted; some may be missing\n", program)
			break
		}
	}
}

// ended is the end of following.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return &failure{exit: exitInterrupted}
	}
	return err
}

// event prints one.
func (c *cli) event(e client.Event) {
	if c.JSON {
		line, err := json.Marshal(e)
		if err == nil {
			c.printf("%s\n", line)
		}
		return
	}
	c.printf("%s  %s\n", time.Now().Format("15:04:05.000"), clean(eventText(e)))
}

// eventText is an event in one line.
func eventText(e client.Event) string {
	parts := strings.SplitN(e.Method, "|", 4)
	if len(parts) < 4 {
		return e.Method + " " + string(e.Params)
	}
	var err error
	text := ""
	switch parts[1] + "|" + parts[2] {
	case "tasks|status":
		var t wire.Task
		if err = json.Unmarshal(e.Params, &t); err == nil {
			text = sentence(t)
		}
	case "tasks|progress":
		var p wire.Progress
		if err = json.Unmarshal(e.Params, &p); err == nil {
			text = short(parts[3]) + " " + longProgress(&p)
		}
	case "flows|status":
		var f wire.FlowEvent
		if err = json.Unmarshal(e.Params, &f); err == nil {
			text = flowText(f)
		}
	case "jobs|status":
		var j wire.Job
		if err = json.Unmarshal(e.Params, &j); err == nil {
			text = short(j.ID) + " job " + j.Description + " " + j.Status
			if j.Error != nil {
				text += ": " + j.Error.Message
			}
		}
	default:
		text = string(e.Params)
	}
	if err != nil {
		text = string(e.Params)
	}
	return fmt.Sprintf("%-14s  %s", parts[1]+" "+parts[2], text)
}

func flowText(f wire.FlowEvent) string {
	text := "flow " + f.FlowID
	if f.Fenced {
		text += " is cancelled"
	}
	var counts []string
	for _, state := range stateWords {
		if n := f.Tasks[string(state)]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(counts) == 0 {
		return text + ", no tasks"
	}
	return text + ": " + strings.Join(counts, ", ")
}
