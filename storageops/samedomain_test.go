package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"
)

// call is one call of a domain, with the answer as text in which the domain's place is left out.
type call struct {
	name string
	do   func(d storageDomain) (any, error)
}

func (c call) answer(d storageDomain, place string) string {
	v, err := c.do(d)
	raw, jsonErr := json.Marshal(v)
	if jsonErr != nil {
		panic(jsonErr)
	}
	what := fmt.Sprintf("%d", code.Of(err))
	if errors.Is(err, fs.ErrNotExist) {
		what = "not there"
	}
	if err != nil {
		return what
	}
	if string(raw) == "[]" {
		return "null" // an empty list and none are the same to the verbs
	}
	return strings.ReplaceAll(string(raw), place, "")
}

// calls draws one call of the verbs' seam, with arguments that mostly fit what is there.
func calls(t *rapid.T) call {
	image := rapid.SampledFrom([]string{imgA, imgA, imgB, imgTmpl, imgNew}).Draw(t, "image")
	volume := rapid.SampledFrom([]string{volRaw, volTop, volOld, volTmpl, volNew}).Draw(t, "volume")
	task := rapid.SampledFrom([]string{oldTask, proofTask}).Draw(t, "task")
	label := rapid.SampledFrom([]string{labelMade, labelDeleted}).Draw(t, "label")
	only := func(i domain.Item) bool { return i.Label == label }
	stray := rapid.SampledFrom([]string{"images/" + imgA + "/x.tmp", "images/_remove_me_x", "images/" + image + "/y"}).Draw(t, "stray")
	mode := rapid.SampledFrom([]fs.FileMode{0o600, 0o660}).Draw(t, "mode")
	name := "images/" + image + "/" + volume
	reads := []call{
		{"MetaText", func(d storageDomain) (any, error) { return d.MetaText(image, volume) }},
		{"Share", func(d storageDomain) (any, error) { return d.Share(imgTmpl, volTmpl, image) }},
		{"Permissions", func(d storageDomain) (any, error) { p, err := d.Permissions(name); return p.Mode, err }},
		{"Volumes", func(d storageDomain) (any, error) { return d.Volumes(image) }},
		{"VolumePath", func(d storageDomain) (any, error) { return d.VolumePath(image, volume) }},
		{"ReadVolume", func(d storageDomain) (any, error) { return d.ReadVolume(image, volume) }},
		{"Chain", func(d storageDomain) (any, error) { return d.Chain(image, volume) }},
		{"Children", func(d storageDomain) (any, error) { return d.Children(image, volume) }},
		{"SharedBy", func(d storageDomain) (any, error) { return d.SharedBy(image, volume) }},
		{"Has", func(d storageDomain) (any, error) { return d.Trash().Has(task) }},
		{"Data", func(d storageDomain) (any, error) { return d.Trash().Data(task) }},
		{"Manifest", func(d storageDomain) (any, error) { m, err := d.Trash().Manifest(task); return items(m.Items), err }},
		{"List", func(d storageDomain) (any, error) {
			entries, err := d.Trash().List()
			var out []string
			for _, e := range entries {
				out = append(out, fmt.Sprint(e.Task, e.Reclaiming, e.Problem, items(e.Items)))
			}
			return out, err
		}},
	}
	changes := []call{
		{"CreateImageDir", func(d storageDomain) (any, error) { return d.CreateImageDir(image) }},
		{"RemoveImageDirIfEmpty", func(d storageDomain) (any, error) { return nil, d.RemoveImageDirIfEmpty(image) }},
		{"MakeLease and SetMode", func(d storageDomain) (any, error) {
			if _, err := d.VolumePath(image, volume); err != nil {
				return nil, err
			}
			a, err := d.MakeLease(image, volume)
			if err != nil || a == nil {
				return nil, err
			}
			return a.Resource, d.SetMode(image, volume)
		}},
		{"SetMode", func(d storageDomain) (any, error) { return nil, d.SetMode(image, volume) }},
		{"WriteVolumeMeta", func(d storageDomain) (any, error) {
			return nil, d.WriteVolumeMeta(image, volume, metaOf(image, volume, domain.BlankUUID, domain.Leaf))
		}},
		{"UpdateVolumeMeta", func(d storageDomain) (any, error) {
			return nil, d.UpdateVolumeMeta(image, volume, func(m *domain.VolumeMeta) error {
				m.Legality = map[string]string{domain.Legal: domain.Illegal, domain.Illegal: domain.Legal}[m.Legality]
				return nil
			})
		}},
		{"ShareTemplate", func(d storageDomain) (any, error) { return nil, d.ShareTemplate(imgTmpl, volTmpl, image) }},
		{"UnshareTemplate", func(d storageDomain) (any, error) { return nil, d.UnshareTemplate(imgTmpl, volTmpl, image) }},
		{"Put volume", func(d storageDomain) (any, error) {
			return nil, d.Trash().Put(domain.Entry{Task: task, Label: label, Image: image, Volume: volume})
		}},
		{"Put image", func(d storageDomain) (any, error) {
			return nil, d.Trash().Put(domain.Entry{Task: task, Label: label, Image: image})
		}},
		{"Put stray", func(d storageDomain) (any, error) {
			return nil, d.Trash().Put(domain.Entry{Task: task, Label: stray, Path: stray})
		}},
		{"SetMetaText", func(d storageDomain) (any, error) { return nil, d.SetMetaText(image, volume, []byte("CAP=1\n")) }},
		{"SetShare", func(d storageDomain) (any, error) {
			return nil, d.SetShare(imgTmpl, volTmpl, image, domain.Share{Data: volume == volRaw, Linked: volume == volRaw, Own: map[bool][]byte{true: []byte("CAP=2\n")}[volume == volTop]})
		}},
		{"SetPermissions", func(d storageDomain) (any, error) {
			p, err := d.Permissions(name)
			p.Mode = mode
			return nil, errors.Join(err, d.SetPermissions(name, p))
		}},
		{"Restore some", func(d storageDomain) (any, error) { return nil, d.Trash().Restore(task, only) }},
		{"Restore", func(d storageDomain) (any, error) { return nil, d.Trash().Restore(task, nil) }},
		{"Remove", func(d storageDomain) (any, error) { return nil, d.Trash().Remove(context.Background(), task, nil) }},
	}
	c := rapid.SampledFrom(slices.Concat(reads, changes, changes)).Draw(t, "call")
	c.name = fmt.Sprintf("%s(image …%s, volume …%s, task …%s, %s)", c.name, image[35:], volume[35:], task[35:], label)
	return c
}

func items(list []domain.Item) (out []string) {
	for _, i := range list {
		var names []string
		for _, f := range i.Files {
			names = append(names, f.Name)
		}
		out = append(out, fmt.Sprint(i.Label, i.Kind, i.Image, i.Volume, i.Dir, i.Restoring, names))
	}
	return out
}

// TestSameDomain holds the domain in memory to the real one: what follows any calls is the same answers, or errors with the
// same code, and the same files.
func TestSameDomain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := rapid.Bool().Draw(t, "shared")
		real := realDomain(t, shared)
		defer real.discard()
		w := newWorld().(*world)
		if shared {
			w = sharedWorld().(*world)
		}
		w.disk = withStrays(w.disk)
		mem := memDomain{&hand{disk: w.disk, gate: open}, w, sdID}
		var done []string
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			c := calls(t)
			done = append(done, c.name)
			want, got := c.answer(real.d, real.path), c.answer(mem, "/"+sdID)
			want = strings.ReplaceAll(want, "/.vdsm-agent/trash", "/trash")
			if want != got {
				t.Fatalf("%s\nthe real domain answers %s\nthat in memory        %s", strings.Join(done, "\n"), want, got)
			}
			if a, b := real.files(t), memFiles(mem); a != b {
				t.Fatalf("%s\nthe real domain has\n%s\nthat in memory\n%s", strings.Join(done, "\n"), a, b)
			}
		}
		if n := w.Unsynced(); n > 0 {
			t.Fatalf("%s\n%d changes are not on stable storage", strings.Join(done, "\n"), n)
		}
	})
}

// realOne is a real domain with what a furnished disk has.
type realOne struct {
	dir, path string
	reg       *domain.Registry
	d         storageDomain
}

func metaOf(img, vol, parent, volType string) domain.VolumeMeta {
	return domain.VolumeMeta{
		Capacity: 12 << 20, CTime: time.Unix(1700000000, 0).UTC(), DiskType: "DATA", Domain: sdID, Format: domain.FormatCOW, Image: img,
		Legality: domain.Legal, PUUID: parent, Type: domain.Sparse, VolType: volType,
	}
}

func realDomain(t *rapid.T, shared bool) *realOne {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("/dev/shm", "storageops-")
	must(err)
	x := &realOne{dir: dir, path: filepath.Join(dir, "root", sdID)}
	must(os.Mkdir(filepath.Join(dir, "root"), 0o755))
	x.reg, err = domain.OpenRegistry(domain.Options{Dir: filepath.Join(dir, "state"), Owner: domain.Owner{UID: -1, GID: -1}, Log: zerolog.Nop()})
	must(err)
	must(x.reg.AddRoot(filepath.Join(dir, "root")))
	kind := domain.TypeLocalFS
	if shared {
		kind = domain.TypePosixFS
	}
	_, err = x.reg.Create(domain.CreateSpec{
		UUID: sdID, Path: filepath.Join(dir, "root"), Type: kind, Class: "Data", Version: 5, Format: func(domain.Area) error { return nil },
	})
	must(err)
	x.d, err = registry{x.reg}.Get(sdID)
	must(err)
	furnish(firstVolumes, func(img, vol string, m domain.VolumeMeta, _ picture) {
		_, err := x.d.CreateImageDir(img)
		must(err)
		must(os.WriteFile(filepath.Join(x.path, "images", img, vol), nil, 0o600))
		_, err = x.d.MakeLease(img, vol)
		must(err)
		must(x.d.SetMode(img, vol))
		must(x.d.WriteVolumeMeta(img, vol, m))
	})
	must(x.d.Trash().Put(domain.Entry{Task: oldTask, Label: labelDeleted, Image: imgNew}))
	for _, name := range strays {
		must(os.MkdirAll(filepath.Dir(filepath.Join(x.path, name)), 0o755))
		must(os.WriteFile(filepath.Join(x.path, name), nil, 0o644))
	}
	return x
}

// strays are files that are no volume's, in both domains.
var strays = []string{"images/" + imgA + "/x.tmp", "images/_remove_me_x/y"}

// withStrays is a furnished disk with them.
func withStrays(furnished *disk) *disk {
	h := &hand{disk: furnished, gate: open}
	for _, name := range strays {
		full := "/" + sdID + "/" + name
		if _, err := h.mkdir("", path.Dir(full), 0o755); err != nil {
			panic(err)
		}
		if err := h.replace("", full, []byte(nil)); err != nil {
			panic(err)
		}
	}
	return h.disk.clone()
}

func (x *realOne) discard() {
	x.reg.Close()
	os.RemoveAll(x.dir)
}

// files lists what is in images and in the trash.
func (x *realOne) files(t *rapid.T) string {
	var out []string
	for _, top := range []string{"images", ".vdsm-agent/trash"} {
		err := filepath.WalkDir(filepath.Join(x.path, top), func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			line := strings.TrimPrefix(strings.TrimPrefix(name, x.path), "/.vdsm-agent") + " " + fi.Mode().String()
			if strings.HasSuffix(name, metaSuffix) {
				text, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				if m, err := domain.ParseVolumeMeta(text); err == nil {
					line += " " + m.Legality + " " + m.VolType + " " + m.PUUID + " " + m.Image
				} else {
					line += " " + string(text)
				}
			}
			out = append(out, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func memFiles(m memDomain) string {
	var out []string
	for _, top := range []string{m.imagesDir(), memTrash{m}.trashDir()} {
		_, dir := m.disk.lookup(top)
		out = append(out, strings.TrimPrefix(top, "/"+sdID)+" "+dir.mode.String())
		m.world.see(top, func(name string, _ inode, n *node) {
			line := strings.TrimPrefix(name, "/"+sdID) + " " + n.mode.String()
			switch m := n.data.(type) {
			case domain.VolumeMeta:
				line += " " + m.Legality + " " + m.VolType + " " + m.PUUID + " " + m.Image
			case []byte:
				line += strings.TrimRight(" "+string(m), " ")
			}
			out = append(out, line)
		})
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
