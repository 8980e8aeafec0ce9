package storageops

import (
	"fmt"
	"strings"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks/tasktest/prove"
)

// mergeCases are those of the four calls of a merge, of a volume in the middle of a chain and of its leaf.
func mergeCases(in fields) []prove.Case {
	pair := func(base, top string) fields {
		return fields{"sd_id": sdID, "img_id": imgA, "base_id": base, "top_id": top, "base_generation": 0}
	}
	middle, leaf, raw := pair(volTop, volMid), pair(volMid, volLeaf), pair(volRaw, volTop)
	// The base has a bitmap that the top has not, the top has one that the base has not, and is larger.
	chain := func(change func(d memDomain)) func() prove.World {
		return newWorldWith(func(d memDomain) {
			d.change(imgA, volTop, func(_ *domain.VolumeMeta, p *picture) { p.bitmaps = "kept,stale," })
			d.overlay(volTop, volMid, domain.Internal, [parts]byte{6, 0, 6, 0}, "kept,new,")
			d.overlay(volMid, volLeaf, domain.Leaf, [parts]byte{0, 0, 7, 0}, "kept,")
			if change != nil {
				change(d)
			}
		})
	}
	larger := func(volumes ...string) func(d memDomain) {
		return func(d memDomain) {
			for _, v := range volumes {
				d.change(imgA, v, func(m *domain.VolumeMeta, p *picture) { m.Capacity, p.capacity = 16<<20, 16<<20 })
			}
		}
	}
	full := func() prove.World {
		w := chain(nil)().(*world)
		w.fullAt = 2
		return w
	}
	again := func(d memDomain) { // after a merge that was stopped
		d.change(imgA, volTop, func(m *domain.VolumeMeta, p *picture) {
			m.Legality, m.Merging, p.data[0] = domain.Illegal, true, 6
		})
	}
	one := func(name, verb string, params fields, world func() prove.World, remainder func(before, after string) error) prove.Case {
		c := proofCase(name, verb, params)
		c.World, c.Remainder = world, remainder
		return c
	}
	pool := func(info fields) fields { return in.with(fields{"subchainInfo": info}) }
	job := func(info fields) fields { return fields{"subchain_info": info, "merge_bitmaps": true} }
	return []prove.Case{
		one("prepare a merge", "StoragePool.prepareMerge", pool(middle), chain(larger(volMid, volLeaf)), pruned),
		one("prepare a merge into raw", "StoragePool.prepareMerge", pool(raw), chain(larger(volTop, volMid, volLeaf)), nil),
		one("prepare a merge with nothing to do", "StoragePool.prepareMerge", pool(leaf), chain(nil), pruned),
		one("finalize a merge", "StoragePool.finalizeMerge", pool(middle), chain(nil), nil),
		one("finalize a merge of the leaf", "StoragePool.finalizeMerge", pool(leaf), chain(nil), nil),
		one("merge", "SDM.merge", job(middle), chain(nil), partMerged),
		one("merge the leaf into raw", "SDM.merge", job(raw), newWorld, partMerged),
		one("merge again", "SDM.merge", job(middle), chain(again), partMerged),
		one("merge in a full domain", "SDM.merge", job(middle), full, partMerged),
	}
}

// change changes a volume that is there, as if it had always been so.
func (m memDomain) change(img, vol string, f func(*domain.VolumeMeta, *picture)) {
	v, err := m.ReadVolume(img, vol)
	if err != nil {
		panic(err)
	}
	_, n := m.disk.lookup(m.file(img, vol))
	p := n.data.(picture)
	f(&v, &p)
	m.given(vol, v, p)
}

// differing are the lines of two worlds that are not the same, by the name of what they are about.
func differing(before, after string) (was, is map[string]string, err error) {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	if len(a) != len(b) {
		return nil, nil, fmt.Errorf("the world is\n%s\nwhere it was\n%s", after, before)
	}
	was, is = map[string]string{}, map[string]string{}
	for i := range a {
		if a[i] != b[i] {
			name, _, _ := strings.Cut(a[i], " ")
			was[name], is[name] = a[i], b[i]
		}
	}
	return was, is, nil
}

// pruned is the remainder of a preparation: bitmaps that were of no use.
func pruned(before, after string) error {
	was, is, err := differing(before, after)
	for name, line := range is {
		if strings.NewReplacer("stale,", "", "new,", "").Replace(was[name]) != line {
			return fmt.Errorf("%s is not of the remainder of a preparation", line)
		}
	}
	return err
}

// partMerged is the remainder of a merge: the base is ILLEGAL and part merged, and nothing else is changed.
func partMerged(before, after string) error {
	was, is, err := differing(before, after)
	if err != nil || len(is) == 0 {
		return err
	}
	for name, line := range is {
		base := strings.TrimSuffix(name, metaSuffix)
		switch {
		case base == name && !strings.Contains(after, base+metaSuffix+" ILLEGAL"):
			return fmt.Errorf("%s has changed, and is LEGAL", line)
		case base == name && !within(was[name], line):
			return fmt.Errorf("%s is not part merged from %s", line, was[name])
		case base != name && strings.Replace(was[name], " LEGAL ", " ILLEGAL merging ", 1) != line:
			return fmt.Errorf("%s is not of the remainder of a merge", line)
		}
	}
	return nil
}

// within says whether each part of an image is what it was, or what the top holds there.
func within(was, is string) bool {
	a, b := strings.Fields(was), strings.Fields(is)
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if merged := strings.Trim(b[i], "[]"); a[i] != b[i] && merged != "6" && merged != "2" {
			return false
		}
	}
	return true
}
