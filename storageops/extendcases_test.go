package storageops

import (
	"fmt"
	"regexp"
	"strings"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks/tasktest/prove"
)

// extendCases are those of Volume.extendSize: an overlay, a raw volume, and a raw one that grows in two pieces.
func extendCases(in fields) []prove.Case {
	extend := in.with(fields{"imageID": imgNew, "volumeID": volNew, "newSize": "50331647"})
	raw := func(allocation string) func() prove.World {
		return newWorldWith(func(d memDomain) {
			m := metaOf(imgNew, volNew, domain.BlankUUID, domain.Leaf)
			m.Format, m.Type = domain.FormatRaw, allocation
			d.given(volNew, m, picture{format: qemuimg.Raw, capacity: m.Capacity, data: [parts]byte{1, 0, 0, 2}})
		})
	}
	cases := []prove.Case{
		proofCase("extend raw", "Volume.extendSize", extend),
		proofCase("extend raw preallocated", "Volume.extendSize", extend),
		proofCase("extend an overlay", "Volume.extendSize", extend.with(fields{"imageID": imgA, "volumeID": volTop})),
		proofCase("extend by nothing", "Volume.extendSize", extend.with(fields{"imageID": imgA, "volumeID": volTop, "newSize": "12582912"})),
	}
	cases[0].World, cases[1].World = raw(domain.Sparse), raw(domain.Preallocated)
	for i := range cases {
		cases[i].Remainder = grown
	}
	return cases
}

var (
	capInMeta  = regexp.MustCompile(` cap=(\d+) `)
	capInImage = regexp.MustCompile(` \{(?:raw|qcow2) \S* ?\S* ?(\d+) \[`)
	allocated  = regexp.MustCompile(`\[(?:true|false)( (?:true|false)){3}\]`)
)

// grown is the remainder of an extension: the file may be longer, and its metadata says exactly that.
func grown(before, after string) error {
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	if len(was) != len(is) {
		return fmt.Errorf("the world is\n%s\nwhere it was\n%s", after, before)
	}
	size := map[string]string{}
	for i := range was {
		if was[i] == is[i] {
			continue
		}
		name, _, _ := strings.Cut(is[i], " ")
		for _, r := range []*regexp.Regexp{capInMeta, capInImage} {
			if found := r.FindStringSubmatch(is[i]); found != nil {
				size[name] = found[1]
			}
		}
		for _, r := range []*regexp.Regexp{capInMeta, capInImage, allocated} {
			was[i], is[i] = r.ReplaceAllString(was[i], ""), r.ReplaceAllString(is[i], "")
		}
		if was[i] != is[i] {
			return fmt.Errorf("%s is not of the remainder of an extension", is[i])
		}
	}
	for name, n := range size {
		if other := size[strings.TrimSuffix(name, metaSuffix)]; other != n {
			return fmt.Errorf("%s says %s, its file has %q", name, n, other)
		}
		if other, there := size[strings.TrimSuffix(name, metaSuffix)+metaSuffix]; !there || other != n {
			return fmt.Errorf("%s has %s, its metadata says %q", name, n, other)
		}
	}
	return nil
}
