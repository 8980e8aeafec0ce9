package vmops

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/vmops/virt"
)

// Definition is what a machine is.
type Definition struct {
	VM         string `json:"vmId"`
	Name       string `json:"vmName"`
	Status     string `json:"status"`
	StatusTime string `json:"statusTime"`
	Type       string `json:"vmType"`
	Arch       string `json:"arch,omitempty"`
	Memory     int64  `json:"memSize,omitempty"` // MiB
	Processors string `json:"smp,omitempty"`
	XML        string `json:"xml,omitempty"` // as libvirt describes it now; "" of one that is down
}

// listed is one entry of Host.getVMList, if not only ids are asked for.
type listed struct {
	VM     string `json:"vmId"`
	Status string `json:"status"`
}

type listParams struct {
	VMs      []param.UUID `json:"vmList" default:"[]" doc:"only these; none = all"`
	OnlyUUID param.Bool   `json:"onlyUUID" default:"true" doc:"false: also their statuses"`
}

type fullListParams struct {
	VMs []param.UUID `json:"vmList" default:"[]" doc:"only these; none = all"`
}

// machinesNow are the machines of this host with their statuses, sorted by id: those that are alive, are being started, or went down and were not
// destroyed yet.
func (vms *VMs) machinesNow(ctx context.Context, only []param.UUID) ([]listed, error) {
	if err := vms.there(); err != nil {
		return nil, err
	}
	all, err := vms.hv.List(ctx)
	if err != nil {
		return nil, err
	}
	out := []listed{}
	wanted := func(vm string) bool { return len(only) == 0 || slices.Contains(only, param.UUID(vm)) }
	vms.mu.Lock()
	for _, s := range all {
		if s.State.Alive() && wanted(s.UUID) {
			out = append(out, listed{s.UUID, statusOf(s.State, vms.machines[s.UUID])})
		}
	}
	vms.mu.Unlock()
	for _, vm := range vms.notAlive(all) {
		if s, ok := vms.downStats(vm); ok && wanted(vm) {
			out = append(out, listed{vm, s.Status})
		}
	}
	slices.SortFunc(out, func(a, b listed) int { return strings.Compare(a.VM, b.VM) })
	return out, nil
}

// notAlive are the machines that the agent remembers and libvirt does not have.
func (vms *VMs) notAlive(all []virt.Stats) (out []string) {
	alive := map[string]bool{}
	for _, s := range all {
		alive[s.UUID] = s.State.Alive()
	}
	vms.mu.Lock()
	defer vms.mu.Unlock()
	for vm := range vms.machines {
		if !alive[vm] {
			out = append(out, vm)
		}
	}
	slices.Sort(out)
	return out
}

func (vms *VMs) list(ctx context.Context, raw json.RawMessage) (any, error) {
	var p listParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	all, err := vms.machinesNow(ctx, p.VMs)
	if err != nil || !bool(p.OnlyUUID) {
		return all, err
	}
	ids := []string{}
	for _, m := range all {
		ids = append(ids, m.VM)
	}
	return ids, nil
}

func (vms *VMs) fullList(ctx context.Context, raw json.RawMessage) (any, error) {
	var p fullListParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	all, err := vms.machinesNow(ctx, p.VMs)
	if err != nil {
		return nil, err
	}
	out := []Definition{}
	for _, m := range all {
		d, err := vms.define(ctx, m)
		if virt.Unreachable(err) {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (vms *VMs) getInfo(ctx context.Context, raw json.RawMessage) (any, error) {
	var p vmParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	all, err := vms.machinesNow(ctx, []param.UUID{p.VM})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, code.Errorf(code.NoSuchVM, "there is no virtual machine %s on this host", p.VM)
	}
	return vms.define(ctx, all[0])
}

// define describes a machine; one that went down meanwhile only by its id and status.
func (vms *VMs) define(ctx context.Context, m listed) (Definition, error) {
	out := Definition{VM: m.VM, Status: m.Status, StatusTime: statusTime(), Type: "kvm"}
	xml, err := vms.hv.XML(ctx, m.VM)
	if code.Of(err) == code.NoSuchVM {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	d, err := parseXML(xml)
	if err != nil {
		return out, err
	}
	out.XML, out.Name, out.Processors = xml, d.text("name"), d.text("vcpu")
	if t := d.root.FindElement("./os/type"); t != nil {
		out.Arch = t.SelectAttrValue("arch", "")
	}
	if kib, err := strconv.ParseInt(d.text("currentMemory"), 10, 64); err == nil {
		out.Memory = kib >> 10
	}
	return out, nil
}
