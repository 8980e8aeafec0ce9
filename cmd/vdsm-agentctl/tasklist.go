package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
)

// filter selects tasks in Host.getAllTasks; zero values select all.
type filter struct {
	State string `json:"state,omitempty"`
	Flow  string `json:"flow,omitempty"`
	Limit int    `json:"limit"`
	After string `json:"after,omitempty"`
}

// pageSize keeps one answer small, and the number of answers for very many tasks too.
const pageSize = 5000

// list returns the uncleared tasks that match, oldest first, read in pages.
func (c *cli) list(ctx context.Context, f filter) ([]wire.Task, error) {
	all := []wire.Task{}
	for f.Limit = pageSize; ; {
		var page wire.TaskPage
		if err := c.daemon.call(ctx, "Host.getAllTasks", f, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Tasks...)
		if page.Next == "" {
			return all, nil
		}
		f.After = page.Next
	}
}

// resolve finds the task that an id, or the beginning of one, means. A whole id is taken as it is: the daemon also knows
// the audit trail of tasks that are in no list any more.
func (c *cli) resolve(ctx context.Context, prefix string) (string, error) {
	if param.ValidUUID(strings.ToLower(prefix)) {
		return strings.ToLower(prefix), nil
	}
	all, err := c.list(ctx, filter{})
	if err != nil {
		return "", err
	}
	var named []candidate
	for _, t := range all {
		named = append(named, candidate{t.ID, fmt.Sprintf("%s (%s, %s)", t.ID, t.Method, t.State)})
	}
	return choose(prefix, named, "tasks --all")
}

// candidate is an id and how it is shown to a person who has to choose.
type candidate struct{ id, label string }

// choose returns the only id that begins with prefix, or is it. list is the command that shows all.
func choose(prefix string, all []candidate, list string) (string, error) {
	wanted := strings.ToLower(prefix)
	var found []candidate
	for _, c := range all {
		if c.id == prefix {
			return c.id, nil
		}
		if wanted != "" && strings.HasPrefix(strings.ToLower(c.id), wanted) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return "", fail(exitRefused, "there is no task whose id begins with %q; '%s %s' lists them", prefix, program, list)
	case 1:
		return found[0].id, nil
	}
	const most = 5
	labels := []string{}
	for _, c := range found[:min(most, len(found))] {
		labels = append(labels, c.label)
	}
	if more := len(found) - most; more > 0 {
		labels = append(labels, fmt.Sprintf("and %d more", more))
	}
	return "", misuse("%q begins the ids of %d tasks, give more of it: %s", prefix, len(found), strings.Join(labels, ", "))
}

// short is how an id stands in tables and sentences.
func short(id string) string {
	if param.ValidUUID(id) {
		return id[:8]
	}
	return id
}

// stateWords are the states of tasks in lists, in the order in which tasks pass them.
var stateWords = []tasks.State{
	tasks.Queued, tasks.Running, tasks.Committing, tasks.Aborting, tasks.Recovering, tasks.Finished, tasks.Recovered, tasks.Failed,
}

func checkState(word string) error {
	if word == "" || slices.Contains(stateWords, tasks.State(word)) {
		return nil
	}
	var words []string
	for _, s := range stateWords {
		words = append(words, string(s))
	}
	return misuse("there is no state %q; choose one of %s", word, strings.Join(words, ", "))
}

func final(t wire.Task) bool { return tasks.State(t.State).Final() }

// stateCell is a state with its colour, and whether the task is stuck or paused in it.
func stateCell(t wire.Task) show.Cell {
	cell := show.Cell{Text: t.State}
	switch tasks.State(t.State) {
	case tasks.Finished:
		cell.Colour = show.Good
	case tasks.Failed:
		cell.Colour = show.Bad
	case tasks.Aborting, tasks.Recovering, tasks.Recovered:
		cell.Colour = show.Warn
	}
	if t.Paused {
		cell = show.Cell{Text: t.State + " (paused)", Colour: show.Warn}
	}
	if t.Stuck {
		cell = show.Cell{Text: t.State + " (stuck)", Colour: show.Bad}
	}
	return cell
}

// progressText is "37 % of 8.0 GiB"; "" when the total is not known.
func progressText(p *wire.Progress) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf("%d %% of %s", show.Percent(p.Done, p.Total), show.Size(p.Total))
}
