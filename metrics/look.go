package metrics

import (
	"context"

	"vdsm-agent/tasks"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are what is looked at when somebody scrapes. Each answers within seconds, whatever hangs.
type Sources struct {
	Census  func() tasks.Census
	Queue   func() tasks.Queue
	Domains func(context.Context) map[string]Domain // by id
	// Room is that of the file system with the agent's state, in bytes.
	Room func() (size, free uint64, err error)
}

// Domain is what a storage domain says of itself.
type Domain struct {
	Healthy           bool
	Size, Free        int64 // bytes
	Trash, TrashLimit int64 // bytes; a limit of 0 is none
	Entries, Overdue  int   // of the trash: all, and those that nobody has emptied when their time was over
}

// Look adds what the sources say.
func (m *Metrics) Look(s Sources) { m.registry.MustRegister(&looked{s}) }

// looked collects what is looked at.
type looked struct{ sources Sources }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	tasksDesc    = desc("tasks", "Tasks that are not cleared, by verb and state.", "verb", "state")
	stuckDesc    = desc("tasks_stuck", "Tasks that are stuck now: 'vdsm-agentctl task' says what holds each.", "verb")
	stuckForDesc = desc("task_stuck_seconds", "For how long the task has been stuck that has been longest; 0 = none is.")

	waitingDesc    = desc("tasks_waiting", "Tasks that wait for their locks or a slot.")
	queueLimitDesc = desc("queue_limit", "How many may wait; 0 = any number.")
	runningDesc    = desc("tasks_running", "Tasks that have a slot of their class.", "class")
	readyDesc      = desc("tasks_ready", "Tasks that have their locks and wait for a slot of their class.", "class")
	limitDesc      = desc("class_limit", "How many of the class may run at a time; 0 = any number.", "class")
	drainedDesc    = desc("drained", "1 while new tasks are refused because the agent is drained.")

	stateSizeDesc = desc("state_size_bytes", "Size of the file system with the agent's state.")
	stateFreeDesc = desc("state_free_bytes", "Room that is left in the file system with the state.")

	healthyDesc    = desc("domain_healthy", "1, or 0 when the storage domain does not answer or cannot be changed.", "domain")
	sizeDesc       = desc("domain_size_bytes", "Size of the domain's file system.", "domain")
	freeDesc       = desc("domain_free_bytes", "Room that is left in the file system of the domain.", "domain")
	trashDesc      = desc("trash_bytes", "What emptying the domain's trash would free.", "domain")
	trashLimitDesc = desc("trash_limit_bytes", "How much that should be at most (storage.trash_limit).", "domain")
	entriesDesc    = desc("trash_entries", "Tasks that have something in the domain's trash.", "domain")
	overdueDesc    = desc("trash_overdue_entries", "Of them, those that could be emptied since more than an hour and were not.", "domain")
)

// Describe names what Collect collects.
func (l *looked) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		tasksDesc, stuckDesc, stuckForDesc, waitingDesc, queueLimitDesc, runningDesc, readyDesc, limitDesc, drainedDesc, stateSizeDesc, stateFreeDesc,
		healthyDesc, sizeDesc, freeDesc, trashDesc, trashLimitDesc, entriesDesc, overdueDesc,
	} {
		to <- d
	}
}

// Collect looks.
func (l *looked) Collect(to chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	l.tasks(put)
	if size, free, err := l.sources.Room(); err == nil {
		put(stateSizeDesc, float64(size))
		put(stateFreeDesc, float64(free))
	}
	ctx, end := context.WithTimeout(context.Background(), scrapeWithin)
	defer end()
	for id, d := range l.sources.Domains(ctx) {
		put(healthyDesc, truth(d.Healthy), id)
		if !d.Healthy {
			continue // what it has is not known
		}
		put(sizeDesc, float64(d.Size), id)
		put(freeDesc, float64(d.Free), id)
		put(trashDesc, float64(d.Trash), id)
		if d.TrashLimit > 0 {
			put(trashLimitDesc, float64(d.TrashLimit), id)
		}
		put(entriesDesc, float64(d.Entries), id)
		put(overdueDesc, float64(d.Overdue), id)
	}
}

func (l *looked) tasks(put func(*prometheus.Desc, float64, ...string)) {
	census := l.sources.Census()
	for k, n := range census.States {
		put(tasksDesc, float64(n), k.Verb, string(k.State))
	}
	for verb, n := range census.Stuck {
		put(stuckDesc, float64(n), verb)
	}
	put(stuckForDesc, census.StuckFor.Seconds())
	queue := l.sources.Queue()
	put(waitingDesc, float64(queue.Waiting))
	put(queueLimitDesc, float64(queue.Limit))
	put(drainedDesc, truth(queue.Drained != nil))
	for class, load := range queue.Classes {
		put(runningDesc, float64(load.Running), string(class))
		put(readyDesc, float64(load.Ready), string(class))
		put(limitDesc, float64(load.Limit), string(class))
	}
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
