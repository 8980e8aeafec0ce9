package vmops

import (
	"bytes"
	"encoding/json"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"
)

// savedConf is what lies in the configuration volume of a saved machine. It is our own: states that VDSM has saved cannot be
// resumed by us, nor ours by it.
type savedConf struct {
	Format  string              `json:"format"`
	Version int                 `json:"version"`
	VM      string              `json:"vmID"`
	Memory  storageops.VolumeID `json:"memory"`
	Paused  bool                `json:"paused"` // it was when it was saved
	XML     string              `json:"xml"`    // the machine, as libvirt described it
}

const (
	savedFormat  = "vdsm-agent saved machine"
	savedVersion = 1
	maxSavedConf = 4 << 20
)

func (c savedConf) encode() ([]byte, error) {
	c.Format, c.Version = savedFormat, savedVersion
	return json.Marshal(c)
}

// decodeSaved reads what encode has written; zeros may follow.
func decodeSaved(data []byte, vm string) (c savedConf, err error) {
	err = json.Unmarshal(bytes.TrimRight(data, "\x00"), &c)
	switch {
	case err != nil || c.Format != savedFormat:
		return c, code.Errorf(code.InvalidParameter, "the configuration volume holds no saved state of this agent; states that VDSM has saved must be resumed by it")
	case c.Version != savedVersion:
		return c, code.Errorf(code.InvalidParameter, "the saved state has version %d, this agent reads %d", c.Version, savedVersion)
	case c.VM != vm:
		return c, code.Errorf(code.InvalidParameter, "the saved state is that of machine %s, not %s", c.VM, vm)
	}
	return c, nil
}

// complete says whether a memory volume holds a state that libvirt has written to its end: only then the file begins so.
func complete(head []byte) bool { return bytes.HasPrefix(head, []byte(savedMagic)) }

const savedMagic = "LibvirtQemudSave"
