package metrics

import (
	"time"

	"vdsm-agent/tasks"

	"github.com/prometheus/client_golang/prometheus"
)

// Buckets, in seconds, from what takes no time to what takes hours.
var (
	stopBuckets  = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 300}
	waitBuckets  = []float64{.001, .01, .1, 1, 10, 60, 300, 1800, 7200}
	stateBuckets = []float64{.01, .1, 1, 10, 60, 300, 1800, 7200, 28800, 86400}
	partBuckets  = []float64{.01, .05, .1, .25, .5, .75, 1, 2, 5}
)

// outcomes are how a task ends.
var outcomes = []string{"success", "stopped", "failed", "reverted", "residue"}

// outcome is that of a move to a final state.
func outcome(m tasks.Move) string {
	switch {
	case m.To == tasks.Finished:
		return "success"
	case m.To == tasks.Failed:
		return "residue"
	case m.Stopped:
		return "stopped"
	case m.Reverted:
		return "reverted"
	}
	return "failed"
}

// taskFigures observe the engine.
type taskFigures struct {
	verbs        map[string]*verbFigures // never changed
	inState      *prometheus.HistogramVec
	locks, slots map[tasks.Class]prometheus.Observer
	part         prometheus.Observer // of its bound that a stop took
}

// verbFigures are those of one verb.
type verbFigures struct {
	ended                                             map[string]prometheus.Counter // by outcome
	stop                                              prometheus.Observer
	exceeded, stuck, undoFailed, undoRetries, retries prometheus.Counter
	bytes                                             prometheus.Counter
}

// Tasks is the observer of an engine with these verbs.
func (m *Metrics) Tasks(verbs []*tasks.Verb) tasks.Observer {
	ended := counter("tasks_ended_total", "Tasks that came to an end, by verb and outcome: success, stopped, failed (undone after an error), reverted, "+
		"residue (part of the undo or of a commit could not be done).", "verb", "outcome")
	stop := histogram("task_stop_seconds", "How long stops took, from the recorded request to the final state.", stopBuckets, "verb")
	bound := gauge("task_stop_bound_seconds", "How long a stop of the verb may take, as its contract declares.", "verb")
	exceeded := counter("task_stop_bound_exceeded_total", "Stops that took longer than the verb declares.", "verb")
	part := histogram("task_stop_bound_ratio", "How long stops took, as a part of what their verbs declare; more than 1 breaks the promise.", partBuckets)
	stuck := counter("task_stuck_total", "How often a task was found stuck: past its bound, or past its point of no return with a step that fails.", "verb")
	undoFailed := counter("undo_failed_total", "Steps whose undo failed.", "verb")
	undoRetries := counter("undo_retries_total", "Undos that were asked to be tried again, by a revert of a failed task.", "verb")
	retries := counter("commit_retries_total", "Steps past the point of no return that failed and were tried again.", "verb")
	bytes := counter("task_bytes_total", "Bytes that tasks have copied, wiped or freed, those that were done once more after a restart too.", "verb")
	inState := histogram("task_state_seconds", "How long tasks were in a state that they have left.", stateBuckets, "class", "state")
	locks := histogram("task_lock_wait_seconds", "How long tasks waited for their locks before they began.", waitBuckets, "class")
	slots := histogram("task_slot_wait_seconds", "How long tasks that had their locks waited for a slot of their class.", waitBuckets, "class")
	m.registry.MustRegister(ended, stop, bound, exceeded, part, stuck, undoFailed, undoRetries, retries, bytes, inState, locks, slots)
	f := &taskFigures{
		verbs: map[string]*verbFigures{}, inState: inState,
		locks: map[tasks.Class]prometheus.Observer{}, slots: map[tasks.Class]prometheus.Observer{}, part: part.WithLabelValues(),
	}
	for _, v := range verbs {
		one := &verbFigures{
			ended: map[string]prometheus.Counter{}, stop: stop.WithLabelValues(v.Name), exceeded: exceeded.WithLabelValues(v.Name),
			stuck: stuck.WithLabelValues(v.Name), undoFailed: undoFailed.WithLabelValues(v.Name), undoRetries: undoRetries.WithLabelValues(v.Name),
			retries: retries.WithLabelValues(v.Name), bytes: bytes.WithLabelValues(v.Name),
		}
		for _, o := range outcomes {
			one.ended[o] = ended.WithLabelValues(v.Name, o)
		}
		bound.WithLabelValues(v.Name).Set(v.Contract.Bound.Seconds())
		f.verbs[v.Name] = one
	}
	for _, class := range tasks.Classes {
		f.locks[class], f.slots[class] = locks.WithLabelValues(string(class)), slots.WithLabelValues(string(class))
	}
	return f
}

func (f *taskFigures) Moved(m tasks.Move) {
	v := f.verbs[m.Verb]
	if m.From != tasks.Init {
		f.inState.WithLabelValues(string(m.Class), string(m.From)).Observe(m.In.Seconds())
	}
	switch {
	case m.To == tasks.Queued && m.From == tasks.Failed:
		v.undoRetries.Inc()
	case m.To.Final() && !m.From.Final() && m.From != tasks.Queued: // from queued it is a revert that was refused: no new end
		v.ended[outcome(m)].Inc()
	}
	if m.Took == 0 {
		return
	}
	v.stop.Observe(m.Took.Seconds())
	f.part.Observe(m.Took.Seconds() / m.Bound.Seconds())
	if m.Took > m.Bound {
		v.exceeded.Inc()
	}
}

func (f *taskFigures) Granted(class tasks.Class, locks, slot time.Duration) {
	f.locks[class].Observe(locks.Seconds())
	f.slots[class].Observe(slot.Seconds())
}

func (f *taskFigures) Copied(verb string, bytes int64) { f.verbs[verb].bytes.Add(float64(bytes)) }
func (f *taskFigures) Stuck(verb string)               { f.verbs[verb].stuck.Inc() }
func (f *taskFigures) UndoFailed(verb string)          { f.verbs[verb].undoFailed.Inc() }
func (f *taskFigures) Retried(verb string)             { f.verbs[verb].retries.Inc() }
