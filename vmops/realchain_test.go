//go:build vm

package vmops_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/vmops/vmtest"

	"github.com/google/uuid"
)

// adopt makes the guest's disk the first volume of the chain.
func (c *chain) adopt(g *vmtest.Guest) {
	c.a.t.Helper()
	c.volumes = []string{c.name()}
	must(c.a.t, os.Rename(g.Disk, c.a.path(imgDisk, c.top())))
	g.Disk = c.a.path(imgDisk, c.top())
	c.write(c.top(), domain.BlankUUID, domain.FormatRaw)
}

// remove deletes a volume that is out of the chain, as an engine does after a merge.
func (c *chain) remove(vol string) {
	c.a.t.Helper()
	d, err := c.a.domains.Get(sd)
	must(c.a.t, err)
	children, err := d.Children(imgDisk, vol)
	must(c.a.t, err)
	if len(children) > 0 {
		c.a.t.Fatalf("volume %s has the children %v", vol, children)
	}
	for _, suffix := range []string{".meta", ""} {
		must(c.a.t, os.Remove(c.a.path(imgDisk, vol)+suffix))
	}
	c.volumes = slices.DeleteFunc(c.volumes, func(v string) bool { return v == vol })
}

// destroyed ends the machine, and fails if a volume of its chain is damaged.
func (c *chain) destroyed() {
	c.a.t.Helper()
	files := c.files()
	_, err := c.a.call("VM.destroy", map[string]any{"vmID": vmID})
	must(c.a.t, err)
	for _, vol := range files {
		if c.meta(vol).Format == domain.FormatRaw {
			continue
		}
		if out, err := exec.Command("qemu-img", "check", "-q", c.a.path(imgDisk, vol)).CombinedOutput(); err != nil {
			c.a.t.Errorf("volume %s: %v\n%s", vol, err, out)
		}
	}
	if d, err := c.a.domains.Get(sd); err != nil {
		c.a.t.Error(err)
	} else if all, err := d.Volumes(imgDisk); err != nil || len(all) != len(files) {
		c.a.t.Errorf("the image has the volumes %v, the machine worked on %v: %v", all, files, err)
	}
}

// raw is what a task is to be submitted with, as JSON of verb and parameters.
func (a *agent) raw(verb string, params map[string]any) string {
	a.t.Helper()
	text, err := json.Marshal(params)
	must(a.t, err)
	return verb + " " + string(text)
}

// submitRaw submits what raw has made.
func (a *agent) submitRaw(text string) string {
	a.t.Helper()
	at := slices.Index([]byte(text), ' ')
	id, err := a.Submit(a.t.Context(), tasks.Submission{ID: uuid.NewString(), Verb: text[:at], Params: json.RawMessage(text[at+1:]), Who: "tester"})
	must(a.t, err)
	return id
}

// onceAtCommit calls f before the nth change is written.
func (a *agent) onceAtCommit(n int64, f func()) {
	var once sync.Once
	a.atCommit(n, func() error {
		once.Do(f)
		return nil
	})
}

// asking does what is to be done during a task, until over is called.
func (c *chain) asking(a *agent, task string) (over func()) {
	if c.during == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(c.a.t.Context())
	var asks sync.WaitGroup
	asks.Go(func() {
		for ctx.Err() == nil {
			c.during(ctx, a)
			if s, err := a.Summary(task); err == nil && s.State.Final() {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() {
		cancel()
		asks.Wait()
	}
}

// everyStop runs a task again and again, stopped behind each of its records. task makes one, and says what is to be true when it has ended.
func everyStop(t *testing.T, c *chain, task func() (raw string, then func(tasks.View))) {
	t.Helper()
	for n := int64(1); ; n++ {
		raw, then := task()
		answer, id := make(chan error, 1), make(chan string, 1)
		var once sync.Once
		a := c.a
		count := a.atCommit(n, func() error {
			once.Do(func() { go func() { answer <- a.Stop(<-id, tasks.StopOptions{Who: "tester"}) }() })
			return nil
		})
		one := a.submitRaw(raw)
		id <- one
		asked := c.asking(a, one)
		v := a.ended(one)
		asked()
		over := count.Load() < n
		a.atCommit(1<<40, nil)
		if !over {
			a.judge(t, n, <-answer, v)
		}
		then(v)
		if t.Failed() {
			t.Fatalf("stopped behind record %d: it ended %s: %s", n, v.State, v.Message)
		}
		if over {
			return
		}
	}
}

// everyDeath runs a task again and again, and lets the agent die at each of its records.
func everyDeath(t *testing.T, c *chain, task func() (raw string, then func(tasks.View))) {
	t.Helper()
	for n := int64(2); ; n++ {
		raw, then := task()
		dead := make(chan struct{})
		var once sync.Once
		a := c.a
		count := a.atCommit(n, func() error {
			once.Do(func() { close(dead) })
			return store.ErrUnavailable
		})
		one := a.submitRaw(raw)
		asked := c.asking(a, one)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = a.Wait(t.Context(), one, tasks.Ended)
		}()
		select {
		case <-dead:
		case <-ended:
		}
		over := count.Load() < n
		asked()
		c.a = a.crash()
		asked = c.asking(c.a, one)
		v := c.a.ended(one)
		asked()
		then(v)
		if t.Failed() {
			t.Fatalf("the agent died at record %d", n)
		}
		if over {
			return
		}
	}
}
