package storageops_test

import (
	"regexp"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// rawLeaf puts a raw volume in imgNew.
func rawLeaf(allocation string) func(h *host) {
	return func(h *host) {
		h.volume(imgNew, volNew, zeroUUID, domain.FormatRaw, domain.Leaf)
		h.meta(imgNew, volNew, func(m *domain.VolumeMeta) { m.Type = allocation })
	}
}

// meta changes a volume's metadata by hand.
func (h *host) meta(img, vol string, change func(*domain.VolumeMeta)) {
	h.t.Helper()
	d, err := h.domains.Get(sd)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := d.UpdateVolumeMeta(img, vol, func(m *domain.VolumeMeta) error { change(m); return nil }); err != nil {
		h.t.Fatal(err)
	}
}

func extendVerbCases() []hostCase {
	extend := map[string]any{"volumeID": volNew, "imageID": imgNew, "newSize": "50331647"}
	one := func(name string, setup func(*host), params map[string]any) hostCase {
		return hostCase{verbCase{name, "Volume.extendSize", params, []string{"CAP=50331648"}, nil, false}, setup, grown}
	}
	return []hostCase{
		one("extend raw", rawLeaf(domain.Sparse), with(extend)),
		one("extend raw preallocated", rawLeaf(domain.Preallocated), with(extend)),
		one("extend an overlay", nil, with(extend, "volumeID", volTop, "imageID", imgA)),
		one("extend cow preallocated", func(h *host) {
			h.meta(imgB, volOld, func(m *domain.VolumeMeta) { m.Type = domain.Preallocated })
		}, with(extend, "volumeID", volOld, "imageID", imgB)),
	}
}

var sizes = regexp.MustCompile(`CAP=\d+|size:\d+( map:[0-9a-f]+)?`)

// grown says whether two trees differ in nothing but the sizes of volumes.
func grown(before, tree string) bool {
	return sizes.ReplaceAllString(before, "") == sizes.ReplaceAllString(tree, "")
}

// TestExtendKeepsContent: a guest reads what it has read, then zeros, and the file has the size that the metadata says.
func TestExtendKeepsContent(t *testing.T) {
	for _, c := range extendVerbCases() {
		t.Run(c.name, func(t *testing.T) {
			h := c.on(newHostInMemory(t))
			file := h.path("images", c.params["imageID"].(string), c.params["volumeID"].(string))
			format := "qcow2"
			if strings.Contains(c.name, "raw") {
				format = "raw"
			}
			was := t.TempDir() + "/was"
			h.run("qemu-img", "convert", "-f", format, "-O", "raw", file, was)
			if err := h.submit(c.verb, c.params); err != nil {
				t.Fatal(err)
			}
			if v := h.ended(); v.State != tasks.Finished {
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
			h.run("qemu-img", "compare", "-f", format, "-F", "raw", file, was) // what one has more must be zeros
			if info := h.run("qemu-img", "info", "-f", format, file); !strings.Contains(info, "(50331648 bytes)") {
				t.Error(info)
			}
			room := strings.Fields(h.run("du", "--block-size=1M", file))[0]
			if strings.Contains(c.name, "preallocated") != (len(room) == 2 && room >= "36") { // what is new, at least
				t.Errorf("it takes %s MiB", room)
			}
		})
	}
}

// TestExtendRefusals: see TestRefusals.
func TestExtendRefusals(t *testing.T) {
	params := func(img, vol, size string) map[string]any {
		return with(nil, "imageID", img, "volumeID", vol, "newSize", size)
	}
	refusals(t, []refusal{
		{"internal", "Volume.extendSize", params(imgA, volRaw, "20971520"), code.VolumeNonWritable, "INTERNAL"},
		{"template", "Volume.extendSize", params(imgTmpl, volTmpl, "20971520"), code.VolumeNonWritable, "template"},
		{"smaller", "Volume.extendSize", params(imgB, volOld, "4096"), code.VolumeResize, "smaller"},
		{"no size", "Volume.extendSize", params(imgB, volOld, "0"), code.InvalidParameter, "newSize"},
		{"no such volume", "Volume.extendSize", params(imgB, volNew, "20971520"), code.VolumeDoesNotExist, volNew},
	})
}
