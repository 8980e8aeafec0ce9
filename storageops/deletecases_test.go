package storageops

import (
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks/tasktest/prove"
)

// deleteVolumesCases are those of Image.deleteVolumes: the upper two of a chain of four, whose parent has no other child then, and two
// of which only one is there.
func deleteVolumesCases(in fields) []prove.Case {
	remove := in.with(fields{"imageID": imgA})
	chain := newWorldWith(func(d memDomain) {
		d.overlay(volTop, volMid, domain.Internal, [parts]byte{0, 0, 6, 0}, "")
		d.overlay(volMid, volLeaf, domain.Leaf, [parts]byte{7, 0, 0, 0}, "")
	})
	cases := []prove.Case{
		proofCase("delete two volumes of a chain", "Image.deleteVolumes", remove.with(fields{"volumeList": []string{volMid, volLeaf}})),
		proofCase("delete and wipe two volumes", "Image.deleteVolumes", remove.with(fields{"volumeList": []string{volMid, volLeaf}, "postZero": true})),
		proofCase("delete one volume that is there", "Image.deleteVolumes", remove.with(fields{"volumeList": []string{volNew, volLeaf}})),
	}
	cases[1].Final = true
	for i := range cases {
		cases[i].World = chain
	}
	return cases
}

// overlay puts a volume on another of imgA.
func (m memDomain) overlay(parent, vol, volType string, data [parts]byte, bitmaps string) {
	v := metaOf(imgA, vol, parent, volType)
	m.given(vol, v, picture{format: qemuimg.QCOW2, capacity: v.Capacity, backing: parent, backingFormat: qemuimg.QCOW2, data: data, bitmaps: bitmaps})
	err := m.UpdateVolumeMeta(imgA, parent, func(m *domain.VolumeMeta) error { m.VolType = domain.Internal; return nil })
	if err != nil {
		panic(err)
	}
}
