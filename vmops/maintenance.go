package vmops

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"net"
	"strconv"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/tasks"

	"github.com/google/uuid"
)

// maintenanceParams are those of Host.enterMaintenance.
type maintenanceParams struct {
	Parallel     param.Int   `json:"parallel" default:"2" doc:"how many machines leave at a time, as far as migrate_limit lets them; 16 at most"`
	Tasks        string      `json:"tasks" default:"wait" doc:"what becomes of tasks that have not ended: wait (for them, when all machines have left), or stop (them, before)"`
	Destinations []otherHost `json:"destinations" default:"[]" doc:"the hosts that machines go to: host, port of its agent, and libvirtUri if it is not reached by TLS. None = there are no machines"`
}

// otherHost is one that machines go to.
type otherHost struct {
	Host    string    `json:"host"`
	Port    param.Int `json:"port,omitempty"`
	Libvirt string    `json:"libvirtUri,omitempty"`
}

// agentPort is VDSM's.
const agentPort = 54321

func (h otherHost) journey() journey {
	port := int(h.Port)
	if port == 0 {
		port = agentPort
	}
	return journey{Destination: net.JoinHostPort(h.Host, strconv.Itoa(port)), Libvirt: h.Libvirt}
}

const (
	tasksWait = "wait"
	tasksStop = "stop"
)

func decodeMaintenance(raw json.RawMessage) (p maintenanceParams, err error) {
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return p, err
	}
	switch {
	case p.Parallel < 1 || p.Parallel > 16:
		return p, code.Errorf(code.InvalidParameter, "parameter \"parallel\" is %d; it must be from 1 to 16", p.Parallel)
	case p.Tasks != tasksWait && p.Tasks != tasksStop:
		return p, code.Errorf(code.InvalidParameter, "parameter \"tasks\" is %q; it must be wait or stop", p.Tasks)
	}
	for _, h := range p.Destinations {
		if err := h.journey().check(); err != nil {
			return p, code.Errorf(code.InvalidParameter, "%q in \"destinations\" is not a host with the port of its agent", h.Host)
		}
	}
	return p, nil
}

// maintenanceLock is held by what changes whether the host takes work.
var maintenanceLock = tasks.Lock{Key: "host/maintenance", Exclusive: true}

func (vms *VMs) enterMaintenance() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Ours: true, Doc: "Have this host take no new work, have all its virtual machines go on on other hosts, and wait for its tasks, or stop them.",
		Name: "Host.enterMaintenance", Word: "maintenance", Params: maintenanceParams{}, Forward: true, Class: tasks.ClassVM,
		Contract: tasks.Contract{
			CancellableUntil: "last step recorded", Undo: "new work is taken again, no new migrations; running ones stopped",
			Remainder: "VMs already moved, tasks already stopped (listed)", Bound: 20 * time.Second,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decodeMaintenance(raw)
			if err != nil || len(p.Destinations) > 0 {
				return err
			}
			all, err := vms.present(ctx)
			if err == nil && len(all) > 0 {
				err = code.Errorf(code.InvalidParameter, "%d virtual machines are on this host; \"destinations\" must say where they may go", len(all))
			}
			return err
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decodeMaintenance(raw)
			if err != nil {
				return nil, err
			}
			m := &maintaining{vms: vms, task: id, params: p}
			steps := []tasks.Step{m.refuse(), m.empty(), m.settle()}
			if p.Tasks == tasksStop { // first, since a machine cannot leave while a task works with it
				steps = []tasks.Step{m.refuse(), m.settle(), m.empty()}
			}
			return &tasks.Plan{
				Tag: tasks.TagHost, Locks: []tasks.Lock{maintenanceLock}, Success: "the host is in maintenance: no machine is on it, and it takes no new work until Host.leaveMaintenance",
				Steps: steps,
			}, nil
		},
	}
}

// leaveMaintenance lets the host take work again.
func (vms *VMs) leaveMaintenance(context.Context, json.RawMessage) (any, error) {
	return nil, vms.closed.Open(nil)
}

// maintaining is one way into maintenance.
type maintaining struct {
	vms    *VMs
	task   string
	params maintenanceParams
}

const (
	stepRefuse = "refuse new work"
	stepEmpty  = "machines"
	stepSettle = "tasks"
)

func (m *maintaining) refuse() tasks.Step {
	return tasks.Step{
		Name: stepRefuse, Undone: "new work is taken again",
		Do:   func(_ context.Context, s *tasks.Scope) error { return m.vms.closed.Close(s) },
		Undo: func(_ context.Context, s *tasks.Scope) error { return m.vms.closed.Open(s) },
	}
}

// child is the task by which a machine goes to one of the hosts.
func (m *maintaining) child(vm string, try int) (id string, to otherHost) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(vm)) // it never fails
	to = m.params.Destinations[(int(h.Sum32()%uint32(len(m.params.Destinations)))+try)%len(m.params.Destinations)]
	return uuid.NewSHA1(uuid.MustParse(m.task), []byte(vm+"/"+strconv.Itoa(try))).String(), to
}

// present are the machines that are on this host, or are on their way to it. On a host without libvirt there are none.
func (vms *VMs) present(ctx context.Context) (out []listed, err error) {
	if vms.hv == nil {
		return nil, nil
	}
	all, err := vms.machinesNow(ctx, nil)
	for _, one := range all {
		if one.Status != statusDown {
			out = append(out, one)
		}
	}
	return out, err
}
