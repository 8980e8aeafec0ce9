package qemuimg

import (
	"encoding/json"
	"path/filepath"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/nbd"
)

// The formats that volumes have.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
)

// Layer is one file of a chain.
type Layer struct {
	Path   string // absolute
	Format string // Raw or QCOW2
}

// Image is a file and how it is opened. Backing are the layers below it, the nearest first; empty means that the image is
// opened alone, whatever its header names: what it does not hold itself then reads as zeros.
type Image struct {
	Path    string // absolute, or the nbd.Address of what a server shows, which is raw
	Format  string // Raw or QCOW2
	Backing []Layer
	Shared  bool // also while somebody else writes it (-U); what is read may then be inconsistent
}

// Alone is the image without the layers below it.
func (i Image) Alone() Image { i.Backing = nil; return i }

// Check refuses what cannot be opened as said: 1000 for a path that is not absolute, 202 for another format, or for a raw
// image that has layers below it.
func (i Image) Check() error {
	for n, l := range append([]Layer{{i.Path, i.Format}}, i.Backing...) {
		if n == 0 && nbd.IsAddress(l.Path) {
			if _, err := nbd.ParseAddress(l.Path); err != nil {
				return code.Errorf(code.InvalidParameter, "%w", err)
			}
			if l.Format != Raw {
				return code.Errorf(code.IncorrectFormat, "what an NBD server shows is raw, and not %q, whatever the server reads it from: %s", l.Format, l.Path)
			}
			continue
		}
		if !filepath.IsAbs(l.Path) {
			return code.Errorf(code.InvalidParameter, "the path %q of an image is not absolute; give the whole path", l.Path)
		}
		if l.Format != Raw && l.Format != QCOW2 {
			return code.Errorf(code.IncorrectFormat, "the format %q of %s is not known; give raw or qcow2", l.Format, l.Path)
		}
		if l.Format == Raw && n < len(i.Backing) {
			return code.Errorf(code.IncorrectFormat, "%s is raw and cannot have the backing file %s", l.Path, i.Backing[n].Path)
		}
	}
	return nil
}

// Node is one block node in QEMU's own terms.
type Node map[string]any

// Node describes the image as a tree in which every file and every format is named, so that nothing is taken from a header
// and nothing in a path is special. Below the last layer there is nothing: "backing" is null.
func (i Image) Node() Node {
	n := Node{"driver": i.Format, "file": Node{"driver": "file", "filename": i.Path}}
	if a, err := nbd.ParseAddress(i.Path); err == nil {
		n["file"] = Node{"driver": "nbd", "server": Node{"type": "unix", "path": a.Socket}, "export": a.Export}
	}
	if i.Format == QCOW2 {
		n["backing"] = nil
		if len(i.Backing) > 0 {
			b := i.Backing[0]
			n["backing"] = Image{Path: b.Path, Format: b.Format, Backing: i.Backing[1:]}.Node()
		}
	}
	return n
}

// Argument is the node as a file name for qemu-img. The JSON form is used because an --image-opts string of a long chain
// repeats its prefixes and outgrows the kernel's limit of 128 KiB for one argument at about 100 layers.
func (n Node) Argument() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // maps, strings, numbers and nil always marshal
	}
	return "json:" + string(b)
}

// share is the option for Image.Shared.
func (i Image) share() []string {
	if i.Shared {
		return []string{"-U"}
	}
	return nil
}
