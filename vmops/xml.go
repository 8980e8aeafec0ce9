package vmops

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"

	"github.com/beevik/etree"
)

// enginePath is how engines name a volume of a pool; VDSM has links there, we look the volume up.
var enginePath = regexp.MustCompile(`^/rhev/data-center/.*?([a-f0-9-]{36})/images/([a-f0-9-]{36})/([a-f0-9-]{36})$`)

// imagePath finds the image in the path of a volume's file.
var imagePath = regexp.MustCompile(`/images/([a-f0-9-]{36})/[a-f0-9-]{36}$`)

// volumePath finds the volume in the path of its file.
var volumePath = regexp.MustCompile(`/([a-f0-9-]{36})/images/([a-f0-9-]{36})/([a-f0-9-]{36})$`)

// description is a machine's XML, as far as it is of interest.
type description struct {
	doc  *etree.Document
	root *etree.Element
}

func parseXML(text string) (description, error) {
	doc := etree.NewDocument()
	err := doc.ReadFromString(text)
	root := doc.Root()
	if err != nil || root == nil || root.Tag != "domain" {
		return description{}, code.Errorf(code.InvalidParameter, "the xml is not the description of a machine that libvirt takes (<domain …>)")
	}
	return description{doc, root}, nil
}

// text is the content of an element of the root, "" if it is not there.
func (d description) text(name string) string {
	if e := d.root.SelectElement(name); e != nil {
		return strings.TrimSpace(e.Text())
	}
	return ""
}

// identify gives the machine its id, and refuses another one's.
func (d description) identify(vm string) error {
	switch id := d.text("uuid"); {
	case id == "":
		d.root.CreateElement("uuid").SetText(vm)
	case id != vm:
		return code.Errorf(code.InvalidParameter, "the xml describes machine %s, the parameters say %s", id, vm)
	}
	return nil
}

// place puts the paths of the volumes' files where an engine has written its own.
func (d description) place(path func(storageops.VolumeID) (string, error)) error {
	for _, source := range d.root.FindElements("./devices/disk/source[@file]") {
		file := source.SelectAttr("file")
		found := enginePath.FindStringSubmatch(file.Value)
		if found == nil {
			continue
		}
		p, err := path(storageops.VolumeID{Domain: found[1], Image: found[2], Volume: found[3]})
		if err != nil {
			return err
		}
		file.Value = p
	}
	return nil
}

func (d description) String() (string, error) { return d.doc.WriteToString() }

// disks are the files of the machine's disks now, by the disks' names in the guest.
func (vms *VMs) disks(ctx context.Context, vm string) (map[string]string, error) {
	xml, err := vms.hv.XML(ctx, vm)
	if err != nil {
		return nil, err
	}
	d, err := parseXML(xml)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, disk := range d.root.FindElements("./devices/disk") {
		if target := disk.SelectElement("target"); target != nil {
			file := ""
			if source := disk.SelectElement("source"); source != nil {
				file = source.SelectAttrValue("file", "")
			}
			out[target.SelectAttrValue("dev", "")] = file
		}
	}
	return out, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
