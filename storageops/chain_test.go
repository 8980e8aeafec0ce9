package storageops_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
)

const (
	sdOther    = "22222222-2222-4333-8444-555555555555"
	imgChain   = "aaaaaaaa-0000-4000-8000-000000000011" // volBase ← volMid ← volLeaf
	imgDerived = "aaaaaaaa-0000-4000-8000-000000000012" // volTmpl ← volOn
	volBase    = "bbbbbbbb-0000-4000-8000-000000000011"
	volMid     = "bbbbbbbb-0000-4000-8000-000000000012"
	volLeaf    = "bbbbbbbb-0000-4000-8000-000000000013"
	volOn      = "bbbbbbbb-0000-4000-8000-000000000014"
)

// other gives the host a second domain, with a chain of three, a template that is also in the first one, and an image derived from
// it.
func (h *host) other() {
	h.t.Helper()
	spec := domain.CreateSpec{UUID: sdOther, Path: h.root(), Name: "other", Type: domain.TypeLocalFS, Class: "Data", Version: 5}
	if _, err := h.domains.Create(spec); err != nil {
		h.t.Fatal(err)
	}
	cow := domain.VolumeMeta{Image: imgChain, PUUID: volBase, Format: domain.FormatCOW, VolType: domain.Internal, Description: "middle", Sequence: 2, Generation: 7}
	h.volumeIn(sdOther, domain.VolumeMeta{Image: imgChain, PUUID: zeroUUID, Format: domain.FormatRaw, VolType: domain.Internal, Sequence: 1, Type: domain.Preallocated},
		volBase, "write -q -P 1 1M 4M", "write -q -P 1 10M 64k")
	h.volumeIn(sdOther, cow, volMid, "write -q -P 2 2M 1M", "write -q -z 3M 1M")
	h.run("qemu-img", "bitmap", "--add", h.in(sdOther, imgChain, volMid), "backup")
	h.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 6M 192k", h.in(sdOther, imgChain, volMid))
	cow.PUUID, cow.VolType, cow.Description, cow.Sequence = volMid, domain.Leaf, "leaf", 3
	h.volumeIn(sdOther, cow, volLeaf, "write -q -P 4 7M 64k", "write -q -P 4 0 64k")
	h.volumeIn(sdOther, domain.VolumeMeta{Image: imgTmpl, PUUID: zeroUUID, Format: domain.FormatCOW, VolType: domain.Shared}, volTmpl, "write -q -P 3 1M 5M", "write -q -P 3 9M 64k")
	d, err := h.domains.Get(sdOther)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := d.CreateImageDir(imgDerived); err != nil {
		h.t.Fatal(err)
	}
	if err := d.ShareTemplate(imgTmpl, volTmpl, imgDerived); err != nil {
		h.t.Fatal(err)
	}
	h.volumeIn(sdOther, domain.VolumeMeta{Image: imgDerived, PUUID: volTmpl, Format: domain.FormatCOW, VolType: domain.Leaf}, volOn, "write -q -P 5 0 64k")
}

// structure is other, and the chain is in the first domain too, with something else in it.
func (h *host) structure() {
	h.other()
	h.chainInFirst()
}

func (h *host) chainInFirst() {
	h.t.Helper()
	h.volumeIn(sd, domain.VolumeMeta{Image: imgChain, PUUID: zeroUUID, Format: domain.FormatRaw, VolType: domain.Internal}, volBase, "write -q -P 9 0 3M")
	cow := domain.VolumeMeta{Image: imgChain, PUUID: volBase, Format: domain.FormatCOW, VolType: domain.Internal, Generation: 5}
	h.volumeIn(sd, cow, volMid, "write -q -P 9 8M 1M")
	cow.PUUID, cow.VolType = volMid, domain.Leaf
	h.volumeIn(sd, cow, volLeaf)
}

func (h *host) in(id, img, vol string) string { return filepath.Join(h.root(), id, "images", img, vol) }

func fromOther(more ...any) map[string]any {
	return with(map[string]any{"imageID": imgChain, "dstSdUUID": sd}, append([]any{"storagedomainID", sdOther}, more...)...)
}

func chainVerbCases() []hostCase {
	return []hostCase{
		{verbCase{"move an image", "Image.move", fromOther("operation", "MOVE"),
			[]string{there(imgChain), "trash 0/" + volLeaf}, []string{"ILLEGAL", inOther}, true}, (*host).other, nil},
		{verbCase{"move a derived image", "Image.move", fromOther("imageID", imgDerived, "operation", 2),
			[]string{there(imgDerived) + "/" + volTmpl, "trash 0/" + volTmpl}, []string{"ILLEGAL"}, true}, (*host).other, nil},
		{verbCase{"move over an old image", "Image.move", fromOther("operation", 2, "force", true, "postZero", "true"),
			[]string{there(imgChain), "trash 0/" + volBase}, []string{"ILLEGAL", inOther}, true}, (*host).structure, nil},
		{verbCase{"clone a structure", "Image.cloneStructure", fromOther(), []string{there(imgChain), "SEQ=2"}, []string{"ILLEGAL"}, true}, (*host).other, nil},
		{verbCase{"sync a chain", "Image.syncData", fromOther("syncType", "ALL"), []string{there(imgChain), "GEN=5"}, []string{"ILLEGAL"}, false},
			(*host).structure, leftIllegal(volBase, volMid, volLeaf)},
	}
}

// moreChainCases have no step that those above have not: to stop them everywhere would show nothing more.
func moreChainCases() []hostCase {
	template := fromOther("imageID", imgTmpl, "operation", "copy", "force", "TRUE")
	return []hostCase{
		{verbCase{"copy an image", "Image.move", fromOther("operation", 1, "postZero", false, "force", false),
			[]string{there(imgChain), "DESCRIPTION=leaf", "SEQ=3", "TYPE=PREALLOCATED", inOther}, []string{"ILLEGAL"}, true}, (*host).other, nil},
		{verbCase{"copy a template over an old one", "Image.move", template, []string{"VOLTYPE=SHARED", "trash 0/" + volTmpl}, []string{"ILLEGAL"}, true},
			(*host).other, nil},
		{verbCase{"sync internal volumes", "Image.syncData", fromOther("syncType", "INTERNAL"), []string{there(imgChain)}, []string{"ILLEGAL"}, false},
			(*host).structure, leftIllegal(volBase, volMid)},
	}
}

// there is in the tree when the image is in the first domain, and inOther is in it when the chain is in the other.
func there(image string) string { return " /images/" + image }

const inOther = "/" + sdOther + "/images/" + imgChain

// leftIllegal says that a stopped task may leave these volumes of the chain in the first domain ILLEGAL, with anything in them, and with
// it anything in what is seen through them.
func leftIllegal(volumes ...string) func(before, tree string) bool {
	data := regexp.MustCompile(`(?m)^(\S+ /images/` + imgChain + `/\S{36}) .*$`)
	return func(before, tree string) bool {
		for _, vol := range volumes {
			mark := regexp.MustCompile(`(?m)^(.* /images/` + imgChain + `/` + vol + `\.meta .*)LEGALITY=LEGAL`)
			before = mark.ReplaceAllString(before, "${1}LEGALITY=ILLEGAL")
		}
		return data.ReplaceAllString(before, "$1") == data.ReplaceAllString(tree, "$1")
	}
}

// TestMovedChain: a copied chain is layer by layer what its source is, and so are its bitmaps.
func TestMovedChain(t *testing.T) {
	h := newHost(t)
	h.other()
	if err := h.submit("Image.move", fromOther("operation", "COPY")); err != nil {
		t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Finished || v.Progress.Done != v.Progress.Total || v.Progress.Total < 6<<20 {
		t.Fatalf("ended %s with %+v: %s", v.State, v.Progress, v.Message)
	}
	for _, vol := range []string{volBase, volMid, volLeaf} {
		if a, b := h.guest(h.in(sdOther, imgChain, vol)), h.guest(h.in(sd, imgChain, vol)); a != b {
			t.Errorf("volume %s is %s, its copy %s", vol, a, b)
		}
	}
	for _, id := range []string{sdOther, sd} {
		if info := h.run("qemu-img", "info", "--output=json", h.in(id, imgChain, volMid)); !strings.Contains(info, `"backup"`) || !strings.Contains(info, `"auto"`) {
			t.Errorf("the bitmap is not in domain %s, or not enabled: %s", id, info)
		}
	}
	if st, err := os.Stat(h.in(sd, imgChain, volBase)); err != nil || st.Size() != 12<<20 {
		t.Errorf("the base has %v, %v", st, err)
	}
	before := h.tree()
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	err = d.UpdateVolumeMeta(imgChain, volMid, func(m *domain.VolumeMeta) error { m.Description = "used"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Revert(t.Context(), taskID, "tester"); code.Of(err) != code.TaskState || !strings.Contains(err.Error(), volMid) {
		t.Errorf("the revert of a copy that was used answers %v", err)
	}
	same(t, strings.ReplaceAll(before, "DESCRIPTION=middle", "DESCRIPTION=used"), strings.ReplaceAll(h.tree(), "DESCRIPTION=middle", "DESCRIPTION=used"))
}

// TestSyncIsFenced: once the generation has moved, nothing more is published, and the generation stays.
func TestSyncIsFenced(t *testing.T) {
	h := newHost(t)
	h.structure()
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	fenced := false
	h.store.OnCommit = func(c store.Change) error {
		if len(c.Put) == 1 && strings.Contains(string(c.Put[0].Body), `"item":1`) && !fenced {
			fenced = true
			return d.UpdateVolumeMeta(imgChain, volMid, func(m *domain.VolumeMeta) error { m.Generation += 3; return nil })
		}
		return nil
	}
	if err := h.submit("Image.syncData", fromOther("syncType", "ALL")); err != nil {
		t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Recovered || v.Code != code.GenerationMismatch || len(v.Remainder) != 1 {
		t.Errorf("ended %s/%d, remainder %q: %s", v.State, v.Code, v.Remainder, v.Message)
	}
	for vol, generation := range map[string]int{volBase: 0, volMid: 8, volLeaf: 5} {
		if m, err := d.ReadVolume(imgChain, vol); err != nil || m.Legality != domain.Illegal || m.Generation != generation {
			t.Errorf("volume %s is %s with generation %d, %v", vol, m.Legality, m.Generation, err)
		}
	}
}

// TestSyncAgain: what a stopped task left ILLEGAL is filled anew.
func TestSyncAgain(t *testing.T) {
	h := newHost(t)
	h.structure()
	if err := h.submit("Image.syncData", fromOther("syncType", "ALL")); err != nil {
		t.Fatal(err)
	}
	h.ended()
	want := h.tree()
	d, err := h.domains.Get(sd)
	if err != nil {
		t.Fatal(err)
	}
	for _, vol := range []string{volBase, volMid, volLeaf} {
		if err := d.UpdateVolumeMeta(imgChain, vol, func(m *domain.VolumeMeta) error { m.Legality = domain.Illegal; return nil }); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.in(sd, imgChain, vol), []byte(strings.Repeat("garbage ", 1<<19)), 0o660); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Clear(taskID, "tester"); err != nil {
		t.Fatal(err)
	}
	params, err := json.Marshal(fromOther("syncType", "ALL"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Submit(t.Context(), tasks.Submission{Verb: "Image.syncData", Params: params, Who: "tester"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	same(t, want, h.tree())
}

func TestChainRefusals(t *testing.T) {
	move := func(more ...any) map[string]any { return fromOther(append([]any{"operation", 2}, more...)...) }
	change := func(id, img, vol string, f func(m *domain.VolumeMeta)) func(h *host) {
		return func(h *host) {
			d, err := h.domains.Get(id)
			if err == nil {
				err = d.UpdateVolumeMeta(img, vol, func(m *domain.VolumeMeta) error { f(m); return nil })
			}
			if err != nil {
				h.t.Fatal(err)
			}
		}
	}
	illegal := func(m *domain.VolumeMeta) { m.Legality = domain.Illegal }
	remove := func(path ...string) func(h *host) {
		return func(h *host) { h.run("rm", "-r", filepath.Join(append([]string{h.root()}, path...)...)) }
	}
	sync := func(which string) map[string]any { return fromOther("syncType", which) }
	for _, c := range []struct {
		refusal
		setup func(h *host)
	}{
		{refusal{"to the same domain", "Image.move", move("dstSdUUID", sdOther), code.InvalidParameter, "dstSdUUID"}, nil},
		{refusal{"clone to the same domain", "Image.cloneStructure", fromOther("dstSdUUID", sdOther), code.InvalidParameter, "dstSdUUID"}, nil},
		{refusal{"no such operation", "Image.move", move("operation", 3), code.InvalidParameter, "operation"}, nil},
		{refusal{"no such sync", "Image.syncData", sync("SOME"), code.InvalidParameter, "syncType"}, nil},
		{refusal{"no such image", "Image.move", move("imageID", imgB), code.ImageDoesNotExist, imgB}, nil},
		{refusal{"no such domain", "Image.move", move("dstSdUUID", imgB), code.DomainDoesNotExist, imgB}, nil},
		{refusal{"destination exists", "Image.move", move(), code.VolumeAlreadyExists, volBase}, (*host).chainInFirst},
		{refusal{"clone exists", "Image.cloneStructure", fromOther(), code.VolumeAlreadyExists, volBase}, (*host).chainInFirst},
		{refusal{"the template is missing", "Image.move", move("imageID", imgDerived), code.ImageDoesNotExist, volTmpl}, remove(sd, "images", imgTmpl)},
		{refusal{"the template is another", "Image.move", move("imageID", imgDerived), code.TemplateOnTarget, volTmpl},
			change(sd, imgTmpl, volTmpl, func(m *domain.VolumeMeta) { m.VolType = domain.Leaf })},
		{refusal{"the template is derived from", "Image.move", move("imageID", imgTmpl, "force", true), code.MoveTemplateImage, imgDerived}, nil},
		{refusal{"the source is ILLEGAL", "Image.move", move(), code.PrepareIllegalVolume, volMid}, change(sdOther, imgChain, volMid, illegal)},
		{refusal{"two leaves", "Image.move", move(), code.ImageIsNotLegalChain, volMid}, change(sdOther, imgChain, volLeaf, func(m *domain.VolumeMeta) { m.PUUID = volBase })},
		{refusal{"the chain is broken", "Image.move", move(), code.ImageIsNotLegalChain, volLeaf}, remove(sdOther, "images", imgChain, volMid+".meta")},
		{refusal{"another backing file", "Image.move", move(), code.ImageVerification, volLeaf}, func(h *host) {
			h.run("qemu-img", "rebase", "-u", "-b", "/etc/passwd", "-F", "raw", h.in(sdOther, imgChain, volLeaf))
		}},
		{refusal{"sync into nothing", "Image.syncData", sync("ALL"), code.ImageDoesNotExist, sd}, nil},
		{refusal{"sync into another chain", "Image.syncData", fromOther("imageID", imgDerived, "syncType", "ALL"), code.DestImageAction, volOn}, func(h *host) {
			h.volumeIn(sd, domain.VolumeMeta{Image: imgDerived, PUUID: zeroUUID, Format: domain.FormatCOW, VolType: domain.Leaf}, volOn)
		}},
		{refusal{"sync of no internal volumes", "Image.syncData", fromOther("imageID", imgDerived, "syncType", "INTERNAL"), code.ImageIsNotLegalChain, imgDerived}, func(h *host) {
			h.volumeIn(sd, domain.VolumeMeta{Image: imgDerived, PUUID: zeroUUID, Format: domain.FormatCOW, VolType: domain.Leaf}, volOn)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			h.other()
			if c.setup != nil {
				c.setup(h)
			}
			refused(t, h, c.refusal)
		})
	}
}
