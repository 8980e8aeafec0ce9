package storageops_test

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// zeroed lets a guest overwrite with zeros what the leaf of a chain, a volume of its own, and the base below that leaf held.
func zeroed(h *host) {
	h.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0 512k 3M", "-c", "write -q -P 0 8M 4M", h.path("images", imgA, volTop))
	h.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 0 1M 3M", h.path("images", imgB, volOld))
}

// rawZeroed adds a raw volume with zeros in it.
func rawZeroed(h *host) {
	h.volume("aaaaaaaa-0000-4000-8000-000000000009", volNew, zeroUUID, domain.FormatRaw, domain.Leaf)
	h.run("qemu-io", "-f", "raw", "-c", "write -q -P 0 2M 3M", h.path("images", "aaaaaaaa-0000-4000-8000-000000000009", volNew))
}

func sparsifying(name, img, vol string, setup func(*host)) jobCase {
	c := changing(img, vol, verbCase{name, "SDM.sparsify_volume", on(volume(img, vol), nil), []string{"GEN=1"}, []string{"ILLEGAL"}, false})
	c.setup, c.left = setup, partSparsified
	return c
}

// sparsifyJobCases are an overlay and a raw volume. An agent that dies may take bitmaps with it, so none of them has any.
func sparsifyJobCases() []jobCase {
	return []jobCase{
		sparsifying("sparsify an overlay", imgA, volTop, zeroed),
		sparsifying("sparsify a raw volume", "aaaaaaaa-0000-4000-8000-000000000009", volNew, rawZeroed),
	}
}

var mapOf = regexp.MustCompile(` map:\w+`)

// partSparsified says whether two trees differ at most in where in their chains volumes hold zeros: a guest reads the same.
func partSparsified(before, tree string) bool {
	return mapOf.ReplaceAllString(before, "") == mapOf.ReplaceAllString(tree, "")
}

func (h *host) allocated(img, vol string) int64 {
	h.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(h.path("images", img, vol), &st); err != nil {
		h.t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestSparsifyFrees: the room of the zeros is free, and each volume reads the same, bitmaps and all; an overlay's zeros hide its base.
func TestSparsifyFrees(t *testing.T) {
	for _, c := range append(sparsifyJobCases(), sparsifying("sparsify a volume with bitmaps", imgB, volOld, zeroed)) {
		t.Run(c.name, func(t *testing.T) {
			h := c.on(newHost(t))
			img, vol := c.changes.img, c.changes.vol
			before, had := h.tree(), h.allocated(img, vol)
			if v := h.next(c.verb, c.params); v.State != tasks.Finished {
				t.Fatalf("ended %s: %s", v.State, v.Message)
			}
			if has := h.allocated(img, vol); has > had-2<<20 {
				t.Errorf("%d bytes are allocated of %d", has, had)
			}
			if tree := strings.Replace(h.tree(), "GEN=1", "GEN=0", 1); !partSparsified(before, tree) {
				same(t, before, tree)
			}
			if vol == volTop && !slices.ContainsFunc(h.layers(h.path("images", img, vol), "qcow2"), func(e extent) bool {
				return e.Depth == 0 && e.Zero && !e.Data && e.Start <= 1<<20 && e.Start+e.Length >= 3<<20
			}) {
				t.Error("the overlay does not hold its zeros any more")
			}
			if vol != volNew {
				h.run("qemu-img", "check", "-q", "-f", "qcow2", h.path("images", img, vol))
			}
		})
	}
}

// TestSparsifyRefusals are refusals that need more than a newHost has.
func TestSparsifyRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(h *host)
		code   code.Code
		text   string
	}{
		{"PREALLOCATED", func(h *host) { h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Type = domain.Preallocated }) }, code.Unsupported, "PREALLOCATED"},
		{"ILLEGAL", func(h *host) { h.meta(imgA, volTop, func(m *domain.VolumeMeta) { m.Legality = domain.Illegal }) }, code.PrepareIllegalVolume, "ILLEGAL"},
		{"an old version", func(h *host) {
			h.run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", h.path("images", imgA, volTop))
		}, code.Unsupported, "0.10"},
		{"another base", func(h *host) {
			h.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", h.path("images", imgA, volTop))
		}, code.ImageVerification, "/etc/passwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostInMemory(t)
			c.change(h)
			before := h.tree()
			if v := h.next("SDM.sparsify_volume", on(volume(imgA, volTop), nil)); v.State != tasks.Recovered || v.Code != c.code || !strings.Contains(v.Message, c.text) {
				t.Errorf("ended %s/%d: %s", v.State, v.Code, v.Message)
			}
			same(t, before, h.tree())
		})
	}
}
