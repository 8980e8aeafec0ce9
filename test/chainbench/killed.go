package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vdsm-agent/rpc/wire"
	"vdsm-agent/test/benchkit"
)

// killed kills the daemon at 90 % of a copy of the chain's leaf with all that is below it, and tells how much of what was copied is copied
// again. How far the copy had come is what it said last, so the figure is the least.
func (b *bench) killed(data int64) error {
	for _, format := range []string{"COW", "RAW"} {
		task, err := b.Copy(b.ctx, b.volumes[len(b.volumes)-1], format)
		if err != nil {
			return err
		}
		var d wire.Details
		for d.Progress == nil || d.Progress.Percent < 90 {
			if err := b.Call(b.ctx, "Task.getDetails", map[string]string{"taskID": task}, &d); err != nil {
				return err
			}
			if !d.Ended.IsZero() {
				return fmt.Errorf("the copy ended before it could be killed: %s", d.Message)
			}
		}
		if err := errors.Join(b.Kill(), b.restart(), b.Ended(b.ctx, task)); err != nil {
			return err
		}
		from, err := b.wentOnFrom()
		if err != nil {
			return err
		}
		again, slice := (d.Progress.Done-from)>>20, max(64, data/20)
		fmt.Printf("a copy of %d MiB to %s, killed at %.1f %%: %d MiB are copied again; at most one slice, %d MiB: %s\n",
			data, format, d.Progress.Percent, again, slice, benchkit.Verdict(again <= slice))
		if err := b.Call(b.ctx, "Task.revert", map[string]any{"taskID": task, "wait": 60}, nil); err != nil {
			return err
		}
		if err := b.Clear(b.ctx, task); err != nil {
			return err
		}
	}
	return nil
}

// wentOnFrom is the checkpoint that the last resumed copy went on from, as the log says.
func (b *bench) wentOnFrom() (int64, error) {
	log, err := os.ReadFile(filepath.Join(b.dir, "state.log"))
	if err != nil {
		return 0, err
	}
	at := bytes.LastIndex(log, []byte("the copy goes on from its checkpoint"))
	if at < 0 {
		return 0, errors.New("the daemon does not say that the copy went on")
	}
	line := log[bytes.LastIndexByte(log[:at], '\n')+1:]
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	var said struct{ Done int64 }
	return said.Done, json.Unmarshal(line, &said)
}
