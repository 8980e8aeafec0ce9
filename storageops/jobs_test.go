package storageops_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
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
	verbCase
	changes struct{ img, vol string }
}

func changing(img, vol string, c verbCase) jobCase {
	return jobCase{c, struct{ img, vol string }{img, vol}}
}

// jobCases are the storage jobs.
func jobCases(t *testing.T) []jobCase {
	t.Helper()
	attr := func(a map[string]any) map[string]any { return map[string]any{"vol_attr": a} }
	return []jobCase{
		changing(imgA, volTop, verbCase{"update a volume", "SDM.update_volume", on(volume(imgA, volTop), attr(map[string]any{"description": "new", "legality": "ILLEGAL"})),
			[]string{"DESCRIPTION=new", "ILLEGAL", "GEN=1"}, nil, true}),
		changing(imgB, volOld, verbCase{"update to a template", "SDM.update_volume", on(volume(imgB, volOld, "generation", "0"), attr(map[string]any{"type": "SHARED"})), []string{"GEN=1"}, nil, true}),
		changing(imgA, volTop, verbCase{"update and fence", "SDM.update_volume", on(volume(imgA, volTop), attr(map[string]any{"generation": 3})), []string{"GEN=3"}, []string{"GEN=1"}, false}),
	}
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
// leaves the generation and the legality alone.
func TestFenced(t *testing.T) {
	const theirs = 500
	for _, c := range jobCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n := int64(2); ; n++ { // the first record is the submit's
				h := newHostInMemory(t)
				d, err := h.domains.Get(sd)
				if err != nil {
					t.Fatal(err)
				}
				var was domain.VolumeMeta
				var once sync.Once
				count := h.atCommit(n, func() error {
					once.Do(func() {
						if err := d.UpdateVolumeMeta(c.changes.img, c.changes.vol, func(m *domain.VolumeMeta) error { was, m.Generation = *m, theirs; return nil }); err != nil {
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
					return // it has fewer records than that
				}
				is, err := d.ReadVolume(c.changes.img, c.changes.vol)
				if err != nil || is.Generation != theirs {
					t.Errorf("the generation is %d (%v), somebody else had written %d", is.Generation, err, theirs)
				}
				if over := was.Generation != 0; over != (v.State == tasks.Finished) || !over && (v.Code != code.GenerationMismatch || is.Legality != was.Legality) {
					t.Errorf("it had generation %d and was %s, is %s, and the job ended %s/%d: %s", was.Generation, was.Legality, is.Legality, v.State, v.Code, v.Message)
				}
				if t.Failed() {
					t.Fatalf("fenced before record %d of %s", n, c.name)
				}
				h.discard()
			}
		})
	}
}
