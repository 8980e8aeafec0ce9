package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// migrateParams are those of VM.migrate.
type migrateParams struct {
	VM     param.UUID `json:"vmID"`
	Params journey    `json:"params" doc:"where the machine goes, and how: dst (host:port of the other host's agent) and more; see docs/vms.md"`
}

// journey is what is read of the params of VM.migrate. All else that engines send is of no use here.
type journey struct {
	Destination string `json:"dst"`
	Libvirt     string `json:"libvirtUri,omitempty"` // ours; "" = by TLS
	QEMU        string `json:"dstqemu,omitempty"`    // the address that the state is sent to; "" = that of dst
	Mode        string `json:"mode,omitempty"`
	Method      string `json:"method,omitempty"`

	AbortOnError param.Bool `json:"abortOnError,omitempty"`
	AutoConverge param.Bool `json:"autoConverge,omitempty"`
	Compressed   param.Bool `json:"compressed,omitempty"`
	Encrypted    param.Bool `json:"encrypted,omitempty"`
	Tunneled     param.Bool `json:"tunneled,omitempty"`
	ZeroCopy     param.Bool `json:"zerocopy,omitempty"`
	Downtime     param.Int  `json:"downtime,omitempty"`     // ms; 0 = what QEMU has
	Bandwidth    param.Int  `json:"maxBandwidth,omitempty"` // MiB per second; 0 = as much as there is
	Parallel     param.Int  `json:"parallel,omitempty"`
	Incoming     param.Int  `json:"incomingLimit,omitempty"`
	Schedule     schedule   `json:"convergenceSchedule,omitempty"`

	Processors []string `json:"cpusets,omitempty"`
	Nodes      []string `json:"numaNodesets,omitempty"`
}

func decodeMigrate(raw json.RawMessage) (p migrateParams, err error) {
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return p, err
	}
	return p, p.Params.check()
}

func (j journey) check() error {
	host, port, err := net.SplitHostPort(j.Destination)
	if n, e := strconv.Atoi(port); err != nil || host == "" || e != nil || n < 1 || n > 65535 {
		return code.Errorf(code.InvalidParameter, "parameter \"params.dst\" is %q; it must be the host:port on which the other host's agent listens", j.Destination)
	}
	switch {
	case j.Mode == "file":
		return code.Errorf(code.UnsupportedOperation, "a machine is not migrated to a file; VM.hibernate saves its state")
	case j.Method != "" && j.Method != "online":
		return code.Errorf(code.UnsupportedOperation, "machines are migrated while they run (params.method = online), not %q", j.Method)
	case len(j.Processors) > 0 || len(j.Nodes) > 0:
		return code.Errorf(code.UnsupportedOperation, "machines that are bound to processors of the other host (cpusets, numaNodesets) cannot be migrated by this agent")
	case bool(j.Tunneled) && j.Parallel > 0:
		return code.Errorf(code.InvalidParameter, "params.tunneled and params.parallel exclude one another")
	case j.Downtime < 0 || j.Bandwidth < 0 || j.Parallel < 0 || j.Parallel > 255 || j.Incoming < 0:
		return code.Errorf(code.InvalidParameter, "downtime, maxBandwidth, parallel and incomingLimit in params must not be negative, and parallel not more than 255")
	}
	return j.Schedule.check()
}

// migration is how libvirt does it.
func (j journey) migration() virt.Migration {
	host, _, _ := net.SplitHostPort(j.Destination) //nolint:errcheck // checked
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	m := virt.Migration{
		Libvirt: j.Libvirt, State: "tcp://" + host, Bandwidth: uint64(j.Bandwidth), Parallel: int32(j.Parallel),
		AbortOnError: bool(j.AbortOnError), AutoConverge: bool(j.AutoConverge), Compressed: bool(j.Compressed), Encrypted: bool(j.Encrypted),
		Tunneled: bool(j.Tunneled), ZeroCopy: bool(j.ZeroCopy), PostCopy: j.Schedule.postCopy(),
	}
	if m.Libvirt == "" {
		m.Libvirt = "qemu+tls://" + host + "/system"
	}
	if j.QEMU != "" {
		m.State = "tcp://" + j.QEMU
	}
	return m
}

const migrateVerb = "VM.migrate"

func (vms *VMs) migrate() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Have a virtual machine go on on another host.",
		Name: migrateVerb, Word: "migrate", Params: migrateParams{}, AnswersTrue: true, Forward: true, Class: tasks.ClassMigrate,
		Contract: tasks.Contract{
			CancellableUntil: "switch-over", PointOfNoReturn: "switch-over", DecidedBy: "libvirt",
			Undo:  "VM runs on the source, destination domain gone; the cancel is asserted again until libvirt shows no job (closes the race before the job starts)",
			Bound: 10 * time.Second,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decodeMigrate(raw)
			if err == nil {
				_, err = vms.alive(ctx, string(p.VM))
			}
			return err
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decodeMigrate(raw)
			if err != nil {
				return nil, err
			}
			m := &migrating{vms: vms, task: id, vm: string(p.VM), journey: p.Params}
			return &tasks.Plan{
				Tag: tasks.TagVirt, Locks: []tasks.Lock{vmLock(m.vm)}, Success: fmt.Sprintf("machine %s goes on on %s", m.vm, p.Params.Destination),
				Steps: []tasks.Step{m.look(), m.destination(), m.send(), m.leave()},
			}, nil
		},
	}
}
