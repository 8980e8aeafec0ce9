package storageops_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// TestHostileVolumes: whatever somebody has put in the place of a volume, verbs that read it refuse it by a sentence, open nothing that it
// points to, and leave nothing.
func TestHostileVolumes(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("geheim", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	volume := func(h *host) string { return h.path("images", imgB, volOld) }
	instead := func(put func(path string) error) func(h *host) {
		return func(h *host) {
			h.must(os.Remove(volume(h)))
			h.must(put(volume(h)))
		}
	}
	qcow2 := func(args ...string) func(h *host) {
		return func(h *host) {
			h.must(os.Remove(volume(h)))
			h.run("qemu-img", append(append([]string{"create", "-q", "-u", "-f", "qcow2"}, args...), volume(h), "12M")...)
		}
	}
	patch := func(at int64, b ...byte) func(h *host) {
		return func(h *host) {
			f, err := os.OpenFile(volume(h), os.O_RDWR, 0)
			h.must(err)
			defer f.Close()
			_, err = f.WriteAt(b, at)
			h.must(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func(h *host)
		code code.Code
	}{
		{"volume is a link", instead(func(path string) error { return os.Symlink("/etc/passwd", path) }), code.DomainLayout},
		{"volume is a link to a volume", instead(func(path string) error { return os.Symlink("../"+imgA+"/"+volRaw, path) }), code.DomainLayout},
		{"volume is a pipe", instead(func(path string) error { return unix.Mkfifo(path, 0o660) }), code.DomainLayout},
		{"volume is a device", instead(func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o660, int(unix.Mkdev(1, 5))) }), code.DomainLayout},
		{"volume is a directory", instead(func(path string) error { return os.Mkdir(path, 0o755) }), code.DomainLayout},
		{"metadata is a link", func(h *host) {
			h.must(os.Remove(volume(h) + ".meta"))
			h.must(os.Symlink("/etc/shadow", volume(h)+".meta"))
		}, code.DomainLayout},
		{"image is a link", func(h *host) {
			away := filepath.Join(h.dir, "away")
			h.must(os.Rename(h.path("images", imgB), away))
			h.must(os.Symlink(away, h.path("images", imgB)))
		}, code.DomainLayout},
		{"backing file", qcow2("-b", secret, "-F", "raw"), code.ImageVerification},
		{"backing file elsewhere in the domain", qcow2("-b", "../"+imgA+"/"+volRaw, "-F", "raw"), code.ImageVerification},
		{"json in the header", qcow2("-b", `json:{"driver":"raw","file":{"driver":"file","filename":"`+secret+`"}}`, "-F", "raw"), code.ImageVerification},
		{"network in the header", qcow2("-b", "nbd://127.0.0.1:1/x", "-F", "raw"), code.ImageVerification},
		{"data file", func(h *host) {
			h.must(os.Remove(volume(h)))
			h.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(t.TempDir(), "data"), volume(h), "12M")
		}, code.ImageVerification},
		{"huge L1 table", patch(36, 0xff, 0xff, 0xff, 0xff), code.ImageVerification},
		{"huge table of reference counts", patch(56, 0xff, 0xff, 0xff, 0xff), code.ImageVerification},
		{"huge table of snapshots", patch(60, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 0, 0), code.ImageVerification},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			c.do(h)
			before := h.names()
			refused := func(verb string, err error) {
				t.Helper()
				if code.Of(err) != c.code || strings.Contains(fmt.Sprint(err), "geheim") {
					t.Errorf("%s answers %d: %v; want %d", verb, code.Of(err), err, c.code)
				}
			}
			err := h.submit("Volume.copy", with(map[string]any{"volumeID": volOld, "imageID": imgB, "dstSdUUID": sd, "dstImgUUID": imgNew, "dstVolUUID": volNew,
				"volFormat": 5, "preallocate": 2}))
			if err == nil {
				v := h.ended()
				if v.State != tasks.Recovered {
					t.Errorf("the copy ended %s", v.State)
				}
				err = code.Errorf(v.Code, "%s", v.Message)
			}
			refused("Volume.copy", err)
			asked := map[string]any{"storagedomainID": sd, "storagepoolID": zeroUUID, "imageID": imgB, "volumeID": volOld}
			refused("Volume.verify_untrusted", h.ask("Volume.verify_untrusted", asked, nil))
			if c.code == code.DomainLayout { // headers are looked at by who reads the data
				refused("Image.prepare", h.ask("Image.prepare", asked, nil))
				refused("Volume.getInfo", h.ask("Volume.getInfo", asked, nil))
			}
			if after := h.names(); after != before {
				t.Errorf("there was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// names are all names in images.
func (h *host) names() string {
	h.t.Helper()
	return h.run("find", h.path("images"), "-printf", "%y %p\n")
}
