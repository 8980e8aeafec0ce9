package storageops

import (
	"fmt"
	"strings"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks/tasktest/prove"
)

const (
	sdOther    = "22222222-2222-4333-8444-555555555555"
	imgChain   = "aaaaaaaa-0000-4000-8000-000000000011" // volBase ← volMid ← volLeaf
	imgDerived = "aaaaaaaa-0000-4000-8000-000000000012" // volTmpl ← volOn
	volBase    = "bbbbbbbb-0000-4000-8000-000000000011"
	volMid     = "bbbbbbbb-0000-4000-8000-000000000012"
	volLeaf    = "bbbbbbbb-0000-4000-8000-000000000013"
	volOn      = "bbbbbbbb-0000-4000-8000-000000000014"
)

// otherVolumes are in the other domain.
var otherVolumes = []furniture{
	{imgChain, volBase, domain.BlankUUID, domain.FormatRaw, domain.Internal, [parts]byte{1, 1, 0, 0}, ""},
	{imgChain, volMid, volBase, domain.FormatCOW, domain.Internal, [parts]byte{0, 2, 0, 0}, "b,"},
	{imgChain, volLeaf, volMid, domain.FormatCOW, domain.Leaf, [parts]byte{0, 0, 3, 0}, "b,"},
	{imgTmpl, volTmpl, domain.BlankUUID, domain.FormatCOW, domain.Shared, [parts]byte{3, 0, 3, 0}, ""},
	{imgDerived, volOn, volTmpl, domain.FormatCOW, domain.Leaf, [parts]byte{0, 4, 0, 0}, ""},
}

// oldStructure is the chain in the first domain, with something in it.
var oldStructure = []furniture{
	{imgChain, volBase, domain.BlankUUID, domain.FormatRaw, domain.Internal, [parts]byte{9, 0, 0, 9}, ""},
	{imgChain, volMid, volBase, domain.FormatCOW, domain.Internal, [parts]byte{0, 0, 9, 0}, "b,"},
	{imgChain, volLeaf, volMid, domain.FormatCOW, domain.Leaf, [parts]byte{}, ""},
}

// twoDomains is a world with the other domain, and more volumes in the first one.
func twoDomains(more ...furniture) func() prove.World {
	return func() prove.World {
		w := newWorld().(*world)
		d := w.addDomain(sdOther, otherVolumes)
		if err := d.ShareTemplate(imgTmpl, volTmpl, imgDerived); err != nil {
			panic(err)
		}
		w.addVolumes(sdID, more)
		w.disk = w.disk.clone() // all of it is safe
		return w
	}
}

// leavesIllegal says that these volumes of an image in the first domain may be left ILLEGAL with anything in them.
func leavesIllegal(img string, volumes ...string) func(before, after string) error {
	return func(before, after string) error {
		var was, is []string
		for _, vol := range volumes {
			name := memDomain{id: sdID}.file(img, vol)
			if m := lineOf(before, name+metaSuffix); strings.Replace(m, domain.Legal, domain.Illegal, 1) != lineOf(after, name+metaSuffix) {
				if before == after {
					return nil // no data was copied yet
				}
				return fmt.Errorf("the metadata of volume %s is %q", vol, lineOf(after, name+metaSuffix))
			}
			was, is = append(was, lineOf(before, name), lineOf(before, name+metaSuffix)), append(is, lineOf(after, name), lineOf(after, name+metaSuffix))
		}
		if a, b := without(before, was), without(after, is); a != b {
			return fmt.Errorf("the world is\n%s\nwhere it was\n%s", b, a)
		}
		return nil
	}
}

func lineOf(text, name string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, name+" ") {
			return line
		}
	}
	return ""
}

func without(text string, lines []string) string {
	for _, line := range lines {
		text = strings.Replace(text, line+"\n", "", 1)
	}
	return text
}

// chainCases are those of the verbs on whole chains.
func chainCases() []prove.Case {
	from := fields{"storagedomainID": sdOther, "dstSdUUID": sdID, "storagepoolID": domain.BlankUUID, "imageID": imgChain}
	in := func(c prove.Case, world func() prove.World) prove.Case {
		c.World = world
		return c
	}
	full := func() prove.World {
		w := twoDomains()().(*world)
		w.fullAt = 2
		return w
	}
	syncs := func(name, which string, volumes ...string) prove.Case {
		c := in(proofCase(name, "Image.syncData", from.with(fields{"syncType": which})), twoDomains(oldStructure...))
		c.Remainder = leavesIllegal(imgChain, volumes...)
		return c
	}
	template := from.with(fields{"imageID": imgTmpl, "operation": "COPY", "force": "true"})
	return []prove.Case{
		in(proofCase("copy an image", "Image.move", from.with(fields{"operation": 1})), twoDomains()),
		in(proofCase("move an image", "Image.move", from.with(fields{"operation": "MOVE"})), twoDomains()),
		in(proofCase("move a derived image", "Image.move", from.with(fields{"imageID": imgDerived, "operation": 2})), twoDomains()),
		in(proofCase("move over an old image", "Image.move", from.with(fields{"operation": 2, "force": true, "postZero": true})), twoDomains(oldStructure...)),
		in(proofCase("copy a template over an old one", "Image.move", template), twoDomains()),
		in(proofCase("copy an image into a full domain", "Image.move", from.with(fields{"operation": 1})), full),
		in(proofCase("clone a structure", "Image.cloneStructure", from), twoDomains()),
		syncs("sync a chain", "ALL", volBase, volMid, volLeaf),
		syncs("sync internal volumes", "INTERNAL", volBase, volMid),
	}
}
