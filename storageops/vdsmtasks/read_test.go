package vdsmtasks

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"vdsm-agent/internal/param"
)

const (
	sd     = "11111111-2222-4333-8444-555555555555"
	img    = "aaaaaaaa-0000-4000-8000-000000000001"
	vol    = "bbbbbbbb-0000-4000-8000-000000000001"
	parent = "bbbbbbbb-0000-4000-8000-000000000002"
	taskA  = "cccccccc-0000-4000-8000-000000000001"
	taskB  = "cccccccc-0000-4000-8000-000000000002"
)

// taskFile is a .task as VDSM writes it.
func taskFile(id, verb, state string, jobs, recoveries int) string {
	return fmt.Sprintf(`id = %s
name = %s
tag = spm
store = /rhev/data-center/mnt/server:_path/%s/master/tasks
recoveryPolicy = auto
persistPolicy = auto
cleanPolicy = manual
priority = low
state = %s
njobs = %d
nrecoveries = %d
metadataVersion = 1
`, id, verb, sd, state, jobs, recoveries)
}

func jobFile(name, args, kwargs string) string {
	return fmt.Sprintf("name = %s\nruncmd = <bound method StoragePool.%s of <vdsm.storage.sp.StoragePool object at 0x7f1>> (args: (%s) kwargs: {%s})\n", name, name, args, kwargs)
}

func recoverFile(object, function string, params ...string) string {
	return fmt.Sprintf("name = a recovery: %s\nmoduleName = %s\nobject = %s\nfunction = %s\nparams = %s\n",
		function, strings.ToLower(object[:1])+object[1:], object, function, strings.Join(params, ","))
}

// tree makes a file system of names and contents.
func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{".": {Mode: fs.ModeDir | 0o755}}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text), ModTime: time.Unix(1700000000, 0)}
	}
	return out
}

// at puts a task's files, given by what follows the task's id, into a directory.
func at(dir, id string, files map[string]string) map[string]string {
	out := map[string]string{}
	for suffix, text := range files {
		out[dir+"/"+id+suffix] = text
	}
	return out
}

func together(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, one := range all {
		maps.Copy(out, one)
	}
	return out
}

// say is what was read, in short: a line for each task with what it was making, and for each thing set aside.
func say(f Found) string {
	var out []string
	for _, t := range f.Tasks {
		out = append(out, fmt.Sprintf("%s %s %s jobs=%d recoveries=%d made=%v", t.Dir, t.Verb, t.State, len(t.Jobs), len(t.Recoveries), t.Made()))
	}
	for _, a := range f.Aside {
		out = append(out, a.Path+": "+a.Reason)
	}
	short := strings.NewReplacer(taskA, "A", taskB, "B", sd, "SD", img, "IMG", vol, "VOL")
	return short.Replace(strings.Join(out, "\n"))
}

func TestRead(t *testing.T) {
	running := map[string]string{
		".task": taskFile(taskA, "createVolume", "running", 1, 2), ".job.0": jobFile("createVolume", "'"+sd+"'", ""),
		".recover.0": recoverFile("FileVolume", "createVolumeRollback", "/rhev/data-center/"+parent, sd, img, vol, "/rhev/data-center/mnt/s:_p/"+sd+"/images/"+img), ".recover.1": recoverFile("Volume", "parentVolumeRollback", sd, img, parent),
	}
	without := func(suffix string) map[string]string {
		out := maps.Clone(running)
		delete(out, suffix)
		return at(taskA, taskA, out)
	}
	with := func(suffix, text string) map[string]string {
		out := maps.Clone(running)
		out[suffix] = text
		return at(taskA, taskA, out)
	}
	const (
		whole  = "A createVolume running jobs=1 recoveries=2 made=[{SD IMG VOL}]"
		unread = "A createVolume running jobs=1 recoveries=1 made=[]\n"
	)
	noCounts, _, _ := strings.Cut(running[".task"], "njobs")
	older := strings.NewReplacer("state = running", "state = queued").Replace(running[".task"])
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"running", at(taskA, taskA, running), whole},
		{"finished", at(taskA, taskA, map[string]string{
			".task": taskFile(taskA, "createVolume", "finished", 0, 1), ".recover.0": running[".recover.0"], ".result": "code = 0\nmessage = 1 jobs completed successfully\nresult = \n",
		}), "A createVolume finished jobs=0 recoveries=1 made=[]"},
		{"two", together(at(taskB, taskB, map[string]string{".task": taskFile(taskB, "moveImage", "recovered", 0, 0)}), at(taskA, taskA, running)),
			whole + "\nB moveImage recovered jobs=0 recoveries=0 made=[]"},
		{"a rewrite that died before its first rename", together(at(taskA, taskA, running), at(taskA+".temp", taskA, map[string]string{".task": ""})),
			whole + "\nA.temp: it is left of a rewrite, and A is read instead of it"},
		{"a rewrite that died between its renames", together(at(taskA+".temp", taskA, running), at(taskA+".backup", taskA, map[string]string{".task": older})),
			strings.Replace(whole, "A ", "A.temp ", 1) + "\nA.backup: it is left of a rewrite, and A.temp is read instead of it"},
		{"a rewrite that died half-written", together(at(taskA+".temp", taskA, map[string]string{".task": older[:40]}), at(taskA+".backup", taskA, running)),
			strings.Replace(whole, "A ", "A.backup ", 1) + "\nA.temp: A.task: it has no name; it is cut short"},
		{"no .task", without(".task"), "A: A.task: it is missing: file does not exist"},
		{"an empty .task", with(".task", ""), "A: A.task: it is empty"},
		{"a pickle", with(".task", "\x80\x04\x95\x10"), "A: A.task: it is a Python pickle"},
		{"another encoding", with(".task", "id = \xff\xfe"), "A: A.task: it is not text"},
		{"a .task of zeros", with(".task", "\x00\x00\x00\x00"), "A: A.task: it is not text"},
		{"too long", with(".task", strings.Repeat("x = y\n", maxFile/6+1)), fmt.Sprintf("A: A.task: it is longer than %d bytes", maxFile)},
		{"cut in a name", with(".task", running[".task"][:len(running[".task"])-8]), "A: A.task: line 12 is not \"field = value\"; it is cut short or of something else"},
		{"cut before a field", with(".task", noCounts), "A: A.task: it has no njobs; it is cut short"},
		{"a task of another id", with(".task", taskFile(taskB, "createVolume", "running", 0, 0)), "A: A.task is of task \"B\""},
		{"a number that is none", with(".task", strings.Replace(running[".task"], "njobs = 1", "njobs = many", 1)),
			"A createVolume running jobs=0 recoveries=2 made=[{SD IMG VOL}]\nA/A.task: its njobs is \"many\", which is no number from 0 to 10000"},
		{"a number that is too large", with(".task", strings.Replace(running[".task"], "njobs = 1", "njobs = 99999999", 1)),
			"A createVolume running jobs=0 recoveries=2 made=[{SD IMG VOL}]\nA/A.task: its njobs is \"99999999\", which is no number from 0 to 10000"},
		{"a job is missing", without(".job.0"), "A createVolume running jobs=0 recoveries=2 made=[{SD IMG VOL}]\nA/A.job.0: it is missing: file does not exist"},
		{"a recovery is cut short", with(".recover.0", running[".recover.0"][:60]), unread + "A/A.recover.0: it has no object; it is cut short"},
		{"a recovery is a pickle", with(".recover.0", "\x80"), unread + "A/A.recover.0: it is a Python pickle"},
		{"a recovery is missing", without(".recover.0"), "A createVolume running jobs=1 recoveries=0 made=[]\nA/A.recover.0: it is missing: file does not exist"},
		{"a broken result", with(".result", "what"), whole + "\nA/A.result: line 1 is not \"field = value\"; it is cut short or of something else"},
		{"other names", map[string]string{"notes": "", taskA + ".old/x": "", ".hidden/x": ""},
			".hidden: its name is no task's\nA.old: its name is no task's\nnotes: it is not a directory, so it is no task"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := Read(tree(c.files), ".")
			if got := say(found); err != nil || got != c.want {
				t.Errorf("got %v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
}

// TestReadWhole: everything that VDSM has written about a task.
func TestReadWhole(t *testing.T) {
	saved := time.Unix(1700000000, 0)
	files := tree(at("in/"+taskA, taskA, map[string]string{
		".task":      taskFile(taskA, "createVolume", "finished", 2, 1),
		".job.0":     jobFile("createVolume", "'"+sd+"', u'a, b', 5, None, {'k': 'it''s', 'n': [1, 2]}", "'srcVolUUID': u'"+parent+"', 'bitmap': False"),
		".job.1":     "name = odd\nruncmd = something that is\nof two lines_eq_x\n",
		".recover.0": recoverFile("FileVolume", "createVolumeRollback", sd, " "+img, vol, ""),
		".result":    "code = 0\nmessage = done\nresult = {'uuid': '" + vol + "', 'a': 'b_eq_c'}\n",
	}))
	found, err := Read(files, "in")
	want := Found{Aside: []Aside{}, Tasks: []Task{{
		ID: taskA, Verb: "createVolume", State: "finished", Tag: "spm", Saved: saved, Dir: taskA,
		Jobs: []Job{
			{Name: "createVolume", Command: "<bound method StoragePool.createVolume of <vdsm.storage.sp.StoragePool object at 0x7f1>>",
				Args: []string{sd, "a, b", "5", "None", "{'k': 'it''s', 'n': [1, 2]}", "srcVolUUID=" + parent, "bitmap=False"}},
			{Name: "odd", Args: []string{}, Raw: "something that is\nof two lines=x"},
		},
		Recoveries: []Recovery{{Name: "a recovery: createVolumeRollback", Function: "fileVolume.FileVolume.createVolumeRollback", Params: []string{sd, img, vol}}},
		Result:     &Result{Code: "0", Message: "done", Result: "{'uuid': '" + vol + "', 'a': 'b=c'}"},
	}}}
	if err != nil || !reflect.DeepEqual(found, want) {
		t.Errorf("got %v\n%+v\nwant\n%+v", err, found, want)
	}
	if got, want := found.Tasks[0].IDs(), []string{sd, parent, img, vol}; !slices.Equal(got, want) {
		t.Errorf("it names %v, want %v", got, want)
	}
}

func TestReadNoDirectory(t *testing.T) {
	if _, err := Read(tree(nil), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Read(tree(map[string]string{"file": ""}), "file"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestNotFollowed: what is no regular file is not opened.
func TestNotFollowed(t *testing.T) {
	files := tree(at(taskA, taskA, map[string]string{".task": taskFile(taskA, "x", "running", 0, 0), ".x": ""}))
	files[taskA+"/"+taskA+".task"].Mode = fs.ModeSymlink
	found, err := Read(files, ".")
	if got := say(found); err != nil || got != "A: A.task: it is not a regular file" {
		t.Error(err, got)
	}
}

// TestOldestFirst: the tasks come by when they were saved.
func TestOldestFirst(t *testing.T) {
	files := tree(together(at(taskA, taskA, map[string]string{".task": taskFile(taskA, "x", "running", 0, 0)}),
		at(taskB, taskB, map[string]string{".task": taskFile(taskB, "x", "running", 0, 0)})))
	files[taskA+"/"+taskA+".task"].ModTime = time.Unix(1700000001, 0)
	found, err := Read(files, ".")
	if err != nil || len(found.Tasks) != 2 || found.Tasks[0].ID != taskB {
		t.Error(err, say(found))
	}
}

// FuzzRead: no content makes it fail; a task is read or set aside; what it was making is named by whole ids.
func FuzzRead(f *testing.F) {
	f.Add([]byte(taskFile(taskA, "createVolume", "running", 1, 1)), []byte(jobFile("createVolume", "'a', u'b', [1, (2, 'x')]", "'k': 'v'")),
		[]byte(recoverFile("FileVolume", "createVolumeRollback", sd, img, vol)), []byte("code = 0\nmessage = m\nresult = \n"))
	f.Add([]byte(taskFile(taskA, "x", "failed", 1, 1)), []byte("name = n\nruncmd = f (args: ('\\''], kwargs: {"),
		[]byte(recoverFile("FileVolume", "halfbakedVolumeRollback", "/rhev/"+sd+"/images/"+img+"/"+vol+".volatile")), []byte("\x80\x04"))
	f.Add([]byte("id"), []byte("name = \nruncmd = (args: (\n=\n"), []byte("=_eq_=\n"), []byte(nil))
	f.Fuzz(func(t *testing.T, task, job, recovery, result []byte) {
		files := fstest.MapFS{}
		for suffix, data := range map[string][]byte{".task": task, ".job.0": job, ".recover.0": recovery, ".result": result} {
			files[taskA+"/"+taskA+suffix] = &fstest.MapFile{Data: data}
			sameAgain(t, data)
		}
		found, err := Read(files, ".")
		if err != nil {
			t.Fatal(err)
		}
		aside := slices.ContainsFunc(found.Aside, func(a Aside) bool { return a.Path == taskA })
		if (len(found.Tasks) == 1) == aside {
			t.Fatalf("%d tasks are read, and set aside is %v", len(found.Tasks), found.Aside)
		}
		for _, one := range found.Tasks {
			if one.Meaning() == "" || one.Success() && one.Made() != nil {
				t.Fatalf("%+v", one)
			}
			for _, p := range one.Made() {
				for _, id := range []string{p.Domain, p.Image, p.Volume} {
					if id != "" && !param.ValidUUID(id) {
						t.Fatalf("made is %+v", p)
					}
				}
			}
			for i, id := range one.IDs() {
				if !param.ValidUUID(id) || slices.Contains(one.IDs()[:i], id) {
					t.Fatalf("ids are %v", one.IDs())
				}
			}
		}
	})
}

// sameAgain: what was read of a file, written as VDSM writes it, is read as the same.
func sameAgain(t *testing.T, data []byte) {
	t.Helper()
	read, err := parseFields(data)
	if err != nil {
		return
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(read)) {
		if strings.Contains(read[name], "_") {
			return // VDSM's own escape is ambiguous there
		}
		fmt.Fprintf(&b, "%s = %s\n", name, strings.ReplaceAll(read[name], "=", "_eq_"))
	}
	again, err := parseFields([]byte(b.String()))
	if err != nil && b.Len() <= maxFile || err == nil && !maps.Equal(read, again) {
		t.Fatalf("read %q, and then %q (%v)", read, again, err)
	}
}
