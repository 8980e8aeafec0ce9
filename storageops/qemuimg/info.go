package qemuimg

import (
	"context"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Info is what an image says of itself.
type Info struct {
	VirtualSize   int64 // bytes; of a raw image its length rounded up to 512
	ActualSize    int64 // bytes allocated on the file system
	Format        string
	ClusterSize   int64  // 0 if raw
	Backing       string // as the header has it; "" = none
	BackingFormat string // "" = the header does not say
	DataFile      string // external data file; "" = none
	Encrypted     bool
	Compat        string // "0.10" or "1.1"; "" if raw
	Dirty         bool   // was not closed (lazy refcounts)
	Corrupt       bool   // QEMU marked it corrupt; it can only be opened for reading
	Bitmaps       []Bitmap
}

// Bitmap is a persistent dirty bitmap of a qcow2 image.
type Bitmap struct {
	Name        string
	Granularity int64 // bytes
	Enabled     bool  // records writes
	InUse       bool  // was not closed: its content is lost, it can only be removed
}

// infoJSON is the part of `qemu-img info --output=json` that is used.
type infoJSON struct {
	VirtualSize   int64  `json:"virtual-size"`
	ActualSize    int64  `json:"actual-size"`
	Format        string `json:"format"`
	ClusterSize   int64  `json:"cluster-size"`
	Backing       string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
	Encrypted     bool   `json:"encrypted"`
	Dirty         bool   `json:"dirty-flag"`
	Specific      struct {
		Data struct {
			Compat   string `json:"compat"`
			DataFile string `json:"data-file"`
			Corrupt  bool   `json:"corrupt"`
			Encrypt  *struct {
				Format string `json:"format"`
			} `json:"encrypt"`
			Bitmaps []struct {
				Name        string   `json:"name"`
				Granularity int64    `json:"granularity"`
				Flags       []string `json:"flags"`
			} `json:"bitmaps"`
		} `json:"data"`
	} `json:"format-specific"`
}

// ReadInfo reads what img says of itself; its chain is not opened. It follows an external data file that the header names:
// an image that is not ours goes through VerifyUntrusted first.
//
//   - It is not there, or not of that format: code 484.
func ReadInfo(ctx context.Context, st Starter, img Image) (Info, error) {
	return readInfo(ctx, st, img, untrusted) // no sound image needs more for that
}

func readInfo(ctx context.Context, st Starter, img Image, limits proc.Limits) (Info, error) {
	if err := img.Check(); err != nil {
		return Info{}, err
	}
	args := append([]string{"info", "--output=json"}, img.share()...)
	out, err := output(ctx, st, limits, append(args, img.Alone().Node().Argument())...)
	if err != nil {
		return Info{}, Failure(code.ImageVerification, err, "the image "+img.Path+" cannot be read as "+img.Format)
	}
	return parseInfo(out, img.Path)
}

func parseInfo(out []byte, path string) (Info, error) {
	var j infoJSON
	if err := json.Unmarshal(out, &j); err != nil {
		return Info{}, code.Errorf(code.General, "what qemu-img says of %s cannot be understood: %w", path, err)
	}
	d := j.Specific.Data
	i := Info{
		VirtualSize: j.VirtualSize, ActualSize: j.ActualSize, Format: j.Format, Backing: j.Backing,
		BackingFormat: j.BackingFormat, DataFile: d.DataFile, Encrypted: j.Encrypted || d.Encrypt != nil,
		Compat: d.Compat, Dirty: j.Dirty, Corrupt: d.Corrupt,
	}
	if j.Format == QCOW2 {
		i.ClusterSize = j.ClusterSize
	}
	for _, b := range d.Bitmaps {
		m := Bitmap{Name: b.Name, Granularity: b.Granularity}
		for _, f := range b.Flags {
			m.Enabled = m.Enabled || f == "auto"
			m.InUse = m.InUse || f == "in-use"
		}
		i.Bitmaps = append(i.Bitmaps, m)
	}
	return i, nil
}
