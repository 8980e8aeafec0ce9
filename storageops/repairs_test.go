package storageops_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/domaincheck"
	"vdsm-agent/tasks"
)

const (
	imgDead  = "aaaaaaaa-0000-4000-8000-000000000004" // derived from imgTmpl
	volDead  = "bbbbbbbb-0000-4000-8000-000000000006" // VDSM was making it
	volKid   = "bbbbbbbb-0000-4000-8000-000000000007" // beside it, and whole
	deadTask = "cccccccc-0000-4000-8000-000000000008" // of VDSM
)

// messyFindings are what messUp makes: something for each thing that a repair does.
var messyFindings = []map[string]string{
	{"class": "orphan-data", "path": "images/" + imgB + "/" + volNew},
	{"class": "leftover", "path": "images/" + imgA + "/x.tmp"},
	{"class": "removed-image", "path": "images/_remove_me_" + imgNew},
	{"class": "voltype", "path": "images/" + imgA + "/" + volRaw + ".meta"},
	{"class": "meta-eof", "path": "images/" + imgB + "/" + volOld + ".meta"},
	{"class": "meta-domain", "path": "images/" + imgB + "/" + volOld + ".meta"},
	{"class": "share-meta-cut", "path": "images/" + imgDead + "/" + volTmpl + ".meta"},
	{"class": "mode", "path": "images/" + imgB + "/" + volOld},
	{"class": "unfinished", "path": "images/" + imgDead + "/" + volDead},
	{"class": "vdsm-task", "path": "master/tasks/" + deadTask},
}

// repairCase repairs all of it.
var repairCase = hostCase{
	verbCase: verbCase{
		"repair", "Domain.repair", map[string]any{"storagedomainID": sd, "findings": messyFindings},
		[]string{"VOLTYPE=INTERNAL", "trash 0/" + volNew, "trash 1/x.tmp"}, []string{"/images/_remove_me_", "/images/" + imgDead + "/" + volDead}, true,
	},
	setup: messUp,
}

func messUp(h *host) {
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	write := func(name, text string) {
		must(os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
		must(os.WriteFile(h.path(name), []byte(text), 0o644))
	}
	edit := func(name, old, replacement string) {
		text, err := os.ReadFile(h.path(name))
		must(err)
		write(name, strings.Replace(string(text), old, replacement, 1))
	}
	h.run("qemu-img", "create", "-q", "-f", "qcow2", h.path("images", imgB, volNew), "12M")
	must(os.Chmod(h.path("images", imgB, volNew), 0o660))
	write("images/"+imgA+"/x.tmp", "x")
	write("images/_remove_me_"+imgNew+"/"+volNew, "x")
	edit("images/"+imgA+"/"+volRaw+".meta", "VOLTYPE=INTERNAL", "VOLTYPE=LEAF")
	edit("images/"+imgB+"/"+volOld+".meta", "EOF\n", "")
	edit("images/"+imgB+"/"+volOld+".meta", "DOMAIN="+sd, "DOMAIN="+imgNew)
	must(os.Chmod(h.path("images", imgB, volOld), 0o600))

	d, err := h.domains.Get(sd)
	must(err)
	_, err = d.CreateImageDir(imgDead)
	must(err)
	must(d.ShareTemplate(imgTmpl, volTmpl, imgDead))
	h.run("cp", "-p", h.path("images", imgDead, volTmpl)+".meta", h.path("copy"))
	must(os.Rename(h.path("copy"), h.path("images", imgDead, volTmpl)+".meta"))
	for vol, legality := range map[string]string{volDead: domain.Illegal, volKid: domain.Legal} {
		h.run("sh", "-c", "cd "+h.path("images", imgDead)+" && qemu-img create -q -f qcow2 -u -b "+volTmpl+" -F qcow2 "+vol+" 12M")
		must(d.SetMode(imgDead, vol))
		must(d.WriteVolumeMeta(imgDead, vol, domain.VolumeMeta{
			Capacity: 12 << 20, CTime: time.Unix(1700000000, 0), DiskType: "DATA", Domain: sd, Format: domain.FormatCOW, Image: imgDead,
			Legality: legality, PUUID: volTmpl, Type: domain.Sparse, VolType: domain.Leaf,
		}))
	}
	dir := "master/tasks/" + deadTask + "/" + deadTask
	write(dir+".task", "id = "+deadTask+"\nname = createVolume\nstate = running\nnjobs = 0\nnrecoveries = 1\n")
	write(dir+".recover.0", "name = r\nmoduleName = fileVolume\nobject = FileVolume\nfunction = createVolumeRollback\nparams = "+sd+","+imgDead+","+volDead+"\n")
}

// problems is what a check of the domain finds, without notes.
func (h *host) problems() string {
	root, err := domaincheck.Dir(h.path())
	if err != nil {
		h.t.Fatal(err)
	}
	defer root.Close()
	r, err := domaincheck.Check(h.t.Context(), root.FS(), domaincheck.Options{Path: h.path()})
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, f := range r.Findings {
		if f.Severity != domaincheck.Note {
			out = append(out, fmt.Sprint(f.Class, " ", f.Path))
		}
	}
	return strings.Join(out, "\n")
}

// repair lets a task repair all that messUp has made.
func (h *host) repair() {
	h.t.Helper()
	if err := h.submit("Domain.repair", map[string]any{"storagedomainID": sd, "findings": messyFindings}); err != nil {
		h.t.Fatal(err)
	}
	if v := h.ended(); v.State != tasks.Finished {
		h.t.Fatalf("ended %s: %s", v.State, v.Message)
	}
}

// TestRepairedIsSound: all that is found is repaired by one task, and then nothing is found; a revert brings all of it back.
func TestRepairedIsSound(t *testing.T) {
	h := newHost(t)
	if p := h.problems(); p != "" {
		t.Fatalf("the domain has problems before:\n%s", p)
	}
	messUp(h)
	before := h.problems()
	if n := strings.Count(before, "\n") + 1; n != len(messyFindings) {
		t.Fatalf("%d problems are made, and found are\n%s", len(messyFindings), before)
	}
	h.repair()
	if p := h.problems(); p != "" {
		t.Errorf("left are\n%s", p)
	}
	if err := h.Revert(t.Context(), taskID, "tester"); err != nil {
		t.Fatal(err)
	}
	h.ended()
	if after := h.problems(); after != before {
		t.Errorf("after the revert found are\n%s\nand before\n%s", after, before)
	}
}

// TestRepairIsNotTakenBackOverChanges: what somebody has changed since is not overwritten by a revert.
func TestRepairIsNotTakenBackOverChanges(t *testing.T) {
	for what, change := range map[string]func(h *host) error{
		"metadata": func(h *host) error {
			name := h.path("images", imgB, volOld) + ".meta"
			text, err := os.ReadFile(name)
			return errors.Join(err, os.WriteFile(name, []byte(strings.Replace(string(text), "GEN=0", "GEN=1", 1)), 0o644))
		},
		"a mode": func(h *host) error { return os.Chmod(h.path("images", imgB, volOld), 0o640) },
		"a link": func(h *host) error { return os.Remove(h.path("images", imgDead, volTmpl) + ".meta") },
		"the trash": func(h *host) error {
			return os.Rename(h.path(".vdsm-agent/trash", taskID, "manifest.json"), h.path(".vdsm-agent/trash", taskID, "reclaim.json"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			messUp(h)
			h.repair()
			if err := change(h); err != nil {
				t.Fatal(err)
			}
			if err := h.Revert(t.Context(), taskID, "tester"); code.Of(err) != code.TaskState {
				t.Errorf("the revert answers %v", err)
			}
		})
	}
}

// TestRepairRefusals: what is not there, not safe, or never offered.
func TestRepairRefusals(t *testing.T) {
	find := func(class, path string) []map[string]string {
		return []map[string]string{{"class": class, "path": path}}
	}
	many := make([]map[string]string, 101)
	for i := range many {
		many[i] = map[string]string{"class": "leftover", "path": fmt.Sprint("images/", i)}
	}
	for _, c := range []struct {
		name     string
		findings any
		more     []any
		code     code.Code
		text     string
	}{
		{"no findings", []string{}, nil, code.InvalidParameter, "findings"},
		{"too many", many, nil, code.InvalidParameter, "100"},
		{"an unknown class", find("dust", "images/x"), nil, code.InvalidParameter, "dust"},
		{"a class without repair", find("illegal", "images/x"), nil, code.InvalidParameter, "engine"},
		{"a path outside", find("leftover", "../x"), nil, code.InvalidParameter, "../x"},
		{"an absolute path", find("leftover", "/etc/passwd"), nil, code.InvalidParameter, "/etc/passwd"},
		{"twice", append(find("leftover", "images/x"), find("leftover", "images/x")...), nil, code.InvalidParameter, "twice"},
		{"not found", find("leftover", "images/"+imgA+"/y.tmp"), nil, code.TaskState, "y.tmp"},
		{"a volume that is whole", find("orphan-data", "images/"+imgB+"/"+volOld), nil, code.TaskState, volOld},
		{"needed by others", find("orphan-data", "images/"+imgA+"/"+volRaw), nil, code.TaskState, "safely"},
		{"no such domain", find("leftover", "images/x"), []any{"storagedomainID", imgA}, code.DomainDoesNotExist, imgA},
		{"a relative directory of tasks", find("leftover", "images/x"), []any{"vdsmTasks", "x"}, code.InvalidParameter, "absolute"},
		{"no such directory of tasks", find("leftover", "images/x"), []any{"vdsmTasks", "/no/such"}, code.InvalidParameter, "/no/such"},
		{"an unknown parameter", find("leftover", "images/x"), []any{"colour", "red"}, code.InvalidParameter, "colour"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			if c.name == "needed by others" {
				if err := os.Remove(h.path("images", imgA, volRaw) + ".meta"); err != nil {
					t.Fatal(err)
				}
			}
			before := h.tree()
			params := map[string]any{"storagedomainID": sd, "findings": c.findings}
			for i := 0; i < len(c.more); i += 2 {
				params[c.more[i].(string)] = c.more[i+1]
			}
			err := h.submit("Domain.repair", params)
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
