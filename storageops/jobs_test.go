package storageops_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

// volume is the endpoint of a job.
func volume(img, vol string, more ...any) map[string]any {
	out := map[string]any{"endpoint_type": "div", "sd_id": sd, "img_id": img, "vol_id": vol, "generation": 0}
	for i := 0; i < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

// on are the parameters of a job on a volume.
func on(info map[string]any, more map[string]any) map[string]any {
	out := map[string]any{"vol_info": info}
	maps.Copy(out, more)
	return out
}

// jobCase is a job, and the volume that it changes.
type jobCase struct {
	hostCase
	changes struct{ img, vol string }
}

func changing(img, vol string, c verbCase) jobCase {
	return jobCase{hostCase{verbCase: c}, struct{ img, vol string }{img, vol}}
}

// filling is a job that copies all it can into a volume, which a stop may leave ILLEGAL with anything in it.
func filling(name, img, vol, dstImg, dstVol string, expect ...string) jobCase {
	c := changing(dstImg, dstVol, verbCase{name, "SDM.copy_data", map[string]any{
		"source": volume(img, vol), "destination": volume(dstImg, dstVol), "copy_bitmaps": true, "legal": true,
	}, append(expect, "GEN=1"), []string{"ILLEGAL"}, false})
	c.left = func(before, tree string) bool {
		b, a := strings.Split(before, "\n"), strings.Split(tree, "\n")
		ours := func(line string) bool { return strings.Contains(line, "/"+dstImg+"/"+dstVol) }
		illegal := slices.ContainsFunc(a, func(line string) bool {
			return ours(line) && strings.Contains(line, "LEGALITY=ILLEGAL") && strings.Contains(line, "GEN=0")
		})
		return illegal && slices.Equal(slices.DeleteFunc(b, ours), slices.DeleteFunc(a, ours))
	}
	return c
}

// jobCases are the storage jobs.
func jobCases(t *testing.T) []jobCase {
	t.Helper()
	attr := func(a map[string]any) map[string]any { return map[string]any{"vol_attr": a} }
	bitmap := func(name string) map[string]any { return map[string]any{"bitmap": name} }
	compat := func(version string) map[string]any {
		return map[string]any{"qcow2_attr": map[string]any{"compat": version}}
	}
	return append(append(sparsifyJobCases(), inwardCase(t)), []jobCase{
		filling("fill a volume with a chain", imgA, volTop, imgB, volOld),
		filling("fill an overlay, with bitmaps", imgB, volOld, imgA, volTop, "second:auto"),
		changing(imgA, volTop, verbCase{"add a bitmap", "SDM.add_bitmap", on(volume(imgA, volTop), bitmap("b")), []string{"GEN=1", "1.1 b:auto"}, nil, false}),
		changing(imgB, volOld, verbCase{"remove a bitmap", "SDM.remove_bitmap", on(volume(imgB, volOld), bitmap("-first")), []string{"GEN=1", "1.1 second:auto"}, nil, false}),
		changing(imgB, volOld, verbCase{"clear bitmaps", "SDM.clear_bitmaps", on(volume(imgB, volOld), nil), []string{"GEN=1"}, []string{"first", "second"}, false}),
		changing(imgA, volTop, verbCase{"amend an overlay", "SDM.amend_volume", on(volume(imgA, volTop), compat("0.10")), []string{"GEN=1", "0.10"}, nil, false}),
		changing(imgA, volTop, verbCase{"update a volume", "SDM.update_volume", on(volume(imgA, volTop), attr(map[string]any{"description": "new", "legality": "ILLEGAL"})),
			[]string{"DESCRIPTION=new", "ILLEGAL", "GEN=1"}, nil, true}),
		changing(imgB, volOld, verbCase{"update to a template", "SDM.update_volume", on(volume(imgB, volOld, "generation", "0"), attr(map[string]any{"type": "SHARED"})), []string{"GEN=1"}, nil, true}),
		changing(imgA, volTop, verbCase{"update and fence", "SDM.update_volume", on(volume(imgA, volTop), attr(map[string]any{"generation": 3})), []string{"GEN=3"}, []string{"GEN=1"}, false}),
	}...)
}

// TestJobRefusals: what a job cannot do is an error at once, or a failed job that has changed nothing.
func TestJobRefusals(t *testing.T) {
	update := func(info map[string]any, attr any) map[string]any { return on(info, map[string]any{"vol_attr": attr}) }
	none := map[string]any{}
	for _, c := range []struct {
		name   string
		verb   string
		params map[string]any
		code   code.Code
		text   string
	}{
		{"no such volume", "SDM.update_volume", update(volume(imgA, volNew), none), code.VolumeDoesNotExist, volNew},
		{"no such domain", "SDM.update_volume", update(volume(imgA, volTop, "sd_id", imgA), none), code.DomainDoesNotExist, imgA},
		{"another endpoint", "SDM.update_volume", update(volume(imgA, volTop, "endpoint_type", "external"), none), code.InvalidParameter, "endpoint_type"},
		{"no volume", "SDM.update_volume", map[string]any{"vol_attr": none}, code.InvalidParameter, "vol_info"},
		{"zeros", "SDM.update_volume", update(volume(imgA, zeroUUID), none), code.InvalidParameter, "vol_id"},
		{"no attributes", "SDM.update_volume", on(volume(imgA, volTop), none), code.InvalidParameter, "vol_attr"},
		{"another generation", "SDM.update_volume", update(volume(imgA, volTop, "generation", 7), none), code.GenerationMismatch, "generation 0, not 7"},
		{"a generation that is none", "SDM.update_volume", update(volume(imgA, volTop, "generation", 1000), none), code.InvalidParameter, "generation 1000"},
		{"a generation to set that is none", "SDM.update_volume", update(volume(imgA, volTop), map[string]any{"generation": 1000}), code.InvalidParameter, "vol_attr"},
		{"legality", "SDM.update_volume", update(volume(imgA, volTop), map[string]any{"legality": "FAKE"}), code.InvalidParameter, "FAKE"},
		{"type", "SDM.update_volume", update(volume(imgA, volTop), map[string]any{"type": "LEAF"}), code.InvalidParameter, "SHARED"},
		{"a template with a parent", "SDM.update_volume", update(volume(imgA, volTop), map[string]any{"type": "SHARED"}), code.InvalidVolumeUpdate, "LEAF"},
		{"a template with children", "SDM.update_volume", update(volume(imgA, volRaw), map[string]any{"type": "SHARED"}), code.InvalidVolumeUpdate, "INTERNAL"},
		{"two lines", "SDM.update_volume", update(volume(imgA, volTop), map[string]any{"description": "a\nb"}), code.InvalidParameter, "one line"},
		{"fill itself", "SDM.copy_data", map[string]any{"source": volume(imgA, volTop), "destination": volume(imgA, volTop)}, code.InvalidParameter, "itself"},
		{"fill from nothing", "SDM.copy_data", map[string]any{"source": volume(imgA, volNew), "destination": volume(imgB, volOld)}, code.VolumeDoesNotExist, volNew},
		{"fill nothing", "SDM.copy_data", map[string]any{"source": volume(imgA, volTop), "destination": volume(imgB, volNew)}, code.VolumeDoesNotExist, volNew},
		{"fill what others are built on", "SDM.copy_data", map[string]any{"source": volume(imgB, volOld), "destination": volume(imgA, volRaw)}, code.VolumeImageHasChild, volRaw},
		{"fill a template", "SDM.copy_data", map[string]any{"source": volume(imgB, volOld), "destination": volume(imgTmpl, volTmpl)}, code.VolumeImageHasChild, volTmpl},
		{"fill another generation", "SDM.copy_data", map[string]any{"source": volume(imgA, volTop), "destination": volume(imgB, volOld, "generation", 3)}, code.GenerationMismatch, "not 3"},
		{"fill from another generation", "SDM.copy_data", map[string]any{"source": volume(imgA, volTop, "generation", 3), "destination": volume(imgB, volOld)}, code.GenerationMismatch, "not 3"},
		{"a bitmap of a raw volume", "SDM.add_bitmap", on(volume(imgA, volRaw), map[string]any{"bitmap": "b"}), code.Unsupported, "RAW"},
		{"a bitmap that is there", "SDM.add_bitmap", on(volume(imgB, volOld), map[string]any{"bitmap": "second"}), code.AddBitmap, "second"},
		{"a bitmap without a name", "SDM.add_bitmap", on(volume(imgB, volOld), map[string]any{"bitmap": ""}), code.InvalidParameter, "bitmap"},
		{"a bitmap of another generation", "SDM.add_bitmap", on(volume(imgB, volOld, "generation", 2), map[string]any{"bitmap": "b"}), code.GenerationMismatch, "not 2"},
		{"a bitmap that is not there", "SDM.remove_bitmap", on(volume(imgB, volOld), map[string]any{"bitmap": "b"}), code.RemoveBitmap, "no bitmap b"},
		{"clear a raw volume", "SDM.clear_bitmaps", on(volume(imgA, volRaw), nil), code.Unsupported, "RAW"},
		{"amend a raw volume", "SDM.amend_volume", on(volume(imgA, volRaw), map[string]any{"qcow2_attr": map[string]any{"compat": "1.1"}}), code.Unsupported, "RAW"},
		{"amend to what is none", "SDM.amend_volume", on(volume(imgA, volTop), map[string]any{"qcow2_attr": map[string]any{"compat": "2"}}), code.InvalidParameter, "0.10"},
		{"amend to nothing", "SDM.amend_volume", on(volume(imgA, volTop), map[string]any{"qcow2_attr": map[string]any{}}), code.InvalidParameter, "compat"},
		{"sparsify what others are built on", "SDM.sparsify_volume", on(volume(imgA, volRaw), nil), code.VolumeNonWritable, "INTERNAL"},
		{"sparsify a template", "SDM.sparsify_volume", on(volume(imgTmpl, volTmpl), nil), code.VolumeNonWritable, "template"},
		{"sparsify another generation", "SDM.sparsify_volume", on(volume(imgA, volTop, "generation", 7), nil), code.GenerationMismatch, "not 7"},
		{"sparsify nothing", "SDM.sparsify_volume", on(volume(imgA, volNew), nil), code.VolumeDoesNotExist, volNew},
		{"sparsify no volume", "SDM.sparsify_volume", map[string]any{}, code.InvalidParameter, "vol_info"},
		{"amend away bitmaps", "SDM.amend_volume", on(volume(imgB, volOld), map[string]any{"qcow2_attr": map[string]any{"compat": "0.1"}}), code.Unsupported, "bitmaps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
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
		})
	}
}

// TestUpdateWraps: the generation after 999 is 0, and what is left out stays as it is.
func TestUpdateWraps(t *testing.T) {
	h := newHostInMemory(t)
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	err = d.UpdateVolumeMeta(imgA, volTop, func(m *domain.VolumeMeta) error {
		m.Generation, m.Description = domain.MaxGeneration, "as it was"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.submit("SDM.update_volume", on(volume(imgA, volTop, "generation", domain.MaxGeneration), map[string]any{"vol_attr": map[string]any{"legality": "ILLEGAL"}})); err != nil {
		t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Finished {
		t.Fatalf("ended %s: %s", v.State, v.Message)
	}
	m, err := d.ReadVolume(imgA, volTop)
	if err != nil || m.Generation != 0 || m.Legality != domain.Illegal || m.Description != "as it was" {
		t.Errorf("the metadata is %+v, %v", m, err)
	}
}

// TestRevertRefused: an update is not taken back when somebody else has written the metadata since, or has derived an image from the
// template that it made. Data that was written is no reason.
func TestRevertRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		since  func(t *testing.T, h *host, d *domain.Domain)
		code   code.Code
		reason string
	}{
		{"nothing", func(*testing.T, *host, *domain.Domain) {}, 0, ""},
		{"data", func(t *testing.T, h *host, _ *domain.Domain) {
			h.run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", h.path("images", imgB, volOld))
		}, 0, ""},
		{"metadata", func(t *testing.T, _ *host, d *domain.Domain) {
			if err := d.UpdateVolumeMeta(imgB, volOld, func(m *domain.VolumeMeta) error { m.Generation = 4; return nil }); err != nil {
				t.Fatal(err)
			}
		}, code.TaskState, "changed since"},
		{"derived", func(t *testing.T, _ *host, d *domain.Domain) {
			if err := d.ShareTemplate(imgB, volOld, imgA); err != nil {
				t.Fatal(err)
			}
		}, code.TaskState, "template of image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			d, err := h.domains.Get(sd)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.submit("SDM.update_volume", on(volume(imgB, volOld), map[string]any{"vol_attr": map[string]any{"type": "SHARED"}})); err != nil {
				t.Fatal(err)
			}
			h.ended()
			c.since(t, h, d)
			err = h.Revert(t.Context(), taskID, "tester")
			if code.Of(err) != c.code || !strings.Contains(fmt.Sprint(err), c.reason) && err != nil {
				t.Errorf("the revert answered %v", err)
			}
			v := h.ended()
			if want := map[bool]tasks.State{true: tasks.Recovered, false: tasks.Finished}[c.code == 0]; v.State != want {
				t.Errorf("it is %s: %s", v.State, v.Message)
			}
		})
	}
}

// TestFenced lets somebody else take the volume before each record of each job. One that has not made its last write by then fails, and
// leaves the generation and the legality alone; one that has not begun to change the file leaves that alone too.
func TestFenced(t *testing.T) {
	for _, c := range jobCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n := int64(2); c.fenced(t, n); n++ { // the first record is the submit's
				if t.Failed() {
					t.Fatalf("fenced before record %d of %s", n, c.name)
				}
			}
		})
	}
}

// fenced lets the job be fenced before its nth record; false: it has fewer.
func (c jobCase) fenced(t *testing.T, n int64) bool {
	const theirs = 500
	h := c.on(newHostInMemory(t))
	defer h.discard()
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	before := h.tree()
	var was domain.VolumeMeta
	var lastStep atomic.Bool // the last step was reached by then
	var once sync.Once
	count := h.atChange(n, func(change store.Change) error {
		once.Do(func() {
			lastStep.Store(reachedLast(t, change))
			err := d.UpdateVolumeMeta(c.changes.img, c.changes.vol, func(m *domain.VolumeMeta) error { was, m.Generation = *m, theirs; return nil })
			if err != nil {
				t.Error(err)
			}
		})
		return nil
	})
	if err := h.submit(c.verb, c.params); err != nil {
		t.Fatal(err)
	}
	v := h.ended()
	if count.Load() < n {
		return false
	}
	is, err := d.ReadVolume(c.changes.img, c.changes.vol)
	if err != nil || is.Generation != theirs {
		t.Errorf("the generation is %d (%v), somebody else had written %d", is.Generation, err, theirs)
	}
	over := was.Generation != 0
	switch {
	case over && v.State != tasks.Finished, !over && v.Code != code.GenerationMismatch:
		t.Errorf("it had generation %d, and the job ended %s/%d: %s", was.Generation, v.State, v.Code, v.Message)
	case !over && is.Legality != was.Legality && is.Legality == domain.Legal:
		t.Errorf("it was %s and is %s", was.Legality, is.Legality)
	case over || lastStep.Load():
	case v.State != tasks.Recovered:
		t.Errorf("nothing was done yet, and it is %s: %s", v.State, v.Message)
	default:
		c.undone(t, before, strings.ReplaceAll(h.tree(), fmt.Sprintf("GEN=%d", theirs), "GEN=0"))
	}
	return true
}

// reachedLast says whether a record says that the last step of its task has begun.
func reachedLast(t *testing.T, change store.Change) bool {
	var r struct {
		Steps []struct{ State tasks.StepState } `json:"steps"`
	}
	for _, row := range change.Put {
		if err := json.Unmarshal(row.Body, &r); err != nil {
			t.Error(err)
		}
	}
	return len(r.Steps) > 0 && r.Steps[len(r.Steps)-1].State != tasks.StepWaiting
}

// TestFencedBetweenSlices: a copy whose volume is taken while it writes ends at the next boundary of a slice, with the copy not complete.
func TestFencedBetweenSlices(t *testing.T) {
	h := newHostInMemory(t)
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	var checkpoints atomic.Int64
	var complete atomic.Bool
	h.atChange(1, func(c store.Change) error {
		if len(c.Put) == 1 && strings.Contains(string(c.Put[0].Body), `"complete":true`) {
			complete.Store(true)
		}
		if len(c.Put) == 1 && strings.Contains(string(c.Put[0].Body), `"blank"`) && checkpoints.Add(1) == 1 {
			return d.UpdateVolumeMeta(imgB, volOld, func(m *domain.VolumeMeta) error { m.Generation = 3; return nil })
		}
		return nil
	})
	if err := h.submit("SDM.copy_data", map[string]any{"source": volume(imgA, volTop), "destination": volume(imgB, volOld)}); err != nil {
		t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Recovered || v.Code != code.GenerationMismatch || len(v.Remainder) != 1 {
		t.Errorf("ended %s/%d, remainder %q: %s", v.State, v.Code, v.Remainder, v.Message)
	}
	if m, err := d.ReadVolume(imgB, volOld); err != nil || m.Legality != domain.Illegal || m.Generation != 3 {
		t.Errorf("it is %s with generation %d, %v", m.Legality, m.Generation, err)
	}
	if complete.Load() {
		t.Error("the copy went on to its end")
	}
}
