package storageops_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

// verbCase is one verb with parameters that succeed on a newHost.
type verbCase struct {
	name   string
	verb   string
	params map[string]any
	// expect are words that must be in the tree after success, and gone ones that must not.
	expect, gone []string
	revertible   bool
}

// hostCase is a verbCase on a host that has more than a newHost.
type hostCase struct {
	verbCase
	setup func(h *host)                  // nil = nothing more
	left  func(before, tree string) bool // says whether an undo may leave that tree; nil = only the one before
}

func (c hostCase) on(h *host) *host {
	if c.setup != nil {
		c.setup(h)
	}
	return h
}

func (c hostCase) undone(t *testing.T, before, tree string) {
	t.Helper()
	if c.left == nil || !c.left(before, tree) {
		same(t, before, tree)
	}
}

// hostCases are all cases.
func hostCases(t *testing.T) (all []hostCase) {
	for _, c := range verbCases(t) {
		all = append(all, hostCase{verbCase: c})
	}
	for _, c := range jobCases(t) {
		all = append(all, c.hostCase)
	}
	return slices.Concat(all, chainVerbCases(), extendVerbCases(), deleteVolumesVerbCases(), mergeVerbCases(), []hostCase{repairCase, outwardCase(t)})
}

func with(base map[string]any, more ...any) map[string]any {
	out := map[string]any{"storagedomainID": sd, "storagepoolID": zeroUUID}
	for k, v := range base {
		out[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

func verbCases(t *testing.T) []verbCase {
	t.Helper()
	outside := filepath.Join(t.TempDir(), "outside, with = and spaces.qcow2")
	h := &host{t: t}
	h.run("qemu-img", "create", "-q", "-f", "qcow2", outside, "10M")
	h.run("qemu-io", "-f", "qcow2", "-c", "write -P 77 3M 2M", outside)
	create := map[string]any{"volumeID": volNew, "imageID": "aaaaaaaa-0000-4000-8000-000000000009", "size": "10485761", "diskType": "DATA", "desc": "d",
		"srcImgUUID": zeroUUID, "srcVolUUID": zeroUUID}
	copyTo := map[string]any{"volumeID": volTop, "imageID": imgA, "dstSdUUID": sd, "dstImgUUID": "aaaaaaaa-0000-4000-8000-000000000009",
		"dstVolUUID": volNew, "desc": "", "volType": 8, "postZero": false, "force": false, "preallocate": 2}
	return []verbCase{
		{"create raw", "Volume.create", with(create, "volFormat", 5, "preallocate", 2), []string{"CAP=10489856", volNew, "FORMAT=RAW"}, nil, true},
		{"create raw preallocated", "Volume.create", with(create, "volFormat", "RAW", "preallocate", "PREALLOCATED"), []string{"TYPE=PREALLOCATED"}, nil, true},
		{"create cow preallocated", "Volume.create", with(create, "volFormat", "COW", "preallocate", 1), []string{"TYPE=PREALLOCATED"}, nil, true},
		{"create on a leaf", "Volume.create", with(create, "volFormat", 4, "preallocate", 2, "imageID", imgA, "srcVolUUID", volTop, "size", "12582912", "bitmap", volOld),
			[]string{"PUUID=" + volTop}, nil, true},
		{"create on a template", "Volume.create", with(create, "volFormat", 4, "preallocate", 2, "srcImgUUID", imgTmpl, "srcVolUUID", volTmpl, "size", "12582912"),
			[]string{"PUUID=" + volTmpl, "/aaaaaaaa-0000-4000-8000-000000000009/" + volTmpl}, nil, true},
		{"copy a chain to cow", "Volume.copy", with(copyTo, "volFormat", 4), []string{volNew, "PUUID=" + zeroUUID}, []string{"ILLEGAL"}, true},
		{"copy a chain to raw", "Volume.copy", with(copyTo, "volFormat", 5), []string{volNew}, []string{"ILLEGAL"}, true},
		{"copy raw to raw preallocated", "Volume.copy", with(copyTo, "volumeID", volRaw, "volFormat", 5, "preallocate", 1), []string{volNew}, []string{"ILLEGAL"}, true},
		{"copy to a template", "Volume.copy", with(copyTo, "volFormat", 4, "volType", "SHARED"), []string{"VOLTYPE=SHARED"}, []string{"ILLEGAL"}, true},
		{"copy an overlay as an overlay", "Volume.copy", with(copyTo, "volFormat", 4, "collapse", "false", "dstImgUUID", imgA), []string{volNew}, []string{"ILLEGAL"}, true},
		{"copy over an old volume", "Volume.copy", with(copyTo, "volFormat", 5, "force", true, "postZero", "true", "dstImgUUID", imgB, "dstVolUUID", volOld), []string{"trash 0/" + volOld}, []string{"ILLEGAL"}, true},
		{"import", "Volume.import", map[string]any{"storagedomainID": sd, "imageID": "aaaaaaaa-0000-4000-8000-000000000009", "volumeID": volNew, "path": outside, "format": "cow"},
			[]string{volNew}, []string{"ILLEGAL"}, true},
		{"delete a leaf", "Volume.delete", with(map[string]any{"volumeID": volTop, "imageID": imgA, "postZero": false, "force": "false"}), []string{"trash 0/" + volTop}, []string{"INTERNAL"}, true},
		{"delete the last volume", "Volume.delete", with(map[string]any{"volumeID": volOld, "imageID": imgB, "postZero": false, "force": "false"}), []string{"trash 0/" + volOld}, []string{"/" + imgB}, true},
		{"delete and wipe", "Volume.delete", with(map[string]any{"volumeID": volOld, "imageID": imgB, "postZero": "true", "force": false}), []string{"trash 0/" + volOld}, nil, false},
		{"delete an image", "Image.delete", with(map[string]any{"imageID": imgA, "postZero": false, "force": false}), []string{"trash 0/" + volTop, "trash 0/" + volRaw}, []string{"/images/" + imgA}, true},
		{"delete what is gone", "Volume.delete", with(map[string]any{"volumeID": volNew, "imageID": imgB, "postZero": false, "force": false}), []string{volOld}, nil, false},
	}
}

// TestVerbs runs each verb to its end, repeats its submit, and takes it back; then clears it.
func TestVerbs(t *testing.T) {
	for _, c := range slices.Concat(hostCases(t), moreChainCases()) {
		t.Run(c.name, c.runs)
	}
}

func (c hostCase) runs(t *testing.T) {
	h := c.on(newHost(t))
	before := h.tree()
	if err := h.submit(c.verb, c.params); err != nil {
		t.Fatal(err)
	}
	if err := h.submit(c.verb, c.params); err != nil {
		t.Errorf("the repeated submit: %v", err)
	}
	v := h.ended()
	if v.State != tasks.Finished || v.Code != 0 {
		t.Fatalf("ended %s/%d: %s", v.State, v.Code, v.Message)
	}
	c.check(t, h.tree())
	err := h.Revert(t.Context(), taskID, "tester")
	if !c.revertible {
		if code.Of(err) != code.NotRevertible && code.Of(err) != code.TaskState {
			t.Errorf("the revert answered %v", err)
		}
	} else if err != nil {
		t.Fatal(err)
	} else if v := h.ended(); v.State != tasks.Recovered {
		t.Errorf("the revert ended %s: %s", v.State, v.Message)
	}
	if err := h.Clear(taskID, "tester"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	after := h.tree()
	if strings.Contains(after, "trash ") {
		t.Errorf("something is left in the trash:\n%s", after)
	}
	if c.revertible {
		same(t, before, after)
	}
}

func (c verbCase) check(t *testing.T, tree string) {
	t.Helper()
	for _, word := range c.expect {
		if !strings.Contains(tree, word) {
			t.Errorf("%q is not in the tree:\n%s", word, tree)
		}
	}
	for _, word := range c.gone {
		if strings.Contains(tree, word) {
			t.Errorf("%q is in the tree:\n%s", word, tree)
		}
	}
}

func same(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	have := map[string]bool{}
	for line := range strings.SplitSeq(want, "\n") {
		have[line] = true
	}
	var diff strings.Builder
	for line := range strings.SplitSeq(got, "\n") {
		if !have[line] {
			fmt.Fprintf(&diff, "+ %s\n", line)
		}
		delete(have, line)
	}
	for line := range have {
		fmt.Fprintf(&diff, "- %s\n", line)
	}
	t.Errorf("the domain is not as it should be (+ is too much, - is missing):\n%s", diff.String())
}

// stride is how many records come to one at which a verb is stopped, or dies. Each case begins at another one, so that all steps have
// their turn; with EVERYWHERE=all (make everywhere) it is every record of every case.
func stride() int64 {
	if os.Getenv("EVERYWHERE") == "all" {
		return 1
	}
	return 11
}

// TestStopEverywhere stops each verb right behind its records. The domain must then be as before, unless the stop was
// refused, and then the verb must have finished.
func TestStopEverywhere(t *testing.T) {
	for i, c := range hostCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n := 1 + int64(i)%stride(); ; n += stride() {
				h := c.on(newHostInMemory(t))
				before := h.tree()
				answer := make(chan error, 1)
				var once sync.Once
				count := h.atCommit(n, func() error {
					once.Do(func() { go func() { answer <- h.Stop(taskID, tasks.StopOptions{Who: "tester"}) }() })
					return nil
				})
				if err := h.submit(c.verb, c.params); err != nil {
					t.Fatal(err)
				}
				v := h.ended()
				if count.Load() < n {
					return // it has fewer records than that
				}
				err := <-answer
				switch {
				case code.Of(err) == code.UnknownTask: // the submit was not answered yet: there is nothing to stop
				case err != nil && (code.Of(err) != code.TaskState || v.State != tasks.Finished):
					t.Errorf("record %d: the stop answered %v, the task ended %s", n, err, v.State)
				case err == nil && v.State != tasks.Recovered:
					t.Errorf("record %d: the stop was taken, the task ended %s: %s", n, v.State, v.Message)
				case err == nil:
					c.undone(t, before, h.tree())
				}
				if t.Failed() {
					t.Fatalf("stopped behind record %d of %s", n, c.name)
				}
				h.discard()
			}
		})
	}
}

// TestCrashEverywhere lets the agent die at the records of each verb. The next one must bring it to the same end.
func TestCrashEverywhere(t *testing.T) {
	for i, c := range hostCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := c.on(newHostInMemory(t))
			if err := h.submit(c.verb, c.params); err != nil {
				t.Fatal(err)
			}
			h.ended()
			want := h.tree()
			h.close()
			for n := 2 + int64(i)%stride(); ; n += stride() { // the first record is the submit's
				h := c.on(newHostInMemory(t))
				dead := make(chan struct{})
				var once sync.Once
				count := h.atCommit(n, func() error {
					once.Do(func() { close(dead) })
					return store.ErrUnavailable
				})
				if err := h.submit(c.verb, c.params); err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = h.Wait(t.Context(), taskID, tasks.Ended)
				}()
				select {
				case <-dead:
				case <-ended:
				}
				over := count.Load() < n
				next := h.crash(rand.New(rand.NewPCG(1, uint64(n))))
				v := next.ended()
				if v.State != tasks.Finished {
					t.Fatalf("died at record %d: ended %s: %s", n, v.State, v.Message)
				}
				same(t, want, next.tree())
				if t.Failed() {
					t.Fatalf("died at record %d of %s", n, c.name)
				}
				next.discard()
				if over {
					return
				}
			}
		})
	}
}

// TestRefusals: what can never work is refused by name, and leaves nothing.
func TestRefusals(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("this is no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusals(t, []refusal{
		{"no such domain", "Volume.delete", with(nil, "storagedomainID", imgA, "volumeID", volOld, "imageID", imgB), code.DomainDoesNotExist, imgA},
		{"bad uuid", "Volume.delete", with(nil, "volumeID", "X", "imageID", imgB), code.InvalidParameter, "volumeID"},
		{"has a child", "Volume.delete", with(nil, "volumeID", volRaw, "imageID", imgA), code.VolumeImageHasChild, volTop},
		{"exists", "Volume.create", with(nil, "volumeID", volOld, "imageID", imgB, "size", "4096", "volFormat", 5, "preallocate", 2), code.VolumeAlreadyExists, volOld},
		{"negative size", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgB, "size", "-1", "volFormat", 5, "preallocate", 2), code.InvalidParameter, "size"},
		{"number for a size", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgB, "size", 4096, "volFormat", 5, "preallocate", 2), code.InvalidParameter, "size"},
		{"huge size", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgB, "size", "99999999999999999999", "volFormat", 5, "preallocate", 2), code.InvalidParameter, "size"},
		{"raw with a parent", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgA, "size", "12582912", "volFormat", 5, "preallocate", 2, "srcVolUUID", volTop), code.InvalidParameter, "COW"},
		{"smaller than the parent", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgA, "size", "4096", "volFormat", 4, "preallocate", 2, "srcVolUUID", volTop), code.InvalidParameter, "smaller"},
		{"no room", "Volume.create", with(nil, "volumeID", volNew, "imageID", imgB, "size", "70368744177664", "volFormat", 5, "preallocate", 1), code.NoSpaceLeftOnDomain, "free"},
		{"no such source", "Volume.copy", with(nil, "volumeID", volNew, "imageID", imgA, "dstSdUUID", sd, "dstImgUUID", imgB, "dstVolUUID", volNew, "volFormat", 4, "preallocate", 2), code.VolumeDoesNotExist, volNew},
		{"destination exists", "Volume.copy", with(nil, "volumeID", volTop, "imageID", imgA, "dstSdUUID", sd, "dstImgUUID", imgB, "dstVolUUID", volOld, "volFormat", 4, "preallocate", 2), code.VolumeAlreadyExists, volOld},
		{"to itself", "Volume.copy", with(nil, "volumeID", volTop, "imageID", imgA, "dstSdUUID", sd, "dstImgUUID", imgA, "dstVolUUID", volTop, "volFormat", 4, "preallocate", 2), code.InvalidParameter, "itself"},
		{"import: no file", "Volume.import", map[string]any{"storagedomainID": sd, "path": "/no/such/file", "format": "raw"}, code.InvalidParameter, "/no/such/file"},
		{"import: relative path", "Volume.import", map[string]any{"storagedomainID": sd, "path": "file", "format": "raw"}, code.InvalidParameter, "absolute"},
		{"import: no image", "Volume.import", map[string]any{"storagedomainID": sd, "path": garbage, "format": "cow"}, code.ImageVerification, "qcow2"},
		{"import: unknown parameter", "Volume.import", map[string]any{"storagedomainID": sd, "path": garbage, "format": "raw", "colour": "red"}, code.InvalidParameter, "colour"},
	})
}

type refusal struct {
	name   string
	verb   string
	params map[string]any
	code   code.Code
	text   string
}

func refusals(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { refused(t, newHost(t), c) })
	}
}

// refused submits the verb, at once or at its first step refused, and sees that nothing was changed.
func refused(t *testing.T, h *host, c refusal) {
	t.Helper()
	before := h.tree()
	err := h.submit(c.verb, c.params)
	got, text := code.Of(err), fmt.Sprint(err)
	if err == nil {
		v := h.ended()
		if got, text = v.Code, v.Message; v.State != tasks.Recovered {
			t.Errorf("ended %s", v.State)
		}
	}
	if got != c.code || !strings.Contains(text, c.text) {
		t.Errorf("answered %d (%s), want %d with %q", got, text, c.code, c.text)
	}
	same(t, before, h.tree())
}
