package storageops

import (
	"fmt"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks/tasktest/prove"
)

// sparsifyCases are an overlay, whose zeros hide what is below, and a raw volume.
func sparsifyCases() []prove.Case {
	one := func(name, img, vol string, world func() prove.World) prove.Case {
		c := proofCase(name, "SDM.sparsify_volume", fields{"vol_info": fields{"sd_id": sdID, "img_id": img, "vol_id": vol, "generation": 0}})
		c.World, c.Remainder = world, partSparsified
		return c
	}
	return []prove.Case{
		one("sparsify an overlay", imgA, volTop, newWorldWith(func(d memDomain) {
			d.change(imgA, volTop, func(_ *domain.VolumeMeta, p *picture) {
				p.data, p.room = [parts]byte{zeros, 2, zeros, zeros}, [parts]bool{true, true, true, true}
			})
		})),
		one("sparsify raw", imgNew, volNew, newWorldWith(func(d memDomain) {
			m := metaOf(imgNew, volNew, domain.BlankUUID, domain.Leaf)
			m.Format = domain.FormatRaw
			d.given(volNew, m, picture{format: qemuimg.Raw, capacity: m.Capacity, data: [parts]byte{zeros, 1, 2, zeros}, room: [parts]bool{true, true, true, true}})
		})),
	}
}

// partSparsified is the remainder of a sparsification: anything may be allocated, and nothing else is changed.
func partSparsified(before, after string) error {
	was, is, err := differing(before, after)
	for name, line := range is {
		if allocated.ReplaceAllString(was[name], "") != allocated.ReplaceAllString(line, "") {
			return fmt.Errorf("%s is not of the remainder of a sparsification", line)
		}
	}
	return err
}
