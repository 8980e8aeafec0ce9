package prove

import (
	"fmt"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// judge compares an end that the client sees with what it was told, and with the world.
func (r *run) judge(v tasks.View, phase string) error {
	things, _ := split(r.world.Seen())
	before, _ := split(r.subject.before)
	if alive := r.world.Alive(mainID); len(alive) > 0 {
		return r.violation("G4", "the task is %s, and these are alive: %v", v.State, alive)
	}
	r.mu.Lock()
	acked, refused, calm := r.stopAcked, r.stopRefused, !r.failed
	stopped := acked || r.stopMaybe()
	r.mu.Unlock()
	switch v.State {
	case tasks.Finished:
		if acked && phase == "run" && !v.StopLost {
			return r.violation("G3", "the stop was acknowledged, and the task has finished")
		}
		if phase == "revert" {
			return r.violation("G8", "the revert was acknowledged, and the task is finished: %s", v.Message)
		}
		if seen := r.world.Seen(); r.subject.ends == tasks.Finished && seen != r.subject.finished {
			return r.violation("world", "the task has finished, and the world is\n%s\nwhere it should be\n%s", seen, r.subject.finished)
		}
		if v.Code != 0 {
			return r.violation("wire", "a finished task has code %d", v.Code)
		}
	case tasks.Recovered:
		if phase == "run" && refused && !r.subject.refusable {
			return r.violation("G3", "the stop was refused as too late, and the task is undone")
		}
		if phase == "run" && calm && !stopped && !r.subject.MayFail && r.subject.ends == tasks.Finished {
			return r.violation("G13", "the task is undone, and nobody asked: %s", v.Message)
		}
		if (v.Stopped || phase == "run" && v.StopAsked != nil && !v.StopLost) && v.Code != code.TaskAborted {
			return r.violation("G14", "a task for which a stop is recorded is undone with code %d", v.Code)
		}
		if err := r.subject.undone(before, things); err != nil {
			return r.violation("G6", "the task is undone: %v", err)
		}
	case tasks.Failed:
		if len(v.Residue) == 0 {
			return r.violation("G7", "the task has failed and names no residue: %s", v.Message)
		}
	}
	return nil
}

// stopMaybe says whether a stop may be recorded that the client knows nothing of. The caller holds mu.
func (r *run) stopMaybe() bool {
	for i := range r.next {
		if r.seed.faults[i].kind == faultStop {
			return true
		}
	}
	return r.seed.script == scriptQueued
}

// undone checks what an undo leaves.
func (s *subject) undone(before, things string) error {
	if s.Remainder != nil {
		return s.Remainder(before, things)
	}
	if things != before {
		return fmt.Errorf("the world is\n%s\nwhere it was\n%s", things, before)
	}
	return nil
}

// newTrash says whether there is anything in the trash that was not there before. A verb may empty it.
func newTrash(before, after string) bool {
	old := strings.Split(before, "\n")
	for line := range strings.SplitSeq(after, "\n") {
		if line != "" && !slices.Contains(old, line) {
			return true
		}
	}
	return false
}

// judgeEnd looks at the world when the task is cleared and what it put off is done.
func (r *run) judgeEnd(v tasks.View) error {
	if alive := r.world.Alive(mainID); len(alive) > 0 {
		return r.violation("G4", "at the end these are alive: %v", alive)
	}
	things, trash := split(r.world.Seen())
	before, oldTrash := split(r.subject.before)
	finished, _ := split(r.subject.finished)
	switch {
	case v.State == tasks.Failed:
		return nil
	case newTrash(oldTrash, trash):
		return r.violation("clear", "there is trash left:\n%s", trash)
	case v.State == tasks.Finished && r.subject.ends == tasks.Finished && things != finished:
		return r.violation("world", "after the clear the world is\n%s\nwhere it should be\n%s", things, finished)
	case v.State == tasks.Recovered:
		if err := r.subject.undone(before, things); err != nil {
			return r.violation("G6", "after the clear: %v", err)
		}
	}
	return nil
}
