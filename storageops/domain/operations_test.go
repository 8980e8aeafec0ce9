package domain

import (
	"context"
	"os"

	"vdsm-agent/internal/code"
)

func setLegality(img, vol, legality string) func(*Domain) error {
	return func(d *Domain) error {
		return d.UpdateVolumeMeta(img, vol, func(m *VolumeMeta) error {
			m.Legality = legality
			return nil
		})
	}
}

func put(entries ...Entry) func(*Domain) error {
	return func(d *Domain) error {
		for _, e := range entries {
			e.Task = taskOne
			if err := d.Trash().Put(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func restore(d *Domain) error { return d.Trash().Restore(taskOne, nil) }

// operations are all changes a domain can see, each with its inverse. TestDyingAnywhere runs them.
var operations = []operation{
	{
		name: "metadata of a volume",
		do:   setLegality(imgA, volLeaf, Illegal),
		undo: setLegality(imgA, volLeaf, Legal),
	},
	{
		name: "metadata of a template, linked into two images",
		do:   setLegality(imgTmpl, volTmpl, Illegal),
		undo: setLegality(imgTmpl, volTmpl, Legal),
	},
	{
		name: "metadata of a template, written by a derived image's name",
		do:   setLegality(imgB, volTmpl, Illegal),
		undo: setLegality(imgTmpl, volTmpl, Legal),
	},
	{
		name: "metadata of a new volume",
		do:   func(d *Domain) error { return d.WriteVolumeMeta(imgA, nowhere, testMeta(imgA, volLeaf, Leaf)) },
	},
	{
		name: "metadata of the domain",
		do: func(d *Domain) error {
			return d.UpdateMeta(func(m *DomainMeta) error { m.Name = "new"; return nil })
		},
		undo: func(d *Domain) error {
			return d.UpdateMeta(func(m *DomainMeta) error { m.Name = "local"; return nil })
		},
	},
	{
		name: "image directory",
		do:   func(d *Domain) error { _, err := d.CreateImageDir(nowhere); return err },
		undo: func(d *Domain) error { return d.RemoveImageDirIfEmpty(nowhere) },
	},
	{
		name: "image directory of the configured owner",
		setup: func(x *fixture) {
			x.owner = Owner{36, 36}
			x.restart()
		},
		do:   func(d *Domain) error { _, err := d.CreateImageDir(nowhere); return err },
		undo: func(d *Domain) error { return d.RemoveImageDirIfEmpty(nowhere) },
	},
	{
		name: "mode of a volume",
		setup: func(x *fixture) {
			x.owner = Owner{36, 36}
			x.restart()
			x.must(os.Chmod(x.path(volumeFile(imgA, volLeaf)), 0o600))
		},
		do: func(d *Domain) error { return d.SetMode(imgA, volLeaf) },
	},
	{
		name: "contents of a volume that is no disk",
		setup: func(x *fixture) {
			x.must(x.d.ReplaceContents(imgA, volLeaf, nil, Shape{Length: 8192}))
		},
		do:   func(d *Domain) error { return d.ReplaceContents(imgA, volLeaf, []byte("state"), Shape{Length: 8192}) },
		undo: func(d *Domain) error { return d.ReplaceContents(imgA, volLeaf, nil, Shape{Length: 8192}) },
	},
	{
		name: "share of a template",
		setup: func(x *fixture) {
			x.must(os.Mkdir(x.path(imageDir(nowhere)), dirMode))
			x.put(volumeFile(imgTmpl, volTmpl)+leaseSuffix, "lease", dataMode)
		},
		do:   func(d *Domain) error { return d.ShareTemplate(imgTmpl, volTmpl, nowhere) },
		undo: func(d *Domain) error { return d.UnshareTemplate(imgTmpl, volTmpl, nowhere) },
	},
	{
		name: "share of a template whose metadata was cut off",
		setup: func(x *fixture) {
			x.must(os.Remove(x.path(metaFile(imgC, volTmpl))))
			x.put(metaFile(imgC, volTmpl), "old", metaMode)
		},
		do: func(d *Domain) error { return d.ShareTemplate(imgTmpl, volTmpl, imgC) },
	},
	{
		name:  "trash of a volume",
		do:    put(Entry{Label: "v", Image: imgA, Volume: volLeaf}),
		undo:  restore,
		times: true,
	},
	{
		name:  "trash of a volume with a lease",
		setup: func(x *fixture) { x.put(volumeFile(imgA, volLeaf)+leaseSuffix, "lease", dataMode) },
		do:    put(Entry{Label: "v", Image: imgA, Volume: volLeaf}),
		undo:  restore,
		times: true,
	},
	{
		name:  "trash of a volume without metadata",
		setup: func(x *fixture) { x.must(os.Remove(x.path(metaFile(imgA, volLeaf)))) },
		do:    put(Entry{Label: "v", Image: imgA, Volume: volLeaf}),
		undo:  restore,
		times: true,
	},
	{
		name:  "trash of an image",
		do:    put(Entry{Label: "i", Image: imgA}),
		undo:  restore,
		times: true,
	},
	{
		name:  "trash of an image with a template's links",
		do:    put(Entry{Label: "i", Image: imgB}),
		undo:  restore,
		times: true,
	},
	{
		name: "trash of an image of somebody else",
		setup: func(x *fixture) {
			x.must(os.Chown(x.path(imageDir(imgA)), 36, 36))
			x.must(os.Chmod(x.path(imageDir(imgA)), 0o775))
		},
		do:    put(Entry{Label: "i", Image: imgA}),
		undo:  restore,
		times: true,
	},
	{
		name: "trash of two volumes, then of the rest of the image",
		do: put(Entry{Label: "leaf", Image: imgA, Volume: volLeaf}, Entry{Label: "base", Image: imgA, Volume: volBase},
			Entry{Label: "rest", Image: imgA}),
		undo:  restore,
		times: true,
		done:  func(err error) bool { return code.Of(err) == code.ImageDoesNotExist },
	},
	{
		name: "trash of the last volume, with its image directory",
		do: func(d *Domain) error {
			if err := put(Entry{Label: "v", Image: imgTmpl, Volume: volTmpl})(d); err != nil {
				return err
			}
			return d.RemoveImageDirIfEmpty(imgTmpl)
		},
		undo:  restore,
		times: true,
	},
	{
		name:  "trash of files that are no volume's",
		setup: func(x *fixture) { x.put(imageDir(imgA)+"/x.tmp", "x", 0o600); x.put(imagesDir+"/y", "y", 0o644) },
		do:    put(Entry{Label: "x", Path: imageDir(imgA) + "/x.tmp"}, Entry{Label: "y", Path: imagesDir + "/y"}),
		undo:  restore,
		times: true,
	},
	{
		name: "trash of the only file in an image, with its directory",
		setup: func(x *fixture) {
			x.must(os.Mkdir(x.path(imageDir(nowhere)), 0o750))
			x.put(imageDir(nowhere)+"/x.tmp", "x", 0o600)
		},
		do: func(d *Domain) error {
			if err := put(Entry{Label: "x", Path: imageDir(nowhere) + "/x.tmp"})(d); err != nil {
				return err
			}
			return d.RemoveImageDirIfEmpty(nowhere)
		},
		undo:  restore,
		times: true,
	},
	{
		name: "trash of an image that VDSM was deleting, and of one of its tasks",
		setup: func(x *fixture) {
			x.must(os.Rename(x.path(imageDir(imgA)), x.path(imagesDir+"/_remove_me_"+imgA)))
			x.must(os.MkdirAll(x.path(tasksDir+"/"+nowhere), dirMode))
			x.put(tasksDir+"/"+nowhere+"/"+nowhere+".task", "id = "+nowhere, metaMode)
		},
		do:    put(Entry{Label: "i", Path: imagesDir + "/_remove_me_" + imgA}, Entry{Label: "t", Path: tasksDir + "/" + nowhere}),
		undo:  restore,
		times: true,
	},
	{
		name: "metadata as text",
		do:   func(d *Domain) error { return d.SetMetaText(imgA, volLeaf, []byte("CAP=1\n")) },
	},
	{
		name:  "mode and owner",
		setup: func(x *fixture) { x.must(os.Chmod(x.path(volumeFile(imgA, volLeaf)), 0o600)) },
		do: func(d *Domain) error {
			return d.SetPermissions(volumeFile(imgA, volLeaf), Permissions{dataMode, 36, 36})
		},
		undo: func(d *Domain) error {
			return d.SetPermissions(volumeFile(imgA, volLeaf), Permissions{0o600, os.Getuid(), os.Getgid()})
		},
	},
	{
		name: "a template's link that was missing",
		setup: func(x *fixture) {
			x.must(os.Remove(x.path(volumeFile(imgB, volTmpl))))
			x.must(os.Remove(x.path(metaFile(imgB, volTmpl))))
		},
		do:   func(d *Domain) error { return d.ShareTemplate(imgTmpl, volTmpl, imgB) },
		undo: func(d *Domain) error { return d.SetShare(imgTmpl, volTmpl, imgB, Share{}) },
	},
	{
		name: "a template's metadata that was cut off",
		setup: func(x *fixture) {
			x.must(os.Remove(x.path(metaFile(imgB, volTmpl))))
			x.put(metaFile(imgB, volTmpl), "old", metaMode)
		},
		do: func(d *Domain) error { return d.ShareTemplate(imgTmpl, volTmpl, imgB) },
		undo: func(d *Domain) error {
			return d.SetShare(imgTmpl, volTmpl, imgB, Share{Data: true, Own: []byte("old")})
		},
	},
	{
		name: "restore of one of two items",
		setup: func(x *fixture) {
			x.must(put(Entry{Label: "old", Image: imgA, Volume: volLeaf}, Entry{Label: "other", Image: imgB})(x.d))
		},
		do: func(d *Domain) error {
			return d.Trash().Restore(taskOne, func(it Item) bool { return it.Label == "old" })
		},
		times: true,
	},
	{
		name: "restore of an image whose template was rewritten meanwhile",
		setup: func(x *fixture) {
			x.must(put(Entry{Label: "i", Image: imgB})(x.d))
			x.must(setLegality(imgTmpl, volTmpl, Illegal)(x.d))
		},
		do: restore,
	},
	{
		name: "reclaim of two items",
		setup: func(x *fixture) {
			x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf}, Entry{Label: "i", Image: imgB})(x.d))
		},
		do: func(d *Domain) error { return d.Trash().Remove(context.Background(), taskOne, nil) },
	},
	{
		name: "reclaim of a large file",
		setup: func(x *fixture) {
			x.allocate(volumeFile(imgA, volLeaf), 2*reclaimPiece+4096)
			x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d))
		},
		do:     func(d *Domain) error { return d.Trash().Remove(context.Background(), taskOne, nil) },
		onDisk: true,
	},
}
