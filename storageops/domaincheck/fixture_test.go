package domaincheck

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vdsm-agent/storageops/domain"

	"github.com/rs/zerolog"
)

const (
	sd      = "11111111-2222-4333-8444-555555555555"
	imgA    = "aaaaaaaa-0000-4000-8000-000000000001" // base ← leaf
	imgTmpl = "aaaaaaaa-0000-4000-8000-000000000002" // tmpl
	imgB    = "aaaaaaaa-0000-4000-8000-000000000003" // tmpl ← child
	imgRaw  = "aaaaaaaa-0000-4000-8000-000000000004" // raw, preallocated
	base    = "bbbbbbbb-0000-4000-8000-000000000001"
	leaf    = "bbbbbbbb-0000-4000-8000-000000000002"
	tmpl    = "bbbbbbbb-0000-4000-8000-000000000003"
	child   = "bbbbbbbb-0000-4000-8000-000000000004"
	raw     = "bbbbbbbb-0000-4000-8000-000000000005"
	other   = "bbbbbbbb-0000-4000-8000-000000000009"
	task    = "cccccccc-0000-4000-8000-000000000001"
	size    = 1 << 20
)

// fixture is a domain on disk.
type fixture struct {
	t    *testing.T
	root string
	path string
}

func (x *fixture) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *fixture) run(name string, args ...string) {
	x.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		x.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func (x *fixture) at(name string) string { return filepath.Join(x.path, name) }

func (x *fixture) in(img, name string) string { return x.at(filepath.Join("images", img, name)) }

// sound makes a domain in which nothing is to be found.
func sound(t *testing.T) *fixture {
	t.Helper()
	x := &fixture{t: t, root: t.TempDir()}
	x.path = filepath.Join(x.root, sd)
	reg, err := domain.OpenRegistry(domain.Options{Dir: t.TempDir(), Owner: domain.Owner{UID: -1, GID: -1}, Name: "agent", Log: zerolog.Nop()})
	x.must(err)
	defer reg.Close()
	x.must(reg.AddRoot(x.root))
	d, err := reg.Create(domain.CreateSpec{UUID: sd, Path: x.root, Name: "sound", Type: domain.TypeLocalFS, Class: "Data", Version: 5})
	x.must(err)
	for _, img := range []string{imgA, imgTmpl, imgB, imgRaw} {
		_, err := d.CreateImageDir(img)
		x.must(err)
	}
	x.volume(d, imgA, base, "", domain.Internal, domain.FormatCOW)
	x.volume(d, imgA, leaf, base, domain.Leaf, domain.FormatCOW)
	x.volume(d, imgTmpl, tmpl, "", domain.Shared, domain.FormatCOW)
	x.must(d.ShareTemplate(imgTmpl, tmpl, imgB))
	x.volume(d, imgB, child, tmpl, domain.Leaf, domain.FormatCOW)
	x.volume(d, imgRaw, raw, "", domain.Leaf, domain.FormatRaw)
	return x
}

func (x *fixture) volume(d *domain.Domain, img, vol, parent, volType, format string) {
	x.t.Helper()
	m := domain.VolumeMeta{
		Capacity: size, CTime: time.Unix(1700000000, 0), DiskType: "DATA", Domain: sd, Format: format, Image: img, Legality: domain.Legal,
		PUUID: domain.BlankUUID, Type: domain.Sparse, VolType: volType,
	}
	switch {
	case format == domain.FormatRaw:
		m.Type = domain.Preallocated
		x.run("fallocate", "-l", fmt.Sprint(size), x.in(img, vol))
	case parent != "":
		m.PUUID = parent
		x.run("sh", "-c", "cd "+x.in(img, "")+" && qemu-img create -q -u -f qcow2 -b "+parent+" -F qcow2 "+vol+" "+fmt.Sprint(size))
	default:
		x.run("qemu-img", "create", "-q", "-f", "qcow2", x.in(img, vol), fmt.Sprint(size))
	}
	x.must(d.SetMode(img, vol))
	x.must(d.WriteVolumeMeta(img, vol, m))
}

// put writes a file; its directory is made.
func (x *fixture) put(name, content string) {
	x.t.Helper()
	x.must(os.MkdirAll(filepath.Dir(x.at(name)), 0o755))
	x.must(os.WriteFile(x.at(name), []byte(content), 0o660))
	x.must(os.Chmod(x.at(name), 0o660))
}

// edit replaces words in a file in its place, so that hard links stay.
func (x *fixture) edit(name, old, replacement string) {
	x.t.Helper()
	text, err := os.ReadFile(x.at(name))
	x.must(err)
	changed := strings.Replace(string(text), old, replacement, 1)
	if changed == string(text) {
		x.t.Fatalf("%q is not in %s", old, name)
	}
	x.must(os.WriteFile(x.at(name), []byte(changed), 0o644))
}

// editMeta is edit for dom_md/metadata, with the checksum made right.
func (x *fixture) editMeta(old, replacement string) {
	x.t.Helper()
	x.edit("dom_md/metadata", old, replacement)
	text, err := os.ReadFile(x.at("dom_md/metadata"))
	x.must(err)
	m, err := domain.ParseDomainMeta(withoutChecksum(text))
	x.must(err)
	text, err = m.Encode()
	x.must(err)
	x.must(os.WriteFile(x.at("dom_md/metadata"), text, 0o644))
}

func (x *fixture) remove(name string) {
	x.t.Helper()
	x.must(os.Remove(x.at(name)))
}

// check checks the domain.
func (x *fixture) check(o Options) *Report {
	x.t.Helper()
	root, err := Dir(x.path)
	x.must(err)
	defer root.Close()
	o.Path = x.path
	r, err := Check(x.t.Context(), root.FS(), o)
	x.must(err)
	return r
}

// say is the findings in short: class, path and repair.
func say(r *Report) string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Class, f.Path, f.Repair)))
	}
	return strings.Join(out, "\n")
}
