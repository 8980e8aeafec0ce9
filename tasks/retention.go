package tasks

import (
	"errors"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks/store"
)

// Retention says how long what has ended is kept. Zero values mean for ever.
type Retention struct {
	Jobs    time.Duration // uncleared ended tasks that are jobs (tags sdm, virt, host) are cleared so long after their end
	History time.Duration // cleared tasks are forgotten so long after they were cleared
	Rows    int           // and of the rest all but the newest so many
}

const (
	retainEvery = time.Minute
	pruneEvery  = time.Hour
)

// retain does what is due by the clock, the first time at the start: jobs leave, what a finished task could be reverted with is given up when it expires,
// fences come down, and the history is cut.
func (e *Engine) retain() {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	var pruned time.Time
	for {
		now := time.Now()
		e.sweep(now)
		e.flows.lower(e, now)
		if now.Sub(pruned) >= pruneEvery {
			e.prune(now)
			pruned = now
		}
		select {
		case <-tick.C:
		case <-e.closing:
			return
		}
	}
}

// sweep does what is due for ended tasks.
func (e *Engine) sweep(now time.Time) {
	for _, t := range e.all() {
		end := t.end.Load()
		if end == nil || e.ctx.Err() != nil || !t.state().Final() {
			continue
		}
		var err error
		switch jobs := e.tuning.Load().Retention.Jobs; {
		case jobs > 0 && isJob(end.tag) && now.Sub(time.UnixMicro(end.ended)) >= jobs:
			err = e.Clear(t.id, agentItself)
		case t.own && end.state == Finished: // the agent died at its end, or could not record that it was cleared
			err = e.Clear(t.id, agentItself)
		case end.expires != 0 && now.UnixMicro() >= end.expires:
			err = t.expire()
		}
		if err != nil && code.Of(err) != code.UnknownTask {
			t.log().Warn().Err(err).Msg("what is due for an ended task could not be recorded; it is tried again")
		}
	}
}

// expire gives up what a revert of a finished task would need. The task stays listed.
func (t *task) expire() error {
	again := errors.New("it is not finished any more")
	err := t.ask(agentItself, "not cleared in time: it can no longer be reverted", func(r *record) error {
		if r.State != Finished || r.Expired {
			return again
		}
		r.Expired = true
		return nil
	}, func(r *record, c *store.Change) error { return t.deferred(r, c, EndExpired) })
	if errors.Is(err, again) {
		return nil
	}
	return err
}

func (e *Engine) prune(now time.Time) {
	keep := e.tuning.Load().Retention
	if keep.History == 0 && keep.Rows == 0 {
		return
	}
	var before time.Time
	if keep.History > 0 {
		before = now.Add(-keep.History)
	}
	rows := keep.Rows
	if rows == 0 {
		rows = 1<<31 - 1
	}
	n, err := e.store.Prune(before, rows)
	switch {
	case err != nil && !errors.Is(err, store.ErrClosed):
		e.log.Warn().Err(err).Msg("the history could not be cut; it is tried again")
	case n > 0:
		e.log.Info().Int("tasks", n).Msg("old tasks left the history")
	}
}

// Past returns cleared tasks, newest first: limit at most of those behind the place (the zero Place: of all), whose time is that of
// the clear. None means that there are no more. Errors: 413.
func (e *Engine) Past(before store.Place, limit int) ([]Summary, error) {
	rows, err := e.store.History(before, limit)
	if err != nil {
		return nil, code.Errorf(code.TaskPersist, "the store cannot be read now: %w", err)
	}
	out := []Summary{}
	for _, row := range rows {
		s := Summary{ID: row.ID, Verb: row.Verb, Word: row.Verb, Tag: row.Tag, Flow: row.Flow, State: Cleared, Created: row.Created, Updated: row.Updated}
		r, err := readRecord(row)
		if v, ok := e.verbs[row.Verb]; ok && err == nil {
			s = r.summary(v)
		} else {
			s.Message = "it is of a verb that this agent does not have, or its record is damaged"
		}
		out = append(out, s)
	}
	return out, nil
}
