package domain

import (
	"io"
	"os"
	"syscall"

	"vdsm-agent/internal/code"
)

// Shape is what a volume's file is like, whatever is in it.
type Shape struct {
	Length   int64 `json:"length"`   // bytes
	Reserved bool  `json:"reserved"` // all of its blocks are its own
}

// Shape answers what the volume's file is like. No such file: 201.
func (d *Domain) Shape(img, vol string) (Shape, error) {
	files, err := d.volumeFiles(img, vol)
	if err != nil {
		return Shape{}, err
	}
	fi := files[""]
	if fi == nil {
		return Shape{}, d.noVolume(img, vol)
	}
	return Shape{fi.Size(), fi.Size() > 0 && allocated(fi) >= fi.Size()}, nil
}

// ReadContents reads the beginning of a volume that is no disk of a guest, most bytes of it.
func (d *Domain) ReadContents(img, vol string, most int64) ([]byte, error) {
	if _, err := d.VolumePath(img, vol); err != nil {
		return nil, err
	}
	name := volumeFile(img, vol)
	f, err := d.t.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, osError(err, "read", d.t.abs(name))
	}
	return data, nil
}

// ReplaceContents makes data all that is in a volume that is no disk of a guest, in its place: the file becomes of that shape, or
// longer if data is, zeros behind data, and is synced. One that dies leaves it in part; repeating it, with these or other data, mends that.
func (d *Domain) ReplaceContents(img, vol string, data []byte, s Shape) error {
	if err := d.changeVolume(img, vol); err != nil {
		return err
	}
	if _, err := d.VolumePath(img, vol); err != nil {
		return err
	}
	name := volumeFile(img, vol)
	f, err := d.t.open(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.t.truncate(f, name, 0); err != nil {
		return err
	}
	length := max(s.Length, int64(len(data)))
	if err := d.t.truncate(f, name, length); err != nil {
		return err
	}
	if s.Reserved && length > 0 {
		if err := d.t.change("allocate", name, func() error { return syscall.Fallocate(int(f.Fd()), 0, 0, length) }); err != nil {
			return code.Errorf(code.Of(err), "the room of volume %s cannot be reserved again: %w", vol, err)
		}
	}
	if err := d.t.change("write", name, func() error { _, err := f.WriteAt(data, 0); return err }); err != nil {
		return err
	}
	return d.t.change("sync", name, f.Sync)
}
