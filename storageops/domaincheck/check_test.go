package domaincheck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
	"vdsm-agent/storageops/vdsmtasks"

	"golang.org/x/sys/unix"
)

func meta(img, vol string) string { return "images/" + img + "/" + vol + ".meta" }
func data(img, vol string) string { return "images/" + img + "/" + vol }

// trashed is an entry of the trash.
func (x *fixture) trashed(deadline time.Time) {
	x.put(".vdsm-agent/trash/"+task+"/0/x", "x")
	x.put(".vdsm-agent/trash/"+task+"/manifest.json", fmt.Sprintf(
		`{"version":1,"task":%q,"agent":"a","deadline":%q,"items":[{"kind":"image","image":%q,"dir":"0","files":[{"name":"x"}]}]}`,
		task, deadline.Format(time.RFC3339), other))
}

// vdsmTask is what VDSM leaves of a task that made a volume.
func (x *fixture) vdsmTask(img, vol string) {
	dir := "master/tasks/" + task + "/" + task
	x.put(dir+".task", "id = "+task+"\nname = createVolume\nstate = running\nnjobs = 0\nnrecoveries = 1\n")
	x.put(dir+".recover.0", "name = r\nmoduleName = fileVolume\nobject = FileVolume\nfunction = createVolumeRollback\nparams = "+sd+","+img+","+vol+"\n")
}

// cases are one way for each class to come about, with all that is found then. Those with "deep" let qemu-img look.
var cases = []struct {
	class Class
	make  func(x *fixture)
	found string
	deep  bool
	o     Options
}{
	{class: "stray-directory", make: func(x *fixture) { x.remove(meta(imgRaw, raw)); x.must(os.Mkdir(x.at(meta(imgRaw, raw)), 0o755)) },
		found: "orphan-data images/IMG_RAW/RAW trash\nstray-directory images/IMG_RAW/RAW.meta"},
	{class: "domain-metadata", make: func(x *fixture) {
		x.edit("dom_md/metadata", "SDUUID", "SDUUIX")
		x.edit("dom_md/metadata", "_SHA_CKSUM", "OLD")
	},
		found: "domain-metadata dom_md/metadata"},
	{class: "domain-checksum", make: func(x *fixture) { x.edit("dom_md/metadata", "DESCRIPTION=sound", "DESCRIPTION=edited") }, found: "domain-checksum dom_md/metadata"},
	{class: "domain-id", make: func(x *fixture) {
		x.must(os.Rename(x.path, filepath.Join(x.root, other)))
		x.path = filepath.Join(x.root, other)
	}, found: "domain-id dom_md/metadata"},
	{class: "domain-version", make: func(x *fixture) { x.editMeta("VERSION=5", "VERSION=3") }, found: "domain-version dom_md/metadata"},
	{class: "domain-file", make: func(x *fixture) { x.remove("dom_md/ids") }, found: "domain-file dom_md/ids"},
	{class: "vdsm-task", make: func(x *fixture) { x.vdsmTask(imgA, other) }, found: "vdsm-task master/tasks/TASK trash"},
	{class: "stray-file", make: func(x *fixture) { x.put("images/"+imgA+"/notes", "") }, found: "stray-file images/IMG_A/notes trash"},
	{class: "stray-file", make: func(x *fixture) {
		x.put("master/tasks/notes", "")
		x.put("master/tasks/"+task+"/"+task+".task", "\x80\x04")
		x.put("master/tasks/"+other+"/"+other+".task", "")
		x.put("master/tasks/"+other+"/a/b", "") // it is not flat: nothing is offered
	},
		found: "stray-file master/tasks/OTHER\nstray-file master/tasks/TASK trash\nstray-file master/tasks/notes trash"},
	{class: "stray-file", make: func(x *fixture) { // it goes with its task
		x.vdsmTask(imgA, other)
		x.put("master/tasks/"+task+"/"+task+".result", "\x80\x04")
		x.put("master/tasks/"+task+".temp/"+task+".task", "")
	}, found: "vdsm-task master/tasks/TASK trash\nstray-file master/tasks/TASK.temp trash\nstray-file master/tasks/TASK/TASK.result"},
	{class: "stray-directory", make: func(x *fixture) { x.must(os.Mkdir(x.at("images/lost+found"), 0o755)) }, found: "stray-directory images/lost+found"},
	{class: "not-a-file", make: func(x *fixture) { x.must(os.Symlink("/etc/passwd", x.at("images/"+imgA+"/"+other))) }, found: "not-a-file images/IMG_A/OTHER"},
	{class: "leftover", make: func(x *fixture) { x.put(meta(imgA, leaf)+".new", "") }, found: "leftover images/IMG_A/LEAF.meta.new trash"},
	{class: "removed-image", make: func(x *fixture) { x.put("images/_remove_me_"+imgRaw+"/"+raw, "") }, found: "removed-image images/_remove_me_IMG_RAW trash"},
	{class: "empty-image", make: func(x *fixture) { x.must(os.Mkdir(x.at("images/"+other), 0o755)) }, found: "empty-image images/OTHER trash"},
	{class: "orphan-data", make: func(x *fixture) { x.remove(meta(imgRaw, raw)) }, found: "orphan-data images/IMG_RAW/RAW trash"},
	{class: "orphan-data", make: func(x *fixture) { x.remove(meta(imgA, base)) }, // it is needed: nothing is offered
		found: "parent-missing images/IMG_A/LEAF.meta\norphan-data images/IMG_A/BASE"},
	{class: "orphan-meta", make: func(x *fixture) { x.remove(data(imgRaw, raw)) }, found: "orphan-meta images/IMG_RAW/RAW.meta trash"},
	{class: "orphan-lease", make: func(x *fixture) { x.put(data(imgA, other)+".lease", "") }, found: "orphan-lease images/IMG_A/OTHER.lease trash"},
	{class: "lease-on-local", make: func(x *fixture) { x.put(data(imgRaw, raw)+".lease", "") }, found: "lease-on-local images/IMG_RAW/RAW.lease trash"},
	{class: "lease-missing", make: func(x *fixture) {
		x.editMeta("TYPE=LOCALFS", "TYPE=NFS")
		x.leases()
		x.remove(data(imgRaw, raw) + ".lease")
	},
		found: "lease-missing images/IMG_RAW/RAW.lease"},
	{class: "lease-size", make: func(x *fixture) {
		x.editMeta("TYPE=LOCALFS", "TYPE=NFS")
		x.leases()
		x.must(os.Truncate(x.at(data(imgRaw, raw)+".lease"), 0))
	}, found: "lease-size images/IMG_RAW/RAW.lease"},
	{class: "meta-damaged", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "CTIME=", "XTIME=") }, found: "meta-damaged images/IMG_RAW/RAW.meta"},
	{class: "meta-eof", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "EOF\n", "") }, found: "meta-eof images/IMG_RAW/RAW.meta rewrite"},
	{class: "meta-overflow", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "DESCRIPTION=", "DESCRIPTION="+strings.Repeat("é", 200)) },
		found: "meta-overflow images/IMG_RAW/RAW.meta"},
	{class: "meta-word", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "VOLTYPE=LEAF", "VOLTYPE=TWIG") }, found: "meta-word images/IMG_RAW/RAW.meta"},
	{class: "meta-domain", make: func(x *fixture) { x.edit(meta(imgRaw, raw), sd, other) }, found: "meta-domain images/IMG_RAW/RAW.meta rewrite"},
	{class: "meta-image", make: func(x *fixture) { x.edit(meta(imgRaw, raw), imgRaw, other) }, found: "meta-image images/IMG_RAW/RAW.meta rewrite"},
	{class: "illegal", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "LEGALITY=LEGAL", "LEGALITY=ILLEGAL") }, found: "illegal images/IMG_RAW/RAW.meta"},
	{class: "unfinished", make: func(x *fixture) {
		x.edit(meta(imgRaw, raw), "LEGALITY=LEGAL", "LEGALITY=ILLEGAL")
		x.vdsmTask(imgRaw, raw)
	}, found: "unfinished images/IMG_RAW/RAW trash\nvdsm-task master/tasks/TASK trash"},
	{class: "unfinished", make: func(x *fixture) { x.remove(meta(imgRaw, raw)); x.vdsmTask(imgRaw, raw) },
		found: "unfinished images/IMG_RAW/RAW trash\nvdsm-task master/tasks/TASK trash"},
	{class: "unfinished", make: func(x *fixture) { // it is needed: nothing is offered
		x.edit(meta(imgA, base), "LEGALITY=LEGAL", "LEGALITY=ILLEGAL")
		x.vdsmTask(imgA, base)
	}, found: "unfinished images/IMG_A/BASE\nvdsm-task master/tasks/TASK trash"},
	{class: "fake", make: func(x *fixture) {
		x.edit(meta(imgRaw, raw), "LEGALITY=LEGAL", "LEGALITY=FAKE")
		x.remove(data(imgRaw, raw))
	},
		found: "fake images/IMG_RAW/RAW.meta"},
	{class: "format", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "FORMAT=RAW", "FORMAT=COW") }, found: "format images/IMG_RAW/RAW"},
	{class: "format-suspect", make: func(x *fixture) {
		x.run("cp", x.in(imgTmpl, tmpl), x.in(imgRaw, raw))
		x.run("fallocate", "-l", fmt.Sprint(size), x.in(imgRaw, raw))
	},
		found: "format-suspect images/IMG_RAW/RAW"},
	{class: "header", make: func(x *fixture) { x.poke(data(imgA, leaf), 4, 9) }, found: "header images/IMG_A/LEAF"},
	{class: "corrupt-flag", make: func(x *fixture) { x.poke(data(imgTmpl, tmpl), 76, 2) }, found: "corrupt-flag images/IMG_TMPL/TMPL"},
	{class: "backing", make: func(x *fixture) { x.rebase(imgA, leaf, other, "qcow2") }, found: "backing images/IMG_A/LEAF"},
	{class: "backing", make: func(x *fixture) { x.rebase(imgA, leaf, "../"+imgA+"/"+base, "qcow2") }, found: ""}, // an old name
	{class: "backing-format", make: func(x *fixture) { x.rebase(imgA, leaf, base, "raw") }, found: "backing-format images/IMG_A/LEAF"},
	{class: "capacity", make: func(x *fixture) { x.run("qemu-img", "resize", "-q", "-f", "qcow2", x.in(imgA, leaf), "2M") }, found: "capacity images/IMG_A/LEAF.meta rewrite"},
	{class: "cut-short", make: func(x *fixture) { x.must(os.Truncate(x.in(imgRaw, raw), size/2)) }, found: "cut-short images/IMG_RAW/RAW"},
	{class: "smaller-than-parent", make: func(x *fixture) {
		x.run("qemu-img", "resize", "-q", "-f", "qcow2", x.in(imgA, base), "2M")
		x.edit(meta(imgA, base), "CAP=1048576", "CAP=2097152")
	}, found: "smaller-than-parent images/IMG_A/LEAF.meta"},
	{class: "not-allocated", make: func(x *fixture) { x.run("fallocate", "-p", "-o", "0", "-l", "65536", x.in(imgRaw, raw)) }, found: "not-allocated images/IMG_RAW/RAW"},
	{class: "qcow2-corrupt", deep: true, make: func(x *fixture) { x.write(imgTmpl, tmpl); x.poke(data(imgTmpl, tmpl), 0x30000, 0xff) }, found: "qcow2-corrupt images/IMG_TMPL/TMPL"},
	{class: "qcow2-leaks", deep: true, make: func(x *fixture) { x.leak(imgTmpl, tmpl) }, found: "qcow2-leaks images/IMG_TMPL/TMPL"},
	{class: "qcow2-unchecked", deep: true, make: func(x *fixture) { x.poke(data(imgTmpl, tmpl), 44, 255) }, found: "qcow2-unchecked images/IMG_TMPL/TMPL"},
	{class: "parent-missing", make: func(x *fixture) { x.remove(data(imgA, base)); x.remove(meta(imgA, base)) }, found: "parent-missing images/IMG_A/LEAF.meta"},
	{class: "chain-loop", make: func(x *fixture) {
		x.edit(meta(imgA, base), "PUUID="+domain.BlankUUID, "PUUID="+leaf)
		x.edit(meta(imgA, leaf), "VOLTYPE=LEAF", "VOLTYPE=INTERNAL")
	},
		found: "chain-loop images/IMG_A/BASE.meta\nchain-loop images/IMG_A/LEAF.meta"},
	{class: "voltype", make: func(x *fixture) { x.edit(meta(imgA, base), "VOLTYPE=INTERNAL", "VOLTYPE=LEAF") }, found: "voltype images/IMG_A/BASE.meta rewrite"},
	{class: "voltype", make: func(x *fixture) { x.edit(meta(imgRaw, raw), "VOLTYPE=LEAF", "VOLTYPE=INTERNAL") }, found: "voltype images/IMG_RAW/RAW.meta rewrite"},
	{class: "share-missing", make: func(x *fixture) { x.remove(data(imgB, tmpl)); x.remove(meta(imgB, tmpl)) }, found: "share-missing images/IMG_B/CHILD link"},
	{class: "share-meta-cut", make: func(x *fixture) { x.cut(meta(imgB, tmpl)) }, found: "share-meta-cut images/IMG_B/TMPL.meta link"},
	{class: "share-data-cut", make: func(x *fixture) { x.cut(data(imgB, tmpl)) }, found: "share-data-cut images/IMG_B/TMPL"},
	{class: "unused-share", make: func(x *fixture) { x.remove(data(imgB, child)); x.remove(meta(imgB, child)) }, found: "unused-share images/IMG_B trash"},
	{class: "template-gone", make: func(x *fixture) { x.must(os.RemoveAll(x.at("images/" + imgTmpl))) }, found: "template-gone images/IMG_B/TMPL"},
	{class: "duplicate", make: func(x *fixture) {
		x.run("cp", "-p", x.in(imgRaw, raw), x.in(imgA, raw))
		x.run("cp", "-p", x.in(imgRaw, raw)+".meta", x.in(imgA, raw)+".meta")
		x.edit(meta(imgA, raw), imgRaw, imgA)
	}, found: "duplicate images/IMG_RAW/RAW"},
	{class: "mode", make: func(x *fixture) { x.must(os.Chmod(x.in(imgRaw, raw), 0o600)) }, found: "mode images/IMG_RAW/RAW permissions"},
	{class: "mode", make: func(x *fixture) { x.must(os.Chmod(x.in(imgTmpl, tmpl), 0o666)) }, found: "mode images/IMG_TMPL/TMPL permissions"}, // said once of hard links
	{class: "owner", make: func(x *fixture) { x.must(os.Chown(x.in(imgRaw, raw)+".meta", 36, 36)) }, found: "owner images/IMG_RAW/RAW.meta permissions"},
	{class: "in-use", make: func(x *fixture) { x.lock(data(imgRaw, raw)); x.must(os.Chmod(x.in(imgRaw, raw), 0o600)) },
		found: "mode images/IMG_RAW/RAW\nin-use images/IMG_RAW/RAW"},
	{class: "agent-file", make: func(x *fixture) { x.put(".vdsm-agent/new-thing", "") }, found: "agent-file .vdsm-agent/new-thing"},
	{class: "agent-temporary", make: func(x *fixture) { x.put(".vdsm-agent/tmp/a.new", "") }, found: "agent-temporary .vdsm-agent/tmp/a.new"},
	{class: "trash", make: func(x *fixture) { x.trashed(time.Now().Add(time.Hour)) }, found: "trash .vdsm-agent/trash/TASK"},
	{class: "trash-overdue", make: func(x *fixture) { x.trashed(time.Now().Add(-time.Hour)) }, found: "trash-overdue .vdsm-agent/trash/TASK"},
	{class: "trash-unowned", make: func(x *fixture) { x.trashed(time.Now().Add(time.Hour)) }, found: "trash-unowned .vdsm-agent/trash/TASK",
		o: Options{Known: func(string) bool { return false }}},
	{class: "trash-damaged", make: func(x *fixture) { x.trashed(time.Now()); x.remove(".vdsm-agent/trash/" + task + "/0/x") }, found: "trash-damaged .vdsm-agent/trash/TASK"},
	{class: "trash-damaged", make: func(x *fixture) { x.put(".vdsm-agent/trash/"+task+"/manifest.json", "{") }, found: "trash-damaged .vdsm-agent/trash/TASK"},
}

// leases gives every volume a lease, as on shared storage.
func (x *fixture) leases() {
	for _, v := range []string{data(imgA, base), data(imgA, leaf), data(imgTmpl, tmpl), data(imgB, child), data(imgRaw, raw)} {
		x.put(v+".lease", "")
		x.must(os.Truncate(x.at(v+".lease"), 1<<20))
	}
	x.must(os.Link(x.at(data(imgTmpl, tmpl)+".lease"), x.at(data(imgB, tmpl)+".lease")))
}

// poke writes one byte.
func (x *fixture) poke(name string, at int64, value byte) {
	f, err := os.OpenFile(x.at(name), os.O_RDWR, 0)
	x.must(err)
	defer f.Close()
	buf := binary.BigEndian.AppendUint32(nil, uint32(value))
	_, err = f.WriteAt(buf, at)
	x.must(err)
}

func (x *fixture) write(img, vol string) {
	x.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", x.in(img, vol))
}

func (x *fixture) rebase(img, vol, to, format string) {
	x.run("sh", "-c", "cd "+x.in(img, "")+" && qemu-img rebase -u -f qcow2 -b "+to+" -F "+format+" "+vol)
}

// leak adds a cluster that nothing refers to.
func (x *fixture) leak(img, vol string) {
	x.write(img, vol)
	f, err := os.OpenFile(x.in(img, vol), os.O_RDWR, 0)
	x.must(err)
	defer f.Close()
	// The refcount block is the third cluster: count a cluster in use that is not.
	_, err = f.WriteAt([]byte{0, 1}, 0x20000+2*40)
	x.must(err)
	x.must(f.Truncate(41 << 16))
}

// cut makes of a hard link a file of its own.
func (x *fixture) cut(name string) {
	x.run("cp", "-p", x.at(name), x.at(name)+".copy")
	x.must(os.Rename(x.at(name)+".copy", x.at(name)))
}

// lock holds a file as QEMU does, until the test ends.
func (x *fixture) lock(name string) {
	f, err := os.OpenFile(x.at(name), os.O_RDWR, 0)
	x.must(err)
	x.t.Cleanup(func() { f.Close() })
	x.must(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}))
}

var names = strings.NewReplacer("IMG_A", imgA, "IMG_TMPL", imgTmpl, "IMG_B", imgB, "IMG_RAW", imgRaw, "BASE", base, "LEAF", leaf, "TMPL", tmpl,
	"CHILD", child, "RAW", raw, "OTHER", other, "TASK", task)

// TestFindings makes each thing that can be found, and nothing else may be found with it.
func TestFindings(t *testing.T) {
	covered := map[Class]bool{"unreadable": true} // see TestUnreadable
	for _, c := range cases {
		covered[c.class] = true
		t.Run(string(c.class), func(t *testing.T) {
			t.Parallel()
			x := sound(t)
			o := c.o
			if c.deep {
				o.Starter = qemuimgtest.NewStarter(t)
			}
			if got := say(x.check(o)); got != "" {
				t.Fatalf("a sound domain has findings:\n%s", got)
			}
			c.make(x)
			r := x.check(o)
			if got, want := say(r), names.Replace(c.found); got != want {
				t.Errorf("found\n%s\nwant\n%s", got, want)
			}
			for _, f := range r.Findings {
				if f.Message == "" || !strings.HasSuffix(f.Message, ".") || strings.HasSuffix(f.Message, "..") || f.Remedy == "" || f.Severity != byClass[f.Class].Severity {
					t.Errorf("%+v is not a whole finding", f)
				}
				if (f.Fix == nil) != (f.Repair == "") || f.Repair != "" && f.Repair != byClass[f.Class].Repair {
					t.Errorf("%s: what is offered is not what the table says", f.Class)
				}
			}
		})
	}
	for _, k := range Kinds {
		if !covered[k.Class] {
			t.Errorf("no case makes %s", k.Class)
		}
	}
}

// TestBusy: what a task is at work with is no problem, and no repair is offered there.
func TestBusy(t *testing.T) {
	x := sound(t)
	x.remove(meta(imgRaw, raw))
	r := x.check(Options{Busy: func(image string) string {
		if image == imgRaw {
			return task
		}
		return ""
	}})
	if len(r.Findings) != 1 {
		t.Fatal(say(r))
	}
	if f := r.Findings[0]; f.Severity != Note || f.Repair != "" || f.Task != task {
		t.Errorf("%+v", f)
	}
	if r.Count(Error)+r.Count(Warning) != 0 {
		t.Error("a busy image counts as a problem")
	}
}

// TestTasksFromElsewhere: a task that VDSM left on another domain tells of volumes on this one.
func TestTasksFromElsewhere(t *testing.T) {
	x := sound(t)
	x.remove(meta(imgRaw, raw))
	x.vdsmTask(imgRaw, raw)
	root, err := Dir(x.path)
	x.must(err)
	defer root.Close()
	found, err := vdsmtasks.Read(root.FS(), "master/tasks")
	x.must(err)
	x.must(os.RemoveAll(x.at("master")))
	if got := say(x.check(Options{VDSMTasks: found.Tasks})); got != names.Replace("unfinished images/IMG_RAW/RAW trash") {
		t.Error(got)
	}
}

// broken is a file system in which one name cannot be read.
type broken struct {
	fs.ReadLinkFS
	name string
}

func (b broken) Open(name string) (fs.File, error) {
	if name == b.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EIO}
	}
	return b.ReadLinkFS.Open(name)
}

func (b broken) Lstat(name string) (fs.FileInfo, error) {
	if name == b.name {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: unix.EIO}
	}
	return b.ReadLinkFS.Lstat(name)
}

// TestUnreadable: what cannot be read is named, and all else is looked at.
func TestUnreadable(t *testing.T) {
	x := sound(t)
	x.remove("dom_md/leases")
	root, err := Dir(x.path)
	x.must(err)
	defer root.Close()
	for _, name := range []string{"dom_md/metadata", data(imgRaw, raw), meta(imgB, tmpl), "images/" + imgA} {
		r, err := Check(t.Context(), broken{root.FS().(fs.ReadLinkFS), name}, Options{Path: x.path})
		x.must(err)
		if r.Find("unreadable", name) == nil || r.Find("domain-file", "dom_md/leases") == nil {
			t.Errorf("%s: found\n%s", name, say(r))
		}
	}
}

func TestReport(t *testing.T) {
	x := sound(t)
	r := x.check(Options{})
	if r.UUID != sd || r.Name != "sound" || r.Images != 4 || r.Volumes != 5 || r.Type != domain.TypeLocalFS || r.Version != 5 {
		t.Errorf("%+v", r)
	}
	got := fmt.Sprint(r.Traces([]string{imgA, child, "nothing"}))
	want := names.Replace("[{IMG_A BASE whole (LEGAL)} {IMG_A LEAF whole (LEGAL)} {IMG_B CHILD whole (LEGAL)}]")
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestEndsWithItsContext: a check is ended between two images.
func TestEndsWithItsContext(t *testing.T) {
	x := sound(t)
	root, err := Dir(x.path)
	x.must(err)
	defer root.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := Check(ctx, root.FS(), Options{Path: x.path}); !errors.Is(err, enough) {
		t.Error(err)
	}
}
