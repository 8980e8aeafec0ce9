package vmops

import (
	"strconv"

	"vdsm-agent/tasks"
)

// BlockJob is a task that works on a disk of a machine, in the keys and types that engines read. One that is gone has ended, and the machine's
// chain tells how.
type BlockJob struct {
	ID        string `json:"id"`
	Type      string `json:"jobType"`
	Kind      string `json:"blockJobType"`
	Image     string `json:"imgUUID"`
	Bandwidth int64  `json:"bandwidth"` // MiB per second, 0 = no limit
	Done      string `json:"cur"`       // bytes
	Total     string `json:"end"`
}

// jobsOf are the tasks that have not ended, by machine and id: from the moment that their verb is answered, and over a restart.
func (vms *VMs) jobsOf() map[string]map[string]BlockJob {
	out := map[string]map[string]BlockJob{}
	if vms.tasks == nil {
		return out
	}
	for _, s := range vms.tasks().List(tasks.Filter{Tag: tasks.TagVirt, Verb: nameMerge}) {
		if s.State.Final() {
			continue
		}
		v, err := vms.tasks().Get(s.ID)
		if err != nil {
			continue // it was cleared meanwhile
		}
		p, err := decodeMerge(v.Params)
		if err != nil {
			continue // it was taken when it was submitted
		}
		vm := string(p.VM)
		if out[vm] == nil {
			out[vm] = map[string]BlockJob{}
		}
		out[vm][s.ID] = BlockJob{
			ID: s.ID, Type: "block", Kind: "commit", Image: string(p.Drive.Image), Bandwidth: int64(p.Limit),
			Done: strconv.FormatInt(v.Progress.Done, 10), Total: strconv.FormatInt(v.Progress.Total, 10),
		}
	}
	return out
}
