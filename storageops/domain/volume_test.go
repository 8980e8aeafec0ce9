package domain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
)

func TestListing(t *testing.T) {
	x := newFixture(t)
	// What VDSM's own deletes, crashes and administrators leave is none of the images and volumes.
	x.must(os.Mkdir(x.path("images/_remove_me_"+nowhere), dirMode))
	x.put("images/file-with-four-dashes-x", "", metaMode)
	x.put(metaFile(imgA, nowhere)+".new", "", metaMode)
	x.put(imageDir(imgA)+"/notes.meta", "", metaMode)
	x.put(volumeFile(imgA, nowhere), "no metadata", dataMode)

	images, err := x.d.Images()
	x.must(err)
	if want := []string{imgA, imgB, imgC, imgTmpl}; !slices.Equal(images, want) {
		t.Fatalf("images %v, want %v", images, want)
	}
	for img, want := range map[string][]string{
		"": {volBase, volLeaf, volTmpl, volChild}, imgA: {volBase, volLeaf}, imgB: {volTmpl, volChild}, imgC: {volTmpl}, imgTmpl: {volTmpl},
	} {
		got, err := x.d.Volumes(img)
		x.must(err)
		if !slices.Equal(got, want) {
			t.Errorf("volumes of %q: %v, want %v", img, got, want)
		}
	}
	_, err = x.d.Volumes(nowhere)
	wantCode(t, err, code.ImageDoesNotExist, nowhere, sdUUID)
}

// Every method that takes an image and a volume answers the same for names that are not there or not names.
func TestUnknownNames(t *testing.T) {
	x := newFixture(t)
	for name, f := range map[string]func(img, vol string) error{
		"ReadVolume":  func(i, v string) error { _, err := x.d.ReadVolume(i, v); return err },
		"VolumePath":  func(i, v string) error { _, err := x.d.VolumePath(i, v); return err },
		"Fingerprint": func(i, v string) error { _, err := x.d.Fingerprint(i, v); return err },
		"Chain":       func(i, v string) error { _, err := x.d.Chain(i, v); return err },
		"SharedBy":    func(i, v string) error { _, err := x.d.SharedBy(i, v); return err },
		"SetMode":     func(i, v string) error { return x.d.SetMode(i, v) },
		"Update":      func(i, v string) error { return setLegality(i, v, Legal)(x.d) },
		"Share":       func(i, v string) error { return x.d.ShareTemplate(i, v, imgA) },
		"Put":         func(i, v string) error { return put(Entry{Label: "x", Image: i, Volume: v})(x.d) },
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, f(imgA, nowhere), code.VolumeDoesNotExist, nowhere, imgA, sdUUID)
			wantCode(t, f(nowhere, volLeaf), code.ImageDoesNotExist, nowhere, sdUUID)
			wantCode(t, f("..", volLeaf), code.InvalidParameter, "UUID")
			wantCode(t, f(imgA, "../"+volLeaf[3:]), code.InvalidParameter, "UUID")
			wantCode(t, f(strings.ToUpper(imgA), volLeaf), code.InvalidParameter, "UUID")
		})
	}
	_, err := x.d.Children(nowhere, volLeaf)
	wantCode(t, err, code.ImageDoesNotExist)
	_, err = x.d.ImagePath(nowhere)
	wantCode(t, err, code.ImageDoesNotExist)
}

// Symbolic links are refused wherever one is put, also those that stay inside the domain.
func TestSymbolicLinksAreRefused(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name string
		make func(x *fixture)
		use  func(d *Domain) error
	}{
		{"data file", func(x *fixture) {
			x.must(os.Rename(x.path(volumeFile(imgA, volLeaf)), x.path(volumeFile(imgA, nowhere))))
			x.must(os.Symlink(nowhere, x.path(volumeFile(imgA, volLeaf))))
		}, func(d *Domain) error { _, err := d.VolumePath(imgA, volLeaf); return err }},
		{"metadata", func(x *fixture) {
			x.must(os.Remove(x.path(metaFile(imgA, volLeaf))))
			x.must(os.Symlink(volBase+".meta", x.path(metaFile(imgA, volLeaf))))
		}, func(d *Domain) error { _, err := d.ReadVolume(imgA, volLeaf); return err }},
		{"metadata that is written", func(x *fixture) {
			x.must(os.Remove(x.path(metaFile(imgA, volLeaf))))
			x.must(os.Symlink(volBase+".meta", x.path(metaFile(imgA, volLeaf))))
		}, func(d *Domain) error { return d.WriteVolumeMeta(imgA, volLeaf, testMeta(imgA, volBase, Leaf)) }},
		{"image", func(x *fixture) { x.must(os.Symlink(imgA, x.path(imageDir(nowhere)))) },
			func(d *Domain) error { _, err := d.ReadVolume(nowhere, volLeaf); return err }},
		{"image outside", func(x *fixture) { x.must(os.Symlink(outside, x.path(imageDir(nowhere)))) },
			func(d *Domain) error { _, err := d.Volumes(nowhere); return err }},
		{"image that is made", func(x *fixture) { x.must(os.Symlink(outside, x.path(imageDir(nowhere)))) },
			func(d *Domain) error { _, err := d.CreateImageDir(nowhere); return err }},
		{"in an image that is deleted", func(x *fixture) { x.must(os.Symlink(volBase, x.path(volumeFile(imgA, nowhere)))) },
			func(d *Domain) error {
				if err := put(Entry{Label: "i", Image: imgA})(d); code.Of(err) != code.ImageDelete {
					return err
				}
				return code.Errorf(code.DomainLayout, "refused as it should be")
			}},
		{"trash", func(x *fixture) { x.must(os.Remove(x.path(trashDir))); x.must(os.Symlink(outside, x.path(trashDir))) },
			put(Entry{Label: "i", Image: imgA})},
		{"entry of the trash", func(x *fixture) { x.must(os.Symlink(outside, x.path(trashDir+"/"+taskOne))) },
			put(Entry{Label: "i", Image: imgA})},
		{"domain metadata", func(x *fixture) {
			x.must(os.Rename(x.path(metadataFile), x.path("dom_md/other")))
			x.must(os.Symlink("other", x.path(metadataFile)))
		}, func(d *Domain) error { _, err := d.Info(); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			c.make(x)
			before := x.snapshot(true)
			wantCode(t, c.use(x.d), code.DomainLayout)
			equal(t, "after the refusal", x.snapshot(true), before)
		})
	}
}

func TestOtherSpecialFilesDoNotHang(t *testing.T) {
	x := newFixture(t)
	x.must(os.Remove(x.path(metaFile(imgA, volLeaf))))
	x.must(mkfifo(x.path(metaFile(imgA, volLeaf))))
	_, err := x.d.ReadVolume(imgA, volLeaf)
	wantCode(t, err, code.DomainLayout, "special file")
}

func TestUpdateThatIsRefusedWritesNothing(t *testing.T) {
	x := newFixture(t)
	before := x.snapshot(true)
	no := errors.New("no")
	if err := x.d.UpdateVolumeMeta(imgA, volLeaf, func(m *VolumeMeta) error { m.Legality = Illegal; return no }); err != no {
		t.Fatal(err)
	}
	err := x.d.UpdateVolumeMeta(imgA, volLeaf, func(m *VolumeMeta) error { m.Description = strings.Repeat("é", 210); return nil })
	wantCode(t, err, code.MetadataOverflow)
	err = x.d.UpdateVolumeMeta(imgA, volLeaf, func(m *VolumeMeta) error { m.Domain = nowhere; return nil })
	wantCode(t, err, code.InternalError)
	equal(t, "after refusals", x.snapshot(true), before)
}

func TestDamagedMetadataNamesTheVolume(t *testing.T) {
	x := newFixture(t)
	x.put(metaFile(imgA, volLeaf), "CAP=1\nEOF\n", metaMode)
	_, err := x.d.ReadVolume(imgA, volLeaf)
	wantCode(t, err, code.VolumeMetadataRead, volLeaf, imgA, sdUUID)
	_, err = x.d.Children(imgA, volBase) // it might be one
	wantCode(t, err, code.VolumeMetadataRead, volLeaf)
	x.put(metaFile(imgA, volLeaf), strings.Repeat("x", maxMetaRead+1), metaMode)
	_, err = x.d.ReadVolume(imgA, volLeaf)
	wantCode(t, err, code.Storage, volLeaf)
}

func TestImageDir(t *testing.T) {
	x := newFixture(t)
	for _, want := range []bool{true, false} {
		created, err := x.d.CreateImageDir(nowhere)
		x.must(err)
		if created != want {
			t.Fatalf("created %t, want %t", created, want)
		}
	}
	x.put(volumeFile(nowhere, volLeaf), "", dataMode)
	x.put(metaFile(nowhere, volLeaf)+".new", "", metaMode)
	x.must(x.d.RemoveImageDirIfEmpty(nowhere))
	if !x.exists(volumeFile(nowhere, volLeaf)) || !x.exists(metaFile(nowhere, volLeaf)+".new") {
		t.Fatal("an image with a volume lost something")
	}
	x.must(os.Remove(x.path(volumeFile(nowhere, volLeaf))))
	x.must(x.d.RemoveImageDirIfEmpty(nowhere))
	if x.exists(imageDir(nowhere)) {
		t.Fatal("an image with nothing but a half-made .meta.new of VDSM is still there")
	}
}

func TestChain(t *testing.T) {
	x := newFixture(t)
	chain, err := x.d.Chain(imgA, volLeaf)
	x.must(err)
	equal(t, "chain", names(chain), volLeaf+" "+volBase)
	if chain[0].Path != x.path(volumeFile(imgA, volLeaf)) || chain[0].Meta.VolType != Leaf {
		t.Fatalf("got %+v", chain[0])
	}
	chain, err = x.d.Chain(imgB, volChild)
	x.must(err)
	equal(t, "chain into a template", names(chain), volChild+" "+volTmpl)
	if chain[1].Meta.Image != imgTmpl || chain[1].Path != x.path(volumeFile(imgB, volTmpl)) {
		t.Fatalf("got %+v", chain[1])
	}
	children, err := x.d.Children(imgA, volBase)
	x.must(err)
	if !slices.Equal(children, []string{volLeaf}) {
		t.Fatalf("children %v", children)
	}

	x.volume(imgA, volBase, volLeaf, Internal)
	_, err = x.d.Chain(imgA, volLeaf)
	wantCode(t, err, code.ImageIsNotLegalChain, "loop")
	x.volume(imgA, volBase, nowhere, Internal)
	_, err = x.d.Chain(imgA, volLeaf)
	wantCode(t, err, code.ImageIsNotLegalChain, nowhere, volBase, "missing")
	x.must(os.Remove(x.path(volumeFile(imgA, volBase)))) // only its metadata is left
	_, err = x.d.Chain(imgA, volLeaf)
	wantCode(t, err, code.ImageIsNotLegalChain, volBase, "missing")
}

func names(chain []ChainLink) string {
	var s []string
	for _, link := range chain {
		s = append(s, link.Volume)
	}
	return strings.Join(s, " ")
}

func TestTemplates(t *testing.T) {
	x := newFixture(t)
	shared, err := x.d.SharedBy(imgTmpl, volTmpl)
	x.must(err)
	if !slices.Equal(shared, []string{imgB, imgC}) {
		t.Fatalf("shared by %v", shared)
	}
	shared, err = x.d.SharedBy(imgA, volLeaf)
	x.must(err)
	if shared != nil {
		t.Fatalf("shared by %v", shared)
	}
	wantCode(t, x.d.ShareTemplate(imgA, volLeaf, imgC), code.IncorrectType, volLeaf)
	wantCode(t, x.d.ShareTemplate(imgTmpl, volTmpl, imgTmpl), code.IncorrectType)
	wantCode(t, x.d.UnshareTemplate(imgTmpl, volTmpl, imgB), code.VolumeImageHasChild, volChild)
	wantCode(t, x.d.UnshareTemplate(imgTmpl, volTmpl, imgTmpl), code.VolumeAlreadyExists)
	x.must(x.d.UnshareTemplate(imgTmpl, volTmpl, nowhere)) // an image that is not there shares nothing

	x.volume(imgA, volTmpl, BlankUUID, Shared) // another volume that took the template's name
	before := x.snapshot(true)
	wantCode(t, x.d.ShareTemplate(imgTmpl, volTmpl, imgA), code.VolumeAlreadyExists)
	wantCode(t, x.d.UnshareTemplate(imgTmpl, volTmpl, imgA), code.VolumeAlreadyExists)
	equal(t, "after refusals", x.snapshot(true), before)
}

// A template's metadata is one file under all its names, whatever the rewrite went through.
func TestTemplateMetadataReachesEveryImage(t *testing.T) {
	x := newFixture(t)
	same := func(legality string) {
		t.Helper()
		own, err := os.Lstat(x.path(metaFile(imgTmpl, volTmpl)))
		x.must(err)
		for _, img := range []string{imgB, imgC} {
			fi, err := os.Lstat(x.path(metaFile(img, volTmpl)))
			x.must(err)
			m, err := x.d.ReadVolume(img, volTmpl)
			x.must(err)
			if !os.SameFile(own, fi) || linkCount(fi) != 3 || m.Legality != legality {
				t.Fatalf("image %s: same %t, links %d, %s", img, os.SameFile(own, fi), linkCount(fi), m.Legality)
			}
		}
	}
	same(Legal)
	x.must(setLegality(imgTmpl, volTmpl, Illegal)(x.d))
	same(Illegal)
	x.must(setLegality(imgB, volTmpl, Legal)(x.d)) // by another name
	same(Legal)
	x.must(put(Entry{Label: "i", Image: imgB}, Entry{Label: "v", Image: imgC, Volume: volTmpl})(x.d))
	x.must(setLegality(imgTmpl, volTmpl, Illegal)(x.d)) // while two names are in the trash
	x.must(restore(x.d))
	same(Illegal)
}

func TestFingerprint(t *testing.T) {
	x := newFixture(t)
	data, meta := x.path(volumeFile(imgTmpl, volTmpl)), x.path(metaFile(imgTmpl, volTmpl))
	for _, c := range []struct {
		name string
		do   func()
		says string
	}{
		{"nothing", func() {}, ""},
		{"a share", func() {
			x.must(os.Mkdir(x.path(imageDir(nowhere)), dirMode))
			x.must(x.d.ShareTemplate(imgTmpl, volTmpl, nowhere))
		}, "links"},
		{"a longer file", func() { x.must(os.Truncate(data, 1<<20)) }, "bytes"},
		{"a write", func() { x.must(os.Chtimes(data, time.Time{}, time.Unix(1, 1))) }, "written"},
		{"a mode", func() { x.must(os.Chmod(data, 0o600)) }, "mode"},
		{"another file", func() {
			x.must(os.WriteFile(data+"x", make([]byte, 1<<20), 0o600))
			x.must(os.Rename(data+"x", data))
		}, "replaced"},
		{"new metadata", func() { x.must(setLegality(imgTmpl, volTmpl, Illegal)(x.d)) }, "metadata was replaced"},
		{"metadata written in place", func() { x.must(os.Truncate(meta, 3)) }, "metadata had"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := x.d.Fingerprint(imgTmpl, volTmpl)
			x.must(err)
			stored, err := json.Marshal(before)
			x.must(err)
			c.do()
			after, err := x.d.Fingerprint(imgTmpl, volTmpl)
			x.must(err)
			var again Fingerprint
			x.must(json.Unmarshal(stored, &again))
			if again != before {
				t.Fatalf("stored as %s, comes back as %+v", stored, again)
			}
			got := again.Differs(after)
			if !strings.Contains(got, c.says) || (got == "") != (c.says == "") || (got == "") != (again == after) {
				t.Fatalf("says %q, want %q", got, c.says)
			}
		})
	}
	x.must(os.Remove(meta))
	_, err := x.d.Fingerprint(imgTmpl, volTmpl)
	wantCode(t, err, code.VolumeDoesNotExist, "metadata there: false")
}

// manyVolumes makes images of one volume each, and one chain, without syncing anything.
func (x *fixture) manyVolumes(images, length int) (leaf string) {
	x.t.Helper()
	for i := range images {
		img := fmt.Sprintf("abababab-0000-4000-8000-%012d", i)
		x.volume(img, fmt.Sprintf("cdcdcdcd-0000-4000-8000-%012d", i), BlankUUID, Leaf)
	}
	parent := BlankUUID
	for i := range length {
		leaf = fmt.Sprintf("efefefef-0000-4000-8000-%012d", i)
		x.volume(nowhere, leaf, parent, Internal)
		parent = leaf
	}
	return leaf
}

func TestChainOf200(t *testing.T) {
	x := newFixture(t)
	leaf := x.manyVolumes(0, 200)
	chain, err := x.d.Chain(nowhere, leaf)
	x.must(err)
	if len(chain) != 200 {
		t.Fatalf("%d links", len(chain))
	}
}

// The limits to design for: 1,000 volumes listed in 50 ms, a chain of 200.
func BenchmarkListing(b *testing.B) {
	x := benchFixture(b)
	leaf := x.manyVolumes(800, 200)
	b.Run("volumes of a domain", func(b *testing.B) {
		for b.Loop() {
			if v, err := x.d.Volumes(""); err != nil || len(v) < 1000 {
				b.Fatal(len(v), err)
			}
		}
	})
	b.Run("chain", func(b *testing.B) {
		for b.Loop() {
			if _, err := x.d.Chain(nowhere, leaf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := x.reg.Get(sdUUID); err != nil {
				b.Fatal(err)
			}
		}
	})
}
