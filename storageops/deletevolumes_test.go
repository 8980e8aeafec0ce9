package storageops_test

import (
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
)

// chainOfFour puts volMid and volLeaf on volTop.
func chainOfFour(h *host) {
	h.overlay(volTop, volMid)
	h.overlay(volMid, volLeaf)
}

// overlay puts a volume with some data on a qcow2 leaf of imgA.
func (h *host) overlay(parent, vol string) {
	h.t.Helper()
	h.volume(imgA, vol, zeroUUID, domain.FormatCOW, domain.Leaf)
	h.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", parent, "-F", "qcow2", h.path("images", imgA, vol))
	h.meta(imgA, vol, func(m *domain.VolumeMeta) { m.PUUID = parent })
	h.meta(imgA, parent, func(m *domain.VolumeMeta) { m.VolType = domain.Internal })
}

func deleteVolumesVerbCases() []hostCase {
	remove := map[string]any{"imageID": imgA, "volumeList": []string{volMid, volLeaf}, "postZero": false, "force": "false"}
	return []hostCase{
		{verbCase{"delete two volumes of a chain", "Image.deleteVolumes", with(remove), []string{"trash 0/" + volLeaf, "trash 1/" + volMid}, []string{"images/" + imgA + "/" + volMid}, true}, chainOfFour, nil},
		{verbCase{"delete and wipe two volumes", "Image.deleteVolumes", with(remove, "postZero", "true"), []string{"trash 1/" + volMid}, nil, false}, chainOfFour, nil},
		{verbCase{"delete all of an image but its base", "Image.deleteVolumes", with(remove, "volumeList", []string{volTop, volLeaf, volMid}), []string{"trash 2/" + volTop}, []string{"INTERNAL"}, true}, chainOfFour, nil},
	}
}

// TestDeleteVolumesRefusals: see TestRefusals.
func TestDeleteVolumesRefusals(t *testing.T) {
	params := func(img string, volumes ...string) map[string]any {
		return with(nil, "imageID", img, "volumeList", volumes, "postZero", false, "force", false)
	}
	refusals(t, []refusal{
		{"none", "Image.deleteVolumes", params(imgA), code.InvalidParameter, "volumeList"},
		{"not the child", "Image.deleteVolumes", params(imgA, volRaw), code.VolumeImageHasChild, volTop},
		{"no such domain", "Image.deleteVolumes", with(params(imgA, volTop), "storagedomainID", imgA), code.DomainDoesNotExist, imgA},
		{"bad uuid", "Image.deleteVolumes", params(imgA, "X"), code.InvalidParameter, "volumeList"},
	})
}
