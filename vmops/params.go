package vmops

import (
	"encoding/json"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
)

// vmParams name a machine.
type vmParams struct {
	VM param.UUID `json:"vmID"`
}

// savedState is VDSM's word for where a machine's state lies: the ids of domain, pool, and image and volume for the memory and for what
// else belongs to it, with commas between.
type savedState string

// UnmarshalJSON refuses what does not name two volumes.
func (h *savedState) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return code.Errorf(code.InvalidParameter, "it must be a string of six ids")
	}
	ids := strings.Split(s, ",")
	if s != "" && len(ids) != 6 {
		return code.Errorf(code.InvalidParameter, "it must be six ids with commas between: domain, pool, memory's image and volume, configuration's image and volume")
	}
	for _, id := range ids {
		if s != "" && !param.ValidUUID(id) {
			return code.Errorf(code.InvalidParameter, "%q in it is not a UUID (lower case, 8-4-4-4-12 digits)", id)
		}
	}
	*h = savedState(s)
	return nil
}

// volumes are the two volumes.
func (h savedState) volumes() (memory, conf storageops.VolumeID) {
	id := strings.Split(string(h), ",")
	if len(id) != 6 {
		return memory, conf
	}
	return storageops.VolumeID{Domain: id[0], Image: id[2], Volume: id[3]}, storageops.VolumeID{Domain: id[0], Image: id[4], Volume: id[5]}
}

// volumeParams name a volume, as engines do in the parameters of a machine.
type volumeParams struct {
	Pool   param.UUID `json:"poolID,omitempty"`
	Domain param.UUID `json:"domainID"`
	Image  param.UUID `json:"imageID"`
	Volume param.UUID `json:"volumeID"`
}

func (v volumeParams) id() storageops.VolumeID {
	return storageops.VolumeID{Domain: string(v.Domain), Image: string(v.Image), Volume: string(v.Volume)}
}

// check refuses what names no volume. name is the parameter's.
func (v volumeParams) check(name string) error {
	if v.Domain.IsBlank() || v.Image.IsBlank() || v.Volume.IsBlank() {
		return code.Errorf(code.InvalidParameter, "parameter %q needs domainID, imageID and volumeID, none of them zeros", name)
	}
	return nil
}
