package storageops_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"

	"github.com/google/uuid"
)

// pair names two neighbours of imgA.
func pair(base, top string) map[string]any {
	return map[string]any{"sd_id": sd, "img_id": imgA, "base_id": base, "top_id": top}
}

// toMerge is a chain of four whose upper two are larger than those below, with bitmaps.
func toMerge(h *host) {
	chainOfFour(h)
	for _, v := range []string{volMid, volLeaf} {
		h.run("qemu-img", "resize", "-q", "-f", "qcow2", h.path("images", imgA, v), "16M")
		h.meta(imgA, v, func(m *domain.VolumeMeta) { m.Capacity = 16 << 20 })
	}
	for v, names := range map[string][]string{volTop: {"kept", "stale"}, volMid: {"kept", "new"}, volLeaf: {"kept"}} {
		for _, name := range names {
			h.run("qemu-img", "bitmap", "-f", "qcow2", "--add", h.path("images", imgA, v), name)
		}
		h.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 3M 64k", h.path("images", imgA, v))
	}
}

// prepared is toMerge after StoragePool.prepareMerge.
func prepared(h *host) {
	toMerge(h)
	h.run("qemu-img", "resize", "-q", "-f", "qcow2", h.path("images", imgA, volTop), "16M")
	h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Capacity = 16 << 20 })
}

// merged is toMerge after SDM.merge.
func merged(h *host) {
	prepared(h)
	h.run("qemu-img", "commit", "-q", "-d", "-f", "qcow2", h.path("images", imgA, volMid))
}

func mergeVerbCases() []hostCase {
	pool := func(info map[string]any) map[string]any { return with(nil, "subchainInfo", info) }
	job := func(info map[string]any) map[string]any {
		return map[string]any{"job_id": taskID, "subchain_info": info, "merge_bitmaps": true}
	}
	one := func(name, verb string, params map[string]any, setup func(*host), left func(string, string) bool, expect ...string) hostCase {
		return hostCase{verbCase{name, verb, params, expect, nil, false}, setup, left}
	}
	leaf := func(h *host) { // the leaf has been merged into what is below it
		merged(h)
		h.run("qemu-img", "commit", "-q", "-d", "-f", "qcow2", h.path("images", imgA, volLeaf))
	}
	rawBase := func(h *host) {
		h.run("qemu-img", "resize", "-q", "-f", "qcow2", h.path("images", imgA, volTop), "16M")
		h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Capacity = 16 << 20 })
	}
	preallocated := func(h *host) {
		toMerge(h)
		h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Type = domain.Preallocated })
	}
	pruned := func(before, tree string) bool { return strings.ReplaceAll(before, " stale:auto", "") == tree }
	return []hostCase{
		one("prepare a merge", "StoragePool.prepareMerge", pool(pair(volTop, volMid)), toMerge, pruned, "CAP=16777216"),
		one("prepare a merge into cow preallocated", "StoragePool.prepareMerge", pool(pair(volTop, volMid)), preallocated, pruned, "CAP=16777216"),
		one("prepare a merge into raw", "StoragePool.prepareMerge", pool(pair(volRaw, volTop)), rawBase, nil, "CAP=16777216"),
		one("finalize a merge", "StoragePool.finalizeMerge", pool(pair(volTop, volMid)), merged, nil, "ILLEGAL"),
		one("finalize a merge of the leaf", "StoragePool.finalizeMerge", pool(pair(volMid, volLeaf)), leaf, nil, "ILLEGAL"),
		one("merge", "SDM.merge", job(pair(volTop, volMid)), prepared, partMerged, "GEN=1"),
		one("merge the leaf into raw", "SDM.merge", job(pair(volRaw, volTop)), nil, partMerged, "GEN=1"),
	}
}

var marks = regexp.MustCompile(`LEGALITY=(LEGAL|ILLEGAL MERGING=1)`)

// partMerged says whether the difference between two trees is a base that is part merged: ILLEGAL, and with other data.
func partMerged(before, tree string) bool {
	a, b := strings.Split(before, "\n"), strings.Split(tree, "\n")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		base := strings.Contains(a[i], volTop) || strings.Contains(a[i], volRaw)
		meta := strings.Contains(a[i], ".meta ")
		if !base || meta && marks.ReplaceAllString(a[i], "") != marks.ReplaceAllString(b[i], "") || !meta && !strings.Contains(tree, "MERGING=1") {
			return false
		}
	}
	return true
}

// next runs a verb to its end, under an id of its own.
func (h *host) next(verb string, params map[string]any) tasks.View {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	id, err := h.Submit(h.t.Context(), tasks.Submission{ID: uuid.NewString(), Verb: verb, Params: raw, Who: "tester"})
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.Wait(h.t.Context(), id, tasks.Ended); err != nil {
		h.t.Fatal(err)
	}
	v, err := h.Get(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

// TestAWholeMerge goes through the four calls as an engine does. A guest reads the same at each moment, and the bitmaps of the base
// mark what those of the top did.
func TestAWholeMerge(t *testing.T) {
	for _, c := range []struct {
		name, base, top, reads, format string
		setup                          func(*host)
	}{
		{"in the middle", volTop, volMid, volLeaf, "qcow2", toMerge},
		{"of the leaf", volMid, volLeaf, volMid, "qcow2", toMerge},
		{"of the leaf into raw", volRaw, volTop, volRaw, "raw", func(*host) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			c.setup(h)
			was := t.TempDir() + "/was"
			from := c.reads
			if c.reads == c.base {
				from = c.top
			}
			h.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", h.path("images", imgA, from), was)
			for _, step := range []struct {
				verb   string
				params map[string]any
			}{
				{"StoragePool.prepareMerge", with(nil, "subchainInfo", pair(c.base, c.top))},
				{"SDM.merge", map[string]any{"subchain_info": pair(c.base, c.top), "merge_bitmaps": true}},
				{"StoragePool.finalizeMerge", with(nil, "subchainInfo", pair(c.base, c.top))},
				{"Image.deleteVolumes", with(nil, "imageID", imgA, "volumeList", []string{c.top})},
			} {
				if v := h.next(step.verb, step.params); v.State != tasks.Finished {
					t.Fatalf("%s ended %s: %s", step.verb, v.State, v.Message)
				}
				if from == c.reads || step.verb == "SDM.merge" {
					h.run("qemu-img", "compare", "-F", "raw", "-f", c.format, h.path("images", imgA, c.reads), was)
				}
			}
			d, err := h.domains.Get(sd)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := d.Chain(imgA, c.reads)
			if err != nil {
				t.Fatal(err)
			}
			if m := chain[0].Meta; m.VolType != domain.Leaf || m.Legality != domain.Legal || len(chain) > 3 {
				t.Errorf("%+v", chain)
			}
			if _, err := h.call("Image.prepare", with(nil, "imageID", imgA, "volumeID", c.reads)); err != nil {
				t.Error(err)
			}
			if c.base == volTop {
				info := h.run("qemu-img", "info", "-f", "qcow2", h.path("images", imgA, volTop))
				if !strings.Contains(info, "name: kept") || !strings.Contains(info, "name: new") || strings.Contains(info, "stale") || strings.Contains(info, "in-use") {
					t.Error(info)
				}
			}
		})
	}
}

// TestAPartMergedBase: the snapshot that it held can neither be shown nor be built upon, the chain above it can, and a retry completes it.
func TestAPartMergedBase(t *testing.T) {
	h := newHostInMemory(t)
	prepared(h)
	h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Legality, m.Merging = domain.Illegal, true })
	prepare := func(v string) error {
		_, err := h.call("Image.prepare", with(nil, "imageID", imgA, "volumeID", v))
		return err
	}
	if err := prepare(volTop); code.Of(err) != code.PrepareIllegalVolume {
		t.Errorf("the base is shown: %v", err)
	}
	if err := prepare(volLeaf); err != nil {
		t.Errorf("the chain is not shown: %v", err)
	}
	preview := with(nil, "volumeID", volNew, "imageID", imgA, "size", "16777216", "volFormat", 4, "preallocate", 2, "srcVolUUID", volTop)
	if v := h.next("Volume.create", preview); v.Code != code.CreateIllegalSnapshot {
		t.Errorf("a preview ended %s: %s", v.State, v.Message)
	}
	if v := h.next("SDM.merge", map[string]any{"subchain_info": pair(volTop, volMid)}); v.State != tasks.Finished {
		t.Fatalf("the retry ended %s: %s", v.State, v.Message)
	}
	if err := prepare(volTop); err != nil {
		t.Error(err)
	}
}

// TestMergeRefusals: see TestRefusals.
func TestMergeRefusals(t *testing.T) {
	pool := func(info map[string]any) map[string]any { return with(nil, "subchainInfo", info) }
	job := func(info map[string]any) map[string]any { return map[string]any{"subchain_info": info} }
	fenced := pair(volRaw, volTop)
	fenced["base_generation"] = 5
	refusals(t, []refusal{
		{"prepare: no neighbours", "StoragePool.prepareMerge", pool(pair(volTop, volRaw)), code.ImageIsNotLegalChain, "neighbours"},
		{"prepare: no such top", "StoragePool.prepareMerge", pool(pair(volRaw, volNew)), code.VolumeDoesNotExist, volNew},
		{"prepare: one volume", "StoragePool.prepareMerge", pool(pair(volRaw, volRaw)), code.InvalidParameter, "two of them"},
		{"prepare: another generation", "StoragePool.prepareMerge", pool(fenced), code.GenerationMismatch, "generation 0"},
		{"finalize: no neighbours", "StoragePool.finalizeMerge", pool(pair(volTop, volRaw)), code.ImageIsNotLegalChain, "neighbours"},
		{"merge: no neighbours", "SDM.merge", job(pair(volTop, volRaw)), code.ImageIsNotLegalChain, "neighbours"},
		{"merge: another generation", "SDM.merge", job(fenced), code.GenerationMismatch, "generation 0"},
		{"merge: zeros", "SDM.merge", job(pair(volRaw, zeroUUID)), code.InvalidParameter, "zeros"},
	})
}

// TestMergeRefusalsOfAChain are refusals that need more than a newHost has.
func TestMergeRefusalsOfAChain(t *testing.T) {
	merge := map[string]any{"subchain_info": pair(volTop, volMid)}
	pool := with(nil, "subchainInfo", pair(volTop, volMid))
	illegal := func(vol string) func(*host) {
		return func(h *host) { h.meta(imgA, vol, func(m *domain.VolumeMeta) { m.Legality = domain.Illegal }) }
	}
	for _, c := range []struct {
		name, verb string
		params     map[string]any
		change     func(*host)
		code       code.Code
	}{
		{"a larger top", "SDM.merge", merge, func(*host) {}, code.InvalidParameter},
		{"an ILLEGAL top", "SDM.merge", merge, illegal(volMid), code.PrepareIllegalVolume},
		{"an ILLEGAL base", "SDM.merge", merge, illegal(volTop), code.PrepareIllegalVolume},
		{"an ILLEGAL top, prepared", "StoragePool.prepareMerge", pool, illegal(volMid), code.PrepareIllegalVolume},
		{"an ILLEGAL base, finalized", "StoragePool.finalizeMerge", pool, illegal(volTop), code.PrepareIllegalVolume},
		{"another child of the base", "SDM.merge", merge, func(h *host) { h.overlay(volTop, volNew) }, code.VolumeImageHasChild},
		{"a child on another file", "StoragePool.finalizeMerge", pool, func(h *host) {
			h.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", volRaw, "-F", "raw", h.path("images", imgA, volLeaf))
		}, code.ImageVerification},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			toMerge(h)
			c.change(h)
			before := h.tree()
			if v := h.next(c.verb, c.params); v.State != tasks.Recovered || v.Code != c.code {
				t.Errorf("ended %s/%d: %s", v.State, v.Code, v.Message)
			}
			same(t, before, h.tree())
		})
	}
}
