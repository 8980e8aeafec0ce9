package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// cutSubsets is how many of the subsets of what is not synced are tried at each operation.
const cutSubsets = 3

// The power fails in front of each operation of the script, which is a moment after the one before it too: what was not
// synced is there or not, sector by sector, and what was answered until then must be true.
func TestPowerCutAtEachOperation(t *testing.T) {
	for _, fromOld := range []bool{false, true} {
		t.Run(fmt.Sprintf("old file %v", fromOld), func(t *testing.T) {
			t.Parallel()
			r := newScript(t, fromOld)
			r.d.cutEach = pointStride
			opened := 0
			synctest.Test(t, func(t *testing.T) {
				r.t = t
				s := mustOpen(t, filepath.Join(r.d.dir, "tasks.db"), options(r.d))
				opened = r.d.counted()
				r.run(s)
				mustClose(t, s)
			})
			inFlight := 0
			for _, c := range append(r.d.cuts, cut{r.d.count + 1, "the end", r.d.powerCut()}) {
				then := r.at(t, c, opened)
				for _, answer := range append(then.answers, then.prune) {
					if answer == ErrUnknown {
						inFlight++
					}
				}
				then.lookAfter(c.dir, fmt.Sprintf("power cut at operation %d, %s", c.count, c.op))
			}
			t.Logf("%d power cuts, %d of them during a call", len(r.d.cuts), inFlight)
			if inFlight == 0 || len(r.d.cuts)*pointStride < 500 {
				t.Error("the seam is broken")
			}
		})
	}
}

// at is what the client knew at a power cut. A call that was being made may be true or not.
func (r *scripted) at(t *testing.T, c cut, opened int) *scripted {
	then := &scripted{t: t, d: r.d, old: r.old}
	// The file itself is written after the answers only, when the log is moved into it.
	answered := c.count > opened && strings.HasSuffix(c.op, " tasks.db")
	know := func(i int, answer error) error {
		switch {
		case c.count <= r.begun[i]:
			return errNotMade
		case c.count > r.ended[i] || answered && i < scriptChanges:
			return answer
		}
		return ErrUnknown
	}
	for i, answer := range r.answers {
		then.answers = append(then.answers, know(i, answer))
	}
	if then.prune = know(scriptChanges, r.prune); then.prune == nil {
		then.pruned = r.pruned
	}
	return then
}
