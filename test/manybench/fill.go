package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"vdsm-agent/tasks/store"

	"github.com/google/uuid"
)

// sample is a stored task whose copies fill the store.
type sample struct {
	row  store.Record
	body map[string]any
}

// samples has a daemon copy a volume, stop such a copy, and keep some tasks waiting, and returns the records of those that
// have ended.
func (b *bench) samples() (samples []sample, err error) {
	ids, err := b.perform()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(filepath.Join(b.state, "tasks.db"), store.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, id := range ids {
		row, err := s.Get(id)
		if err != nil {
			return nil, err
		}
		one := sample{row: row}
		if err := json.Unmarshal(row.Body, &one.body); err != nil {
			return nil, err
		}
		samples = append(samples, one)
	}
	failed, err := failedOf(samples[1])
	return append(samples, failed), err
}

// perform has the tasks done, and returns the one that finished and the one that was undone.
func (b *bench) perform() (ids []string, err error) {
	d, err := b.start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	const mib = 64
	disk, err := d.Import(b.ctx, b.state+".raw", mib)
	if err != nil {
		return nil, err
	}
	task := func(id string) map[string]string { return map[string]string{"taskID": id} }
	finished, err := d.Copy(b.ctx, disk, "COW")
	if err == nil {
		err = d.Call(b.ctx, "Task.wait", task(finished), nil)
	}
	if err != nil {
		return nil, err
	}
	stopped, err := d.Copy(b.ctx, disk, "COW")
	if err == nil {
		err = d.Call(b.ctx, "Task.stop", map[string]any{"taskID": stopped, "wait": 60}, nil)
	}
	if err != nil {
		return nil, err
	}
	var id string
	err = d.Call(b.ctx, "Mock.run", json.RawMessage(`{"steps":[{"name":"hold","pace":360000000000000}],"locks":["many"]}`), &id)
	for range waiting {
		err = errors.Join(err, d.Call(b.ctx, "Mock.run", json.RawMessage(`{"steps":[{"name":"nothing"}],"locks":["many"]}`), &id))
	}
	return []string{finished, stopped}, err
}

// failedOf makes of a task that was undone one whose undo failed.
func failedOf(undone sample) (sample, error) {
	raw, err := json.Marshal(undone.body)
	if err != nil {
		return sample{}, err
	}
	out := sample{row: undone.row}
	if err := json.Unmarshal(raw, &out.body); err != nil {
		return sample{}, err
	}
	const failure = "the image's directory cannot be removed: directory not empty"
	steps := out.body["steps"].([]any)
	first := steps[0].(map[string]any)
	first["state"], first["error"] = "undo-failed", failure
	out.body["state"], out.row.State = "failed", "failed"
	out.body["residue"] = []string{failure}
	out.body["message"] = out.body["message"].(string) + "; " + failure
	return out, nil
}

// fill writes n copies of the samples by turns, every second one with the tag spm, each a millisecond younger than the one
// before.
func (b *bench) fill(samples []sample, n int) (err error) {
	s, err := store.Open(filepath.Join(b.state, "tasks.db"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	const group = 1000
	created := time.Now().UTC().Add(-time.Duration(n) * time.Millisecond)
	var c store.Change
	for i := range n {
		row, err := samples[i%len(samples)].copied(created.Add(time.Duration(i)*time.Millisecond), i%2 == 0)
		if err != nil {
			return err
		}
		b.ids, b.bytes = append(b.ids, row.ID), b.bytes+len(row.Body)
		c.Put = append(c.Put, row)
		c.Log = append(c.Log, store.Entry{Task: row.ID, At: row.Created, Who: "root (pid 4711)", What: "submitted"})
		if len(c.Put) == group || i == n-1 {
			if err := s.Commit(c); err != nil {
				return err
			}
			c = store.Change{}
		}
	}
	return nil
}

// copied is the sample as another task.
func (s sample) copied(created time.Time, spm bool) (store.Record, error) {
	row := s.row
	row.ID, row.Version, row.Created, row.Updated = uuid.NewString(), 1, created, created.Add(time.Second)
	row.Tag, row.Flow = "local", uuid.NewString()
	if spm {
		row.Tag = "spm"
	}
	s.body["id"], s.body["tag"], s.body["flow"] = row.ID, row.Tag, row.Flow
	s.body["created"], s.body["updated"], s.body["ended"] = created, row.Updated, row.Updated
	params := s.body["params"].(map[string]any)
	params["dstVolUUID"], params["dstImgUUID"] = uuid.NewString(), uuid.NewString()
	body, err := json.Marshal(s.body)
	row.Body = body
	return row, err
}
