package main

import (
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"
)

// bars is the screen of a terminal: a bar for each task, drawn anew at each look. A bar that has ended stays, and its last
// sentence follows under the bars.
type bars struct {
	cli     *cli
	all     *mpb.Progress
	refresh chan any
	byTask  map[string]*bar
	ended   []string
}

// bar is one task's. Its decorators run on goroutines of the bar.
type bar struct {
	*mpb.Bar
	mu   sync.Mutex // guards task
	task wire.Task
}

const (
	barWidth = 22
	barTotal = 1000 // the bar counts thousandths, since the total of a task may change
)

func newBars(c *cli) *bars {
	b := &bars{cli: c, refresh: make(chan any), byTask: map[string]*bar{}}
	b.all = mpb.New(mpb.WithOutput(c.stdout), mpb.ForceTTY(), mpb.WithWidth(c.width), mpb.WithManualRefresh(b.refresh))
	return b
}

func (b *bars) update(t wire.Task) {
	one, ok := b.byTask[t.ID]
	if !ok {
		one = &bar{task: t}
		one.Bar = b.all.New(barTotal, mpb.BarStyle().Lbound("[").Filler("#").Tip("").Padding("-").Rbound("]"),
			mpb.BarWidth(barWidth), mpb.BarFillerTrim(),
			mpb.PrependDecorators(decor.Any(one.head, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return one.tail(b.cli.width, s) })))
		b.byTask[t.ID] = one
	}
	one.mu.Lock()
	one.task = t
	one.mu.Unlock()
	if p := t.Progress; p != nil && p.Total > 0 {
		one.SetCurrent(min(barTotal-1, barTotal*int64(show.Percent(p.Done, p.Total))/100)) // at barTotal the bar would be done
	}
	switch {
	case !final(t):
	case t.Result == resultSuccess:
		b.ended = append(b.ended, sentence(t))
		one.SetTotal(barTotal, true)
	default:
		b.ended = append(b.ended, sentence(t))
		one.Abort(false)
	}
	b.refresh <- nil
}

func (b *bars) cleared(id string) {
	b.ended = append(b.ended, short(id)+" was cleared")
	if one, ok := b.byTask[id]; ok {
		one.Abort(false)
		b.refresh <- nil
	}
}

func (b *bars) close() {
	if b.open() {
		b.all.Shutdown()
	} else {
		b.all.Wait() // until the last state is drawn
	}
	for _, line := range b.ended {
		b.cli.printf("%s\n", line)
	}
}

func (b *bars) open() bool {
	for _, one := range b.byTask {
		if !one.AbortedOrCompleted() {
			return true
		}
	}
	return false
}

func (b *bar) head(decor.Statistics) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return clean(short(b.task.ID) + " " + b.task.Method + " " + stateCell(b.task).Text)
}

// tail is what follows the bar, cut to what is left of the terminal's width.
func (b *bar) tail(width int, _ decor.Statistics) string {
	b.mu.Lock()
	t := b.task
	b.mu.Unlock()
	text := t.Message
	if t.Progress != nil {
		text = longProgress(t.Progress) + "  " + text
	}
	text = " " + clean(text)
	if width > 0 {
		text = show.Cut(text, max(width-barWidth-show.Width(b.head(decor.Statistics{}))-2, 1))
	}
	return text
}
