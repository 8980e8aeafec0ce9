package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"vdsm-agent/rpc/wire"
	"vdsm-agent/test/benchkit"
)

// measure prints the figures.
func (b *bench) measure() (err error) {
	var ready, resident []float64
	var d *benchkit.Daemon
	for i := range starts {
		if d, err = b.start(); err != nil {
			return err
		}
		rss, err := d.Resident()
		if err != nil {
			return errors.Join(err, d.Stop())
		}
		ready, resident = append(ready, d.Ready.Seconds()), append(resident, rss)
		if i < starts-1 {
			if err := d.Stop(); err != nil {
				return err
			}
		}
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	fmt.Printf("start until it accepts work, %d times: median %.2f s, longest %.2f s (median %s)\n",
		starts, benchkit.Median(ready), benchkit.Quantile(ready, 1), benchkit.AtMost(benchkit.Median(ready), mostStart))
	if err := b.statuses(d); err != nil {
		return err
	}
	if err := b.pages(d); err != nil {
		return err
	}
	listed, err := d.Resident()
	if err != nil {
		return err
	}
	most := max(benchkit.Quantile(resident, 1), listed)
	fmt.Printf("resident memory: after the start %.0f MiB, after all that %.0f MiB (%s)\n",
		benchkit.Quantile(resident, 1), listed, benchkit.AtMost(most, mostResident))
	return b.whole(d)
}

// statuses asks for random tasks, one after the other.
func (b *bench) statuses(d *benchkit.Daemon) error {
	var times []float64
	for range statuses {
		id := b.ids[rand.IntN(len(b.ids))]
		var s wire.TaskStatus
		t, err := took(func() error { return d.Call(b.ctx, "Task.getStatus", map[string]string{"taskID": id}, &s) })
		if err != nil {
			return err
		}
		if s.TaskID != id || s.TaskState != "finished" {
			return fmt.Errorf("the status of %s is %+v", id, s)
		}
		times = append(times, t)
	}
	p99 := benchkit.Quantile(times, 0.99)
	fmt.Printf("Task.getStatus of %d random tasks: median %.3f ms, p99 %.3f ms (%s), longest %.1f ms\n",
		statuses, benchkit.Median(times), p99, benchkit.AtMost(p99, mostStatus), benchkit.Quantile(times, 1))
	return nil
}

// pages asks for the first page again and again.
func (b *bench) pages(d *benchkit.Daemon) error {
	var times []float64
	for range pages {
		var p wire.TaskPage
		t, err := took(func() error { return d.Call(b.ctx, "Host.getAllTasks", map[string]int{"limit": pageSize}, &p) })
		if err != nil {
			return err
		}
		if len(p.Tasks) != pageSize || p.Next == "" {
			return fmt.Errorf("the first page has %d tasks", len(p.Tasks))
		}
		times = append(times, t)
	}
	median := benchkit.Median(times)
	fmt.Printf("first page of Host.getAllTasks, %d tasks, %d times: median %.2f ms (%s), longest %.2f ms\n",
		pageSize, pages, median, benchkit.AtMost(median, mostPage), benchkit.Quantile(times, 1))
	return nil
}

// whole asks for everything at once, as engines do: there is no bound for that.
func (b *bench) whole(d *benchkit.Daemon) error {
	for _, method := range []string{"Host.getAllTasksStatuses", "Host.getAllTasks"} {
		var all map[string]json.RawMessage
		t, err := took(func() error { return d.Call(b.ctx, method, nil, &all) })
		if err != nil {
			return err
		}
		rss, err := d.Resident()
		if err != nil {
			return err
		}
		fmt.Printf("for information: %s of all %d at once: %.0f ms, resident memory then %.0f MiB\n", method, len(all), t, rss)
	}
	return nil
}

func took(f func() error) (float64, error) {
	begun := time.Now()
	err := f()
	return benchkit.Millis(time.Since(begun)), err
}
