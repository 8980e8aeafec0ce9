package main

import (
	"slices"
	"strings"

	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
)

// What fits of what the daemon has. An error means that nothing is known to fit: a person who is typing cannot use its text.

func (c *completer) taskIDs(fits func(wire.Task) bool) []string {
	all, err := c.list(c.ctx, filter{})
	if err != nil {
		return nil
	}
	var ids []string
	for _, t := range all {
		if fits(t) {
			ids = append(ids, t.ID)
			c.about[t.ID] = t.Method + " " + stateCell(t).Text
		}
	}
	return ids
}

func (c *completer) flowIDs() []string {
	all, err := c.flows(c.ctx)
	if err != nil {
		return nil
	}
	var ids []string
	for _, f := range all {
		if !strings.ContainsAny(f.FlowID, " \t\n'\"\\$`&|;<>()*?[]#~{}!") { // else the shell would take it for something else
			ids = append(ids, f.FlowID)
			c.about[f.FlowID] = count(f.Tasks, "task", "tasks")
		}
	}
	return ids
}

func (c *completer) domains() []string {
	ids, err := c.domainIDs(c.ctx)
	if err != nil {
		return nil
	}
	return ids
}

func (c *completer) trashed() []string {
	all, err := c.trash(c.ctx, "")
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range all {
		ids = append(ids, e.TaskID)
		c.about[e.TaskID] = first(e.Items)
	}
	return ids
}

// taskVerbs are the verbs that run as tasks, by their whole names.
func (c *completer) taskVerbs() []string {
	all, err := c.methods(c.ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range all {
		if m.Task {
			names = append(names, m.Name)
			c.about[m.Name] = m.Doc
		}
	}
	return names
}

func (c *completer) namespaces() []string {
	all, err := c.methods(c.ctx)
	if err != nil {
		return nil
	}
	names := namespaces(all)
	for _, n := range names {
		c.about[n] = "Verbs of the daemon."
	}
	return names
}

// verbs are those of the line's namespace.
func (c *completer) verbs() []string {
	all, err := c.methods(c.ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range inNamespace(all, c.words[0]) {
		_, verb := m.split()
		names = append(names, verb)
		c.about[verb] = m.Doc
	}
	return names
}

// params are the parameters of the line's verb that it does not have yet, or the values of the one that is being written.
func (c *completer) params(last string) []string {
	all, err := c.methods(c.ctx)
	if err != nil {
		return nil
	}
	m, err := lookUp(all, c.words[0], c.words[1])
	if err != nil {
		return nil
	}
	key, _, valued := strings.Cut(last, "=")
	given := map[string]bool{}
	for _, word := range c.words[2:] {
		name, _, _ := strings.Cut(word, "=")
		given[strings.TrimSuffix(name, ":")] = true
	}
	var out []string
	for _, f := range m.Params {
		switch {
		case valued && f.Name == key:
			for _, value := range c.values(f) {
				out = append(out, key+"="+value)
				c.about[key+"="+value] = c.about[value]
			}
		case !valued && !given[f.Name]:
			out = append(out, f.Name+"=")
			c.about[f.Name+"="] = f.Doc
		}
	}
	return out
}

// values are what a parameter can be, as far as that can be counted.
func (c *completer) values(f param.Field) []string {
	switch {
	case f.Type == "bool":
		return []string{"true", "false"}
	case f.Name == "taskID":
		return c.taskIDs(func(wire.Task) bool { return true })
	case f.Name == "flowID":
		return c.flowIDs()
	case slices.Contains([]string{"storagedomainID", "dstSdUUID"}, f.Name):
		return c.domains()
	case strings.HasSuffix(strings.ToLower(f.Name), "path"):
		c.files = true
		return nil
	case strings.Contains(f.Type, "|"):
		return strings.Split(f.Type, "|")
	}
	return nil
}
