package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// bars is the screen of a terminal: a row with a bar for each task, drawn anew at each look. In a table of all tasks a task that
// has ended leaves it, and its last sentence stays above; the only task of a watch keeps its bar, and the sentence follows.
type bars struct {
	cli     *cli
	table   bool
	rows    int // that the terminal has for tasks; 0 = any number
	all     *mpb.Progress
	refresh chan any
	head    *mpb.Bar
	byTask  map[string]*bar
	last    string // sentence of the only task

	mu     sync.Mutex // guards what follows, and the tasks of the bars: the bars draw on goroutines of their own
	widths [3]int     // of the columns before the bar
	hidden int        // tasks without a row
}

type bar struct {
	*mpb.Bar
	task wire.Task // guarded by bars.mu
}

const (
	barWidth = 22
	barTotal = 1000 // the bar counts thousandths, since the total of a task may change
	headRows = 2    // of a table that are no tasks: its head, and the line of the cursor
)

// newBars is the screen of the watch of one task, or the table of all.
func newBars(c *cli, table bool) *bars {
	b := &bars{cli: c, table: table, refresh: make(chan any), byTask: map[string]*bar{}}
	b.all = mpb.New(mpb.WithOutput(c.stdout), mpb.ForceTTY(), mpb.WithWidth(c.width), mpb.WithManualRefresh(b.refresh))
	if table {
		if c.height > headRows {
			b.rows = c.height - headRows
		}
		b.widen("TASK", "VERB", "recovering") // the longest: a state that is there for a moment moves no column
		b.head = b.row(heading("PROGRESS"), func() (string, string) { return b.columns("TASK", "VERB", "STATE"), b.more() })
	}
	return b
}

// heading stands where the bars are.
type heading string

// Build makes it a filler of mpb.
func (h heading) Build() mpb.BarFiller {
	return mpb.BarFillerFunc(func(w io.Writer, _ decor.Statistics) error {
		_, err := fmt.Fprintf(w, "%-*s", barWidth, string(h))
		return err
	})
}

// row is one line of the screen: text gives what stands before and after the bar, and is called with the lock held.
func (b *bars) row(filler mpb.BarFillerBuilder, text func() (before, after string)) *mpb.Bar {
	return b.all.New(barTotal, filler, mpb.BarWidth(barWidth), mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			before, _ := text()
			return before
		})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			before, after := text()
			return b.fitting(" "+after, show.Width(before))
		})))
}

// fitting cuts what follows the bar to what is left of the terminal's width.
func (b *bars) fitting(after string, before int) string {
	if b.cli.width == 0 {
		return after
	}
	return show.Cut(after, max(b.cli.width-barWidth-before-1, 1))
}

func (b *bars) update(t wire.Task) {
	one := b.byTask[t.ID]
	if one == nil && !final(t) && b.rows > 0 && len(b.byTask) == b.rows {
		return // until another has left
	}
	b.mu.Lock()
	if one == nil {
		one = &bar{}
		b.byTask[t.ID] = one
	}
	leaves := final(t) && b.table // what its row would be must not widen the others
	if !leaves {
		one.task = t
		b.widen(cells(t)...)
	}
	b.mu.Unlock()
	if one.Bar == nil && !leaves {
		style := mpb.BarStyle().Lbound("[").Filler("#").Tip("").Padding("-").Rbound("]")
		one.Bar = b.row(style, func() (string, string) { return b.columns(cells(one.task)...), after(one.task) })
	}
	if p := t.Progress; p != nil && p.Total > 0 && one.Bar != nil {
		one.SetCurrent(min(barTotal-1, barTotal*int64(show.Percent(p.Done, p.Total))/100)) // at barTotal the bar would be done
	}
	if final(t) {
		b.end(t.ID, sentence(t), t.Result == resultSuccess)
	}
	b.refresh <- nil
}

// end takes a task off the table, or leaves the only one as it is.
func (b *bars) end(id, text string, success bool) {
	one := b.byTask[id]
	switch {
	case b.table:
		if one != nil && one.Bar != nil {
			one.Abort(true)
		}
		delete(b.byTask, id)
		_, _ = fmt.Fprintln(b.all, text) // above the table; standard output remembers its errors
	default:
		b.last = text
		if success {
			one.SetTotal(barTotal, true)
		} else if one != nil {
			one.Abort(false)
		}
	}
}

func (b *bars) cleared(id string) {
	b.end(id, short(id)+" was cleared", false)
	b.refresh <- nil
}

func (b *bars) looked(open int) {
	if b.table {
		b.mu.Lock()
		b.hidden = open - len(b.byTask)
		b.mu.Unlock()
		b.refresh <- nil
	}
}

func (b *bars) close() {
	open := false
	for _, one := range b.byTask {
		open = open || !one.AbortedOrCompleted()
	}
	if open {
		b.all.Shutdown()
	} else {
		if b.head != nil {
			b.head.Abort(true) // of an empty table nothing is left
			b.refresh <- nil
		}
		b.all.Wait() // until the last state is drawn
	}
	if b.last != "" {
		b.cli.printf("%s\n", b.last)
	}
}

// cells are the columns of a task before its bar.
func cells(t wire.Task) []string { return []string{short(t.ID), clean(t.Method), stateCell(t).Text} }

// widen makes the columns as wide as their widest text.
func (b *bars) widen(cells ...string) {
	for i, text := range cells {
		b.widths[i] = max(b.widths[i], show.Width(text))
	}
}

// columns are texts in their columns.
func (b *bars) columns(cells ...string) string {
	var line strings.Builder
	for i, text := range cells {
		line.WriteString(text + strings.Repeat(" ", b.widths[i]-show.Width(text)+1))
	}
	return line.String()
}

// after is what follows the bar of a task.
func after(t wire.Task) string {
	text := t.Message
	if t.Progress != nil {
		text = longProgress(t.Progress) + "  " + text
	}
	return clean(text)
}

// more says how many tasks have no row.
func (b *bars) more() string {
	if b.hidden <= 0 {
		return ""
	}
	return "and " + count(b.hidden, "more task", "more tasks")
}
