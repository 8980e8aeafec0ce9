package vmops

import (
	"context"

	"vdsm-agent/internal/code"

	"github.com/beevik/etree"
)

// files are those of a disk's chain now, as libvirt describes the machine: what it writes to first. No such machine: 1.
func (vms *VMs) files(ctx context.Context, vm, disk string) ([]string, error) {
	all, err := vms.chains(ctx, vm)
	return all[disk], err
}

// chains are those of all disks of the machine, by the disks' names in the guest.
func (vms *VMs) chains(ctx context.Context, vm string) (map[string][]string, error) {
	xml, err := vms.hv.XML(ctx, vm)
	if err != nil {
		return nil, err
	}
	d, err := parseXML(xml)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, disk := range d.root.FindElements("./devices/disk") {
		target := disk.SelectElement("target")
		if target == nil {
			continue
		}
		var files []string
		for e := disk; e != nil; e = e.SelectElement("backingStore") {
			if file := fileOf(e); file != "" {
				files = append(files, file)
			}
		}
		out[target.SelectAttrValue("dev", "")] = files
	}
	return out, nil
}

func fileOf(e *etree.Element) string {
	if source := e.SelectElement("source"); source != nil {
		return source.SelectAttrValue("file", "")
	}
	return ""
}

// diskOf finds the disk that works on a file.
func (vms *VMs) diskOf(ctx context.Context, vm, file string) (disk string, files []string, err error) {
	all, err := vms.chains(ctx, vm)
	if err != nil {
		return "", nil, err
	}
	for name, files := range all {
		if len(files) > 0 && files[0] == file {
			return name, files, nil
		}
	}
	return "", nil, code.Errorf(code.InvalidParameter, "machine %s has no disk that works on %s now", vm, file)
}

// diskOn is diskOf, and refuses one that something is done with already.
func (vms *VMs) diskOn(ctx context.Context, vm, file string) (disk string, files []string, err error) {
	if disk, files, err = vms.diskOf(ctx, vm, file); err != nil {
		return "", nil, err
	}
	job, err := vms.hv.BlockJob(ctx, vm, disk)
	if err == nil && job.Active {
		err = code.Errorf(code.ResourceUnavailable, "QEMU does something else with disk %s of machine %s now; try again when that has ended", disk, vm)
	}
	return disk, files, err
}
