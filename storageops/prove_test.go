package storageops

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
)

// fields are parameters of a verb.
type fields map[string]any

func (f fields) with(more fields) fields {
	out := maps.Clone(f)
	maps.Copy(out, more)
	return out
}

func proofCase(name, verb string, params fields) prove.Case {
	raw, err := json.Marshal(params)
	if err != nil {
		panic(err) // strings, numbers and booleans always marshal
	}
	return prove.Case{Name: name, Verb: verb, Params: raw, World: newWorld}
}

// proofCases are the verbs with parameters that succeed in newWorld, and one that meets a full file system.
func proofCases() []prove.Case {
	in := fields{"storagedomainID": sdID, "storagepoolID": domain.BlankUUID}
	create := in.with(fields{"volumeID": volNew, "imageID": imgNew, "size": "10485761", "diskType": "DATA", "desc": "d", "volFormat": 5, "preallocate": 2})
	overlay := create.with(fields{"volFormat": 4, "size": "12582912"})
	copyTo := in.with(fields{"volumeID": volTop, "imageID": imgA, "dstSdUUID": sdID, "dstImgUUID": imgNew, "dstVolUUID": volNew, "volFormat": 5, "preallocate": 2})
	remove := in.with(fields{"volumeID": volOld, "imageID": imgB})
	full := proofCase("copy into a full domain", "Volume.copy", copyTo)
	full.World = func() prove.World {
		w := newWorld().(*world)
		w.fullAt = 2
		return w
	}
	mend := proofCase("repair", "Domain.repair", fields{"storagedomainID": sdID, "findings": messy})
	mend.World = func() prove.World { return &world{disk: messyDisk()} }
	shared := func(name, verb string, params fields) prove.Case {
		c := proofCase(name, verb, params)
		c.World = sharedWorld
		return c
	}
	final := func(c prove.Case) prove.Case {
		c.Final = true
		return c
	}
	return slices.Concat(extendCases(in), deleteVolumesCases(in), mergeCases(in), sparsifyCases(), []prove.Case{
		proofCase("create raw", "Volume.create", create),
		proofCase("create raw preallocated", "Volume.create", create.with(fields{"preallocate": "PREALLOCATED"})),
		proofCase("create cow preallocated", "Volume.create", create.with(fields{"volFormat": "COW", "preallocate": 1})),
		proofCase("create on a leaf", "Volume.create", overlay.with(fields{"imageID": imgA, "srcVolUUID": volTop, "bitmap": volOld})),
		proofCase("create on a template", "Volume.create", overlay.with(fields{"srcImgUUID": imgTmpl, "srcVolUUID": volTmpl})),
		proofCase("copy a chain to cow", "Volume.copy", copyTo.with(fields{"volFormat": 4})),
		proofCase("copy a chain to raw", "Volume.copy", copyTo),
		proofCase("copy raw to raw preallocated", "Volume.copy", copyTo.with(fields{"volumeID": volRaw, "preallocate": 1})),
		proofCase("copy to a template", "Volume.copy", copyTo.with(fields{"volFormat": 4, "volType": "SHARED"})),
		proofCase("copy an overlay as an overlay", "Volume.copy", copyTo.with(fields{"volFormat": 4, "collapse": "false", "dstImgUUID": imgA})),
		proofCase("copy over an old volume", "Volume.copy", copyTo.with(fields{"force": true, "postZero": "true", "dstImgUUID": imgB, "dstVolUUID": volOld})),
		full,
		shared("create on a template of a shared domain", "Volume.create", overlay.with(fields{"srcImgUUID": imgTmpl, "srcVolUUID": volTmpl})),
		shared("copy over an old volume of a shared domain", "Volume.copy", copyTo.with(fields{"force": true, "dstImgUUID": imgB, "dstVolUUID": volOld})),
		shared("delete a volume of a shared domain", "Volume.delete", remove),
		proofCase("import", "Volume.import", fields{"storagedomainID": sdID, "imageID": imgNew, "volumeID": volNew, "path": outside, "format": "cow"}),
		proofCase("delete a leaf", "Volume.delete", remove.with(fields{"volumeID": volTop, "imageID": imgA})),
		proofCase("delete the last volume", "Volume.delete", remove),
		final(proofCase("delete and wipe", "Volume.delete", remove.with(fields{"postZero": "true"}))),
		proofCase("delete an image", "Image.delete", in.with(fields{"imageID": imgA})),
		final(proofCase("delete what is gone", "Volume.delete", remove.with(fields{"volumeID": volNew}))),
		mend,
		proofCase("empty the trash of a task", "Trash.empty", fields{"taskID": oldTask}),
		proofCase("empty the trash of a domain and wipe", "Trash.empty", fields{"storagedomainID": sdID, "postZero": true}),
	}, jobCases(), chainCases())
}

// jobCases are the storage jobs.
func jobCases() []prove.Case {
	volume := func(img, vol string, more fields) fields {
		return fields{"endpoint_type": "div", "sd_id": sdID, "img_id": img, "vol_id": vol, "generation": 0}.with(more)
	}
	update := func(info, attr fields) fields { return fields{"vol_info": info, "vol_attr": attr} }
	template := proofCase("update a template that is in use", "SDM.update_volume", update(volume(imgTmpl, volTmpl, nil), fields{"description": "new"}))
	template.World = derivedWorld
	fence := proofCase("update and fence", "SDM.update_volume", update(volume(imgA, volTop, nil), fields{"generation": 3}))
	fence.Final = true
	marked := func(c prove.Case) prove.Case {
		c.World = markedWorld
		return c
	}
	on := func(img, vol string, more fields) fields { return fields{"vol_info": volume(img, vol, nil)}.with(more) }
	fill := func(name, img, vol, dstImg, dstVol string) prove.Case {
		c := proofCase(name, "SDM.copy_data", fields{"source": volume(img, vol, nil), "destination": volume(dstImg, dstVol, nil), "copy_bitmaps": true})
		c.Remainder = leavesIllegal(dstImg, dstVol)
		return marked(c)
	}
	external := func(url string, more fields) fields {
		return fields{"endpoint_type": "external", "url": url, "format": "cow", "lease": fields{"sd_id": sdID, "lease_id": oldTask}}.with(more)
	}
	inward := fill("fill a volume from outside", "", "", imgB, volOld)
	outward := proofCase("copy a chain to the outside", "SDM.copy_data", fields{"source": volume(imgA, volTop, nil), "destination": external("/outside/made", nil)})
	over := proofCase("copy a chain over a file outside", "SDM.copy_data", fields{"source": volume(imgA, volTop, nil), "destination": external(outside, fields{"create": false})})
	inward.Params = proofCase("", "", fields{"source": external(outside, nil), "destination": volume(imgB, volOld, nil)}).Params
	over.World = newWorldWith(func(d memDomain) { // it has room
		if err := d.replace("", outside, picture{format: "qcow2", capacity: 16 << 20, data: [parts]byte{0, 7, 7, 0}}); err != nil {
			panic(err)
		}
	})
	outward.Remainder, over.Remainder = partCopiedOut, partCopiedOut
	return []prove.Case{
		inward, outward, over,
		fill("fill a volume with a chain", imgA, volTop, imgB, volOld),
		fill("fill an overlay, with bitmaps", imgB, volOld, imgA, volTop),
		marked(proofCase("add a bitmap", "SDM.add_bitmap", on(imgB, volOld, fields{"bitmap": "c"}))),
		marked(proofCase("remove a bitmap", "SDM.remove_bitmap", on(imgB, volOld, fields{"bitmap": "a"}))),
		marked(proofCase("clear bitmaps", "SDM.clear_bitmaps", on(imgB, volOld, nil))),
		proofCase("clear bitmaps where there are none", "SDM.clear_bitmaps", on(imgA, volTop, nil)),
		proofCase("amend", "SDM.amend_volume", on(imgA, volTop, fields{"qcow2_attr": fields{"compat": "0.10"}})),
		proofCase("update a volume", "SDM.update_volume", update(volume(imgA, volTop, nil), fields{"description": "new", "legality": "ILLEGAL"})),
		proofCase("update to a template", "SDM.update_volume", update(volume(imgB, volOld, nil), fields{"type": "SHARED"})),
		template,
		fence,
	}
}

// partCopiedOut is the remainder of a copy to the outside: anything may be there, and nothing else is changed.
func partCopiedOut(before, after string) error {
	inside := func(text string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.HasPrefix(line, "/outside/") }), "\n")
	}
	if inside(before) != inside(after) {
		return fmt.Errorf("the world is\n%s\nwhere it was\n%s", after, before)
	}
	return nil
}

// TestProve stops, crashes and fails every verb; see package prove.
func TestProve(t *testing.T) {
	prove.Run(t, prove.Config{Package: "storageops", Golden: "testdata/points.golden", Sample: 4000, Second: 8, Cases: proofCases(), Ends: map[string]tasks.State{
		"copy into a full domain": tasks.Recovered, "copy an image into a full domain": tasks.Recovered, "merge in a full domain": tasks.Recovered,
	}})
}
