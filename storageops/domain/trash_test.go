package domain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
)

func entryFile(task, name string) string { return trashDir + "/" + task + "/" + name }

func TestManifest(t *testing.T) {
	x := newFixture(t)
	deadline := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	x.must(put(Entry{Label: "leaf", Image: imgA, Volume: volLeaf, Deadline: deadline}, Entry{Label: "b", Image: imgB})(x.d))
	m, err := x.d.Trash().Manifest(taskOne)
	x.must(err)
	if m.Task != taskOne || m.Agent != "agent-under-test" || !m.Deadline.Equal(deadline) || m.Created.IsZero() || len(m.Items) != 2 {
		t.Fatalf("got %+v", m)
	}
	var got []string
	for _, it := range m.Items {
		got = append(got, fmt.Sprint(it.Label, it.Kind, it.Image, it.Volume, it.Dir, len(it.Files)))
	}
	want := []string{fmt.Sprint("leaf", KindVolume, imgA, volLeaf, "0", 2), fmt.Sprint("b", KindImage, imgB, "", "1", 4)}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	has, err := x.d.Trash().Has(taskOne)
	if err != nil || !has {
		t.Fatalf("has %t, %v", has, err)
	}
	if has, err = x.d.Trash().Has(taskTwo); err != nil || has {
		t.Fatalf("has %t, %v", has, err)
	}
	if _, err = x.d.Trash().Manifest(taskTwo); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	// The trash is invisible to everything else.
	if _, err = x.d.ReadVolume(imgA, volLeaf); code.Of(err) != code.VolumeDoesNotExist {
		t.Fatal(err)
	}
	if images, err := x.d.Images(); err != nil || slices.Contains(images, imgB) {
		t.Fatal(images, err)
	}
}

func TestPutRefuses(t *testing.T) {
	x := newFixture(t)
	x.must(put(Entry{Label: "one", Image: imgA, Volume: volLeaf})(x.d))
	x.must(os.Mkdir(x.path(imageDir(imgB)+"/lost+found"), dirMode))
	before := x.snapshot(true)
	wantCode(t, put(Entry{Label: "one", Image: imgA, Volume: volBase})(x.d), code.TaskState, "one")
	wantCode(t, put(Entry{Label: "two", Image: imgA, Volume: volLeaf})(x.d), code.VolumeDoesNotExist)
	wantCode(t, put(Entry{Label: "three", Image: imgB})(x.d), code.ImageDelete, "lost+found")
	equal(t, "after refusals", x.snapshot(true), before)
}

// A copy with force puts the old destination away, and later perhaps its own, of the same name.
func TestOneOfTwoOfTheSameName(t *testing.T) {
	x := newFixture(t)
	before := x.snapshot(true)
	x.must(put(Entry{Label: "old", Image: imgA, Volume: volLeaf})(x.d))
	x.volume(imgA, volLeaf, BlankUUID, Leaf)
	wantCode(t, restore(x.d), code.TaskState, "taken", volLeaf)
	x.must(put(Entry{Label: "own", Image: imgA, Volume: volLeaf})(x.d))
	both := x.snapshot(true)
	wantCode(t, restore(x.d), code.TaskState, "twice", volLeaf)
	equal(t, "after a refusal", x.snapshot(true), both)
	old := func(it Item) bool { return it.Label == "old" }
	for range 2 { // the label that is back already is nothing to do
		x.must(x.d.Trash().Restore(taskOne, old))
	}
	m, err := x.d.Trash().Manifest(taskOne)
	x.must(err)
	if len(m.Items) != 1 || m.Items[0].Label != "own" {
		t.Fatalf("left in the trash: %+v", m.Items)
	}
	x.must(x.d.Trash().Remove(context.Background(), taskOne, nil))
	equal(t, "old one back, own one gone", x.snapshot(true), before)
}

func TestRestoreReplacesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []Entry
		take func(x *fixture)
		says string
	}{
		{"data file", []Entry{{Label: "v", Image: imgA, Volume: volLeaf}},
			func(x *fixture) { x.put(volumeFile(imgA, volLeaf), "new", dataMode) }, volLeaf},
		{"metadata", []Entry{{Label: "v", Image: imgA, Volume: volLeaf}},
			func(x *fixture) { x.put(metaFile(imgA, volLeaf), "new", metaMode) }, volLeaf + ".meta"},
		{"a symbolic link", []Entry{{Label: "v", Image: imgA, Volume: volLeaf}},
			func(x *fixture) { x.must(os.Symlink("/nowhere", x.path(volumeFile(imgA, volLeaf)))) }, volLeaf},
		{"an empty image", []Entry{{Label: "i", Image: imgA}},
			func(x *fixture) { x.must(os.Mkdir(x.path(imageDir(imgA)), dirMode)) }, imgA},
		{"an image", []Entry{{Label: "i", Image: imgB}}, func(x *fixture) { x.volume(imgB, nowhere, BlankUUID, Leaf) }, imgB},
		{"the second of two items", []Entry{{Label: "v", Image: imgA, Volume: volLeaf}, {Label: "i", Image: imgB}},
			func(x *fixture) { x.must(os.Mkdir(x.path(imageDir(imgB)), dirMode)) }, imgB},
		{"the first of two items", []Entry{{Label: "v", Image: imgA, Volume: volLeaf}, {Label: "i", Image: imgB}},
			func(x *fixture) { x.put(volumeFile(imgA, volLeaf), "new", dataMode) }, volLeaf},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			x.must(put(c.in...)(x.d))
			c.take(x)
			before := x.snapshot(true)
			wantCode(t, restore(x.d), code.TaskState, "taken", c.says)
			equal(t, "after the refusal", x.snapshot(true), before)
		})
	}
}

// Somebody takes the place while a restore that died waits to be repeated.
func TestTakenBetweenTwoRestores(t *testing.T) {
	memory := memoryFS(t)
	for n := 1; ; n++ {
		x := newFixtureInMemory(t, memory)
		x.must(put(Entry{Label: "i", Image: imgA})(x.d))
		f := &faults{nth: n}
		x.inject(f)
		if restore(x.d); !f.hit {
			t.Logf("%d changes", n-1)
			return
		}
		x.restart()
		_, err := x.d.Trash().Manifest(taskOne)
		done := errors.Is(err, fs.ErrNotExist) // only the empty entry was left to remove
		x.put("other", "new", metaMode)
		x.must(os.MkdirAll(x.path(imageDir(imgA)), dirMode))
		x.must(os.Rename(x.path("other"), x.path(metaFile(imgA, volLeaf))))
		if err = restore(x.d); done {
			x.must(err)
		} else {
			wantCode(t, err, code.TaskState, "taken")
		}
		if got, err := os.ReadFile(x.path(metaFile(imgA, volLeaf))); err != nil || string(got) != "new" {
			t.Fatalf("change %d: %q, %v", n, got, err)
		}
	}
}

// A Put dies before the first file moves; the step before it is repeated and rewrites the metadata; then Put is
// repeated. Its manifest must know the new file, or a restore that dies half-way takes it for a stranger's.
func TestPutOfWhatWasRewrittenMeanwhile(t *testing.T) {
	memory := memoryFS(t)
	for _, e := range []Entry{{Label: "v", Image: imgA, Volume: volLeaf}, {Label: "i", Image: imgA}} {
		for n := 1; ; n++ {
			x := newFixtureInMemory(t, memory)
			x.d.t.step = func(op, name string) error {
				if op == "rename" && strings.HasPrefix(name, imagesDir) {
					return errFault
				}
				return nil
			}
			if err := put(e)(x.d); !errors.Is(err, errFault) {
				t.Fatal(err)
			}
			x.restart()
			x.must(setLegality(imgA, volLeaf, Illegal)(x.d))
			x.must(put(e)(x.d))
			f := &faults{nth: n}
			x.inject(f)
			err := restore(x.d)
			x.restart()
			if f.hit {
				err = restore(x.d)
			}
			x.must(err)
			if m, err := x.d.ReadVolume(imgA, volLeaf); err != nil || m.Legality != Illegal {
				t.Fatal(m.Legality, err)
			}
			if !f.hit {
				break
			}
		}
	}
}

// An NFS server that carried a rename out and is asked again answers that there is no such file.
func TestRenameThatWasSentTwice(t *testing.T) {
	for _, e := range []Entry{{Label: "v", Image: imgA, Volume: volLeaf}, {Label: "i", Image: imgA}} {
		x := newFixture(t)
		before := x.snapshot(true)
		moved := 0
		x.d.t.step = func(op, name string) error {
			from, to, _ := strings.Cut(name, " to ")
			if op == "rename" && strings.HasPrefix(from, imagesDir) {
				moved++
				return os.Rename(x.path(from), x.path(to))
			}
			return nil
		}
		x.must(put(e)(x.d))
		if moved == 0 {
			t.Fatal("nothing moved")
		}
		x.must(restore(x.d))
		equal(t, "after the restore", x.snapshot(true), before)
	}
}

func TestRestoreKeepsTheDirectory(t *testing.T) {
	x := newFixture(t)
	dir := x.path(imageDir(imgA))
	at := time.Unix(1600000000, 987654321)
	x.must(os.Chmod(dir, 0o2775))
	x.must(os.Chtimes(dir, time.Time{}, at))
	before, err := os.Lstat(dir)
	x.must(err)
	x.must(put(Entry{Label: "i", Image: imgA})(x.d))
	x.must(restore(x.d))
	after, err := os.Lstat(dir)
	x.must(err)
	if after.Mode().Perm() != before.Mode().Perm() || !after.ModTime().Equal(at) {
		t.Fatalf("%s %s, was %s %s", after.Mode(), after.ModTime(), before.Mode(), at)
	}
}

func TestRestoreOfWhatIsLost(t *testing.T) {
	x := newFixture(t)
	x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d))
	x.must(os.Remove(x.path(entryFile(taskOne, "0/"+volLeaf))))
	before := x.snapshot(true)
	wantCode(t, restore(x.d), code.TaskState, volLeaf, "neither")
	equal(t, "after the refusal", x.snapshot(true), before)
	x.must(x.d.Trash().Restore(taskTwo, nil)) // nothing there is nothing to do
}

func TestManifestsThatCannotBeBelieved(t *testing.T) {
	good := func(x *fixture) Manifest {
		m, err := x.d.Trash().Manifest(taskOne)
		x.must(err)
		return m
	}
	for _, c := range []struct {
		name string
		text func(x *fixture) string
		says string
	}{
		{"no JSON", func(*fixture) string { return "{" }, "cannot be read"},
		{"newer", func(*fixture) string { return `{"version": 2}` }, "version 2"},
		{"of another task", func(x *fixture) string { m := good(x); m.Task = taskTwo; return asJSON(m) }, taskTwo},
		{"a path out of it", func(x *fixture) string {
			m := good(x)
			m.Items[0].Files[0].Name = "../../../../etc/passwd"
			return asJSON(m)
		}, "passwd"},
		{"an image that is none", func(x *fixture) string { m := good(x); m.Items[0].Image = "../dom_md"; return asJSON(m) }, "dom_md"},
		{"a directory that is none", func(x *fixture) string { m := good(x); m.Items[0].Dir = "../0"; return asJSON(m) }, "../0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d))
			x.put(entryFile(taskOne, manifestName), c.text(x), metaMode)
			wantCode(t, restore(x.d), code.TaskState, c.says)
			wantCode(t, put(Entry{Label: "w", Image: imgA, Volume: volBase})(x.d), code.TaskState, c.says)
			entries, err := x.d.Trash().List()
			x.must(err)
			if len(entries) != 1 || !strings.Contains(entries[0].Problem, c.says) || entries[0].Bytes == 0 {
				t.Fatalf("got %+v", entries)
			}
			x.must(x.d.Trash().Remove(context.Background(), taskOne, nil)) // an administrator can still empty it
			if x.exists(trashDir + "/" + taskOne) {
				t.Fatal("it is still there")
			}
		})
	}
}

func asJSON(m Manifest) string {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func TestTrashList(t *testing.T) {
	x := newFixture(t)
	x.must(os.Mkdir(x.path(trashDir+"/"+nowhere), dirMode)) // of a Put that died first
	x.must(os.MkdirAll(x.path(trashDir+"/of somebody"), dirMode))
	x.put(trashDir+"/of somebody/file", "x", metaMode)
	x.allocate(volumeFile(imgA, volLeaf), 1<<20)
	x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf})(x.d))
	e := Entry{Task: taskTwo, Label: "i", Image: imgC} // only a template's links: frees nothing
	x.must(x.d.Trash().Put(e))
	entries, err := x.d.Trash().List()
	x.must(err)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprint(e.Task, " ", len(e.Items), " ", e.Bytes>>20, " ", e.Problem))
	}
	want := []string{taskOne + " 1 1 ", taskTwo + " 1 0 ", "of somebody 0 0 it has no manifest"}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestRemoveGoesInPieces(t *testing.T) {
	x := newFixture(t)
	const size = 3*reclaimPiece + 4096
	x.allocate(volumeFile(imgA, volLeaf), size)
	x.allocate(volumeFile(imgTmpl, volTmpl), 2*reclaimPiece) // has further names, so nothing of it may be freed
	template, err := x.d.Fingerprint(imgTmpl, volTmpl)
	x.must(err)
	x.must(put(Entry{Label: "v", Image: imgA, Volume: volLeaf}, Entry{Label: "b", Image: imgB})(x.d))
	entries, err := x.d.Trash().List()
	x.must(err)
	total := entries[0].Bytes

	// Stopped at every report of progress, and started again.
	stopped := errors.New("stopped")
	var freed int64
	runs := 0
	for ; ; runs++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		var run int64
		err := x.d.Trash().Remove(ctx, taskOne, func(n int64) {
			if n <= run || n-run > reclaimPiece+1<<20 {
				t.Errorf("reports %d after %d", n, run)
			}
			run = n
			cancel(stopped)
		})
		freed += run
		if err == nil {
			break
		}
		if err != stopped {
			t.Fatal(err)
		}
		wantCode(t, restore(x.d), code.TaskState, "reclaimed")
		wantCode(t, put(Entry{Label: "c", Image: imgC})(x.d), code.TaskState, "reclaimed")
		entries, err := x.d.Trash().List()
		x.must(err)
		if len(entries) != 1 || !entries[0].Reclaiming || len(entries[0].Items) != 2 || entries[0].Bytes != total-freed {
			t.Fatalf("after %d of %d bytes: %+v", freed, total, entries)
		}
	}
	if freed != total || runs < 4 {
		t.Fatalf("freed %d of %d in %d runs", freed, total, runs)
	}
	if x.exists(trashDir + "/" + taskOne) {
		t.Fatal("the entry is still there")
	}
	now, err := x.d.Fingerprint(imgTmpl, volTmpl)
	x.must(err)
	equal(t, "the template", template.Differs(now), "its data file was changed (mode, owner or links)")
}

func TestRemoveOfNothing(t *testing.T) {
	x := newFixture(t)
	before := x.snapshot(true)
	x.must(x.d.Trash().Remove(context.Background(), taskOne, nil))
	equal(t, "after it", x.snapshot(true), before)
}

func TestTmpIsEmptiedByTheNextClaim(t *testing.T) {
	x := newFixture(t)
	x.put(tmpDir+"/left", "", metaMode)
	x.must(os.Mkdir(x.path(tmpDir+"/dir"), dirMode))
	x.restart()
	if x.exists(tmpDir+"/left") || x.exists(tmpDir+"/dir") {
		t.Fatal("still there")
	}
}
