package soak

import (
	"fmt"
	"maps"
	"strconv"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/wire"
)

// story is what a client does from beginning to end, with images of its own. What it leaves is written down for the audit.
func (c *caller) story() {
	switch n := c.chance.IntN(100); {
	case n < 60:
		c.volumeStory()
	case n < 75:
		c.queueStory()
	case n < 92:
		c.flowStory()
	default:
		c.brokenStory()
	}
}

// volumeStory makes a volume, does things to it, and deletes it mostly.
func (c *caller) volumeStory() {
	v := c.newVolume()
	t, d := c.making(v)
	if c.perform(t) {
		v.disk = d
	}
	c.check(t, v)
	c.perhapsClear(t, 60)
	if v.disk != nil && c.percent(25) {
		c.snapshot(v)
	}
	if v.disk != nil && c.percent(25) {
		format := v.format
		t, d := c.copying(v)
		t.params["force"] = true
		if c.perform(t) {
			v.disk = d
		} else {
			v.format = format
		}
		c.check(t, v)
		c.perhapsClear(t, 90)
	}
	if v.disk != nil && c.percent(85) {
		c.remove(v)
	}
	c.leave(v)
}

// remove deletes the volume; it is there still if the delete was stopped or reverted.
func (c *caller) remove(v *volume) {
	t := c.deleting(v)
	if c.perform(t) {
		v.disk = nil
	}
	c.check(t, v)
	c.perhapsClear(t, 90)
}

// snapshot puts a volume above v, and takes it away again.
func (c *caller) snapshot(v *volume) {
	child := &volume{domain: v.domain, root: v.root, image: v.image, id: c.id(), format: "COW"}
	params := child.refer()
	params["size"], params["volFormat"], params["preallocate"] = strconv.Itoa(4*virtual), "COW", "SPARSE"
	params["srcImgUUID"], params["srcVolUUID"] = v.image, v.id
	t := c.soak.newTask(c.id(), "Volume.create", params)
	for there := c.perform(t); there; {
		if info := c.info(t, v); info.VolType != "INTERNAL" {
			c.soak.fail(t, "the parent of a volume is %s", info.VolType)
		}
		c.same(t, child, v.disk)
		t = c.soak.newTask(c.id(), "Volume.delete", child.refer())
		there = !c.perform(t)
	}
	c.check(t, v)
}

// queueStory submits the delete of a volume while the task that makes it runs; the delete waits for it.
func (c *caller) queueStory() {
	v := c.newVolume()
	t, d := c.making(v)
	c.submitting(t)
	del := c.deleting(v)
	c.submitting(del)
	switch c.chance.IntN(4) {
	case 0:
		c.stopping(del)
	case 1:
		c.stopping(t)
	}
	deleted := c.watch(del, -1).State == "finished"
	if made := c.watch(t, -1).State == "finished"; made && !deleted {
		v.disk = d
	}
	c.check(del, v)
	c.perhapsClear(t, 60)
	c.perhapsClear(del, 90)
	c.leave(v)
}

// brokenStory imports what cannot be imported.
func (c *caller) brokenStory() {
	v := c.newVolume()
	t := c.importing(v, c.soak.disks.broken, "COW")
	c.submitting(t)
	if c.percent(30) {
		c.stopping(t)
	}
	if d := c.watch(t, -1); d.State != "recovered" || d.Code == 0 {
		c.soak.fail(t, "the import of a broken image ends as %s, %d: %s", d.State, d.Code, d.Message)
	}
	if _, err := c.ask(t, "Task.revert", map[string]any{"taskID": t.id}, nil); codeOf(err) != code.NotRevertible {
		c.soak.fail(t, "the revert of an undone task is answered %v", err)
	}
	c.check(t, v)
	c.perhapsClear(t, 60)
}

// flowStory makes several volumes in one flow, and cancels it while one more comes.
func (c *caller) flowStory() {
	flow := "flow " + c.id()
	type making struct {
		v *volume
		t *task
		d *disk
	}
	next := func() making {
		v := c.newVolume()
		t, d := c.making(v)
		t.params["flowID"] = flow
		return making{v, t, d}
	}
	parts := []making{}
	for range 1 + c.chance.IntN(3) {
		m := next()
		c.submitting(m.t)
		parts = append(parts, m)
	}
	c.watch(parts[0].t, c.chance.IntN(5)-1)

	late := next()
	other := c.soak.caller(c.source.Uint64())
	var submitted sync.WaitGroup
	submitted.Go(func() { other.submitting(late.t, code.FlowCancelled) })
	revert := c.percent(50)
	var answer wire.FlowCancel
	if _, err := c.ask(parts[0].t, "Flow.cancel", map[string]any{"flowID": flow, "revert": revert}, &answer); err != nil {
		c.soak.fail(parts[0].t, "the cancel of a flow is refused: %v", err)
	}
	submitted.Wait()
	if c.soak.ctx.Err() != nil {
		c.soak.fail(late.t, "another client has failed")
	}
	if late.t.submit == acknowledged {
		parts = append(parts, late)
	}
	for _, m := range parts {
		c.note(m.t, "Flow.cancel (revert %t) answered %+v", revert, answer.Tasks[m.t.id])
		became, listed := answer.Tasks[m.t.id]
		if !listed {
			c.soak.fail(m.t, "the cancel of its flow has forgotten the task")
		}
		stays := became.Before == "finished" && !revert || became.Code == int(code.TaskState) && became.After == "finished"
		if stays {
			m.v.disk = m.d
		} else {
			m.t.revert = acknowledged // or its stop: either way it never has finished from here on
		}
		if end := c.watch(m.t, -1); stays != (end.State == "finished") {
			c.soak.fail(m.t, "the task of a cancelled flow is %s", end.State)
		}
		c.check(m.t, m.v)
	}
	fenced := next()
	if c.submitting(fenced.t, code.FlowCancelled) {
		c.soak.fail(fenced.t, "a cancelled flow takes a new task")
	}
	for _, m := range parts {
		if m.v.disk != nil { // a clean-up is not fenced
			t := c.deleting(m.v)
			t.params["flowID"] = flow
			c.submitting(t)
			if end := c.watch(t, -1); end.State != "finished" {
				c.soak.fail(t, "the delete ends as %s: %s", end.State, end.Message)
			}
			m.v.disk = nil
			c.check(t, m.v)
			c.perhapsClear(t, 90)
		}
		c.perhapsClear(m.t, 60)
	}
}

// perform submits the task, does to it what chance wants, and waits for its end. It tells whether its effect is there.
func (c *caller) perform(t *task) bool {
	c.submitting(t)
	wipes := t.params["postZero"] == true
	switch n := c.chance.IntN(100); {
	case n < 35:
		c.watch(t, c.chance.IntN(9))
		for range 1 + c.chance.IntN(2) {
			c.stopping(t)
		}
	case n < 45:
		if c.clearingEarly(t) {
			return true // it was not stopped: it had finished
		}
	}
	there := c.watch(t, -1).State == "finished"
	if there && !wipes && c.percent(25) {
		c.reverting(t)
		if c.percent(20) {
			c.reverting(t)
		}
		there = c.watch(t, -1).State == "finished"
	}
	return there
}

func (c *caller) perhapsClear(t *task, percent int) {
	if c.percent(percent) && t.clear != acknowledged {
		c.clearing(t)
	}
}

// leave writes down what must be there at the end of the run.
func (c *caller) leave(v *volume) {
	c.soak.mu.Lock()
	defer c.soak.mu.Unlock()
	c.soak.volumes = append(c.soak.volumes, v)
}

// making is a task that makes the volume in some way, and the disk that it will show.
func (c *caller) making(v *volume) (*task, *disk) {
	switch c.chance.IntN(4) {
	case 0:
		params := v.refer()
		c.shape(v, params)
		params["size"] = fmt.Sprint(virtual)
		return c.soak.newTask(c.id(), "Volume.create", params), c.soak.disks.empty
	case 1:
		d := pick(c, c.soak.disks.full)
		return c.importing(v, d, pick(c, []string{"COW", "RAW"})), d
	}
	return c.copying(v)
}

func (c *caller) copying(v *volume) (*task, *disk) {
	d := pick(c, c.soak.disks.full)
	params := d.base.refer()
	maps.Copy(params, map[string]any{"dstSdUUID": v.domain, "dstImgUUID": v.image, "dstVolUUID": v.id})
	c.shape(v, params)
	return c.soak.newTask(c.id(), "Volume.copy", params), d
}

func (c *caller) importing(v *volume, d *disk, format string) *task {
	v.format = format
	params := v.refer()
	delete(params, "storagepoolID")
	maps.Copy(params, map[string]any{"path": d.path, "format": d.format, "volFormat": format})
	return c.soak.newTask(c.id(), "Volume.import", params)
}

func (c *caller) deleting(v *volume) *task {
	params := v.refer()
	params["postZero"] = c.percent(15)
	if c.percent(50) {
		return c.soak.newTask(c.id(), "Volume.delete", params)
	}
	delete(params, "volumeID")
	return c.soak.newTask(c.id(), "Image.delete", params)
}

// shape decides on the format and the allocation.
func (c *caller) shape(v *volume, params map[string]any) {
	v.format = pick(c, []string{"COW", "RAW"})
	params["volFormat"], params["preallocate"] = v.format, "SPARSE"
	if c.percent(20) {
		params["preallocate"] = "PREALLOCATED"
	}
}
