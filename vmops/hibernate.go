package vmops

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"
)

// hibernateParams are those of VM.hibernate.
type hibernateParams struct {
	VM    param.UUID `json:"vmID"`
	Saved savedState `json:"hibernationVolHandle" doc:"six ids with commas between: domain, pool, image and volume for the memory, image and volume for the configuration"`
}

func (p hibernateParams) check() error {
	memory, conf := p.Saved.volumes()
	switch {
	case p.Saved == "":
		return code.Errorf(code.InvalidParameter, "parameter \"hibernationVolHandle\" is empty; it says where the state is to lie")
	case memory == conf:
		return code.Errorf(code.InvalidParameter, "parameter \"hibernationVolHandle\" names the same volume twice")
	}
	return nil
}

const stepLook = "look"

func (vms *VMs) hibernate() *tasks.Verb {
	decode := func(raw json.RawMessage) (p hibernateParams, err error) {
		if err := param.Decode(raw, &p, param.Lenient); err != nil {
			return p, err
		}
		return p, p.check()
	}
	return &tasks.Verb{
		Role: access.Operate, Doc: "Save the state of a virtual machine to volumes, and end it; VM.create resumes it.",
		Name: "VM.hibernate", Word: "hibernate", Params: hibernateParams{}, AnswersTrue: true, Forward: true, Class: tasks.ClassVM,
		Contract: tasks.Contract{
			CancellableUntil: "save complete", PointOfNoReturn: "save complete", DecidedBy: "libvirt", Undo: "VM runs, memory volume empty again", Bound: 10 * time.Second,
		},
		Admit: func(ctx context.Context, raw json.RawMessage) error {
			p, err := decode(raw)
			if err != nil {
				return err
			}
			if _, err := vms.alive(ctx, string(p.VM)); err != nil {
				return err
			}
			memory, conf := p.Saved.volumes()
			if _, _, err = vms.volumes.Plain(memory); err == nil {
				_, _, err = vms.volumes.Plain(conf)
			}
			return err
		},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode(raw)
			if err != nil {
				return nil, err
			}
			h := &hibernation{vms: vms, vm: string(p.VM)}
			h.memory, h.conf = p.Saved.volumes()
			return &tasks.Plan{
				Tag: tasks.TagVirt, Locks: append(vms.volumes.Locks(h.memory, h.conf), vmLock(h.vm)), Success: fmt.Sprintf("machine %s is saved and down", h.vm),
				Steps: []tasks.Step{h.look(), h.configuration(), h.save(), h.sync()},
			}, nil
		},
	}
}

// hibernation is one save of a machine. What has become of it libvirt and the memory volume tell, not what the agent remembers: the machine
// is down and its file is complete, or it is not saved.
type hibernation struct {
	vms          *VMs
	vm           string
	memory, conf storageops.VolumeID
}

// found is the plan of the look: what the undo puts back.
type found struct {
	Paused bool         `json:"paused"`
	Path   string       `json:"path"` // of the memory volume
	Memory domain.Shape `json:"memory"`
	Conf   domain.Shape `json:"conf"`
}

func (h *hibernation) found(s *tasks.Scope) (f found, err error) {
	there, err := s.PlanOf(stepLook, &f)
	if err == nil && !there {
		err = code.Errorf(code.InternalError, "the machine was not looked at")
	}
	return f, err
}

// look finds out, under the locks, what there is.
func (h *hibernation) look() tasks.Step {
	return tasks.Step{
		Name: stepLook,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) { return h.find(ctx) },
		Do:   h.reach,
	}
}

// find refuses what the state cannot lie in, and a machine that something else is done with.
func (h *hibernation) find(ctx context.Context) (f found, err error) {
	state, err := h.vms.alive(ctx, h.vm)
	if err != nil {
		return f, err
	}
	job, err := h.vms.hv.Job(ctx, h.vm)
	if err != nil {
		return f, err
	}
	if job.Active {
		return f, code.Errorf(code.ResourceUnavailable, "libvirt does something else with machine %s now; try again when that has ended", h.vm)
	}
	f.Paused = state.Phase == virt.Paused
	if f.Path, f.Memory, err = h.vms.volumes.Plain(h.memory); err != nil {
		return f, err
	}
	if _, f.Conf, err = h.vms.volumes.Plain(h.conf); err != nil {
		return f, err
	}
	head, err := h.vms.volumes.Read(h.memory, int64(len(savedMagic)))
	if err == nil && complete(head) {
		err = code.Errorf(code.InvalidParameter, "the memory volume holds a saved state already, which would be lost; make a new volume")
	}
	return f, err
}

func (h *hibernation) reach(ctx context.Context, s *tasks.Scope) error {
	if err := h.vms.volumes.Reach(ctx, s, h.memory); err != nil {
		return err
	}
	return h.vms.volumes.Reach(ctx, s, h.conf)
}

// configuration writes what else a resume needs.
func (h *hibernation) configuration() tasks.Step {
	return tasks.Step{
		Name: "configuration",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			f, err := h.found(s)
			if err != nil {
				return err
			}
			xml := ""
			if err := h.vms.untilAnswered(ctx, s, func() (err error) { xml, err = h.vms.hv.XML(ctx, h.vm); return err }); err != nil {
				return err
			}
			data, err := savedConf{VM: h.vm, Memory: h.memory, Paused: f.Paused, XML: xml}.encode()
			if err != nil {
				return err
			}
			return h.vms.volumes.Replace(s, h.conf, data, f.Conf)
		},
		Undo: func(_ context.Context, s *tasks.Scope) error {
			f, err := h.found(s)
			if err != nil {
				return err
			}
			return h.vms.volumes.Replace(s, h.conf, nil, f.Conf)
		},
	}
}

// save is decided by libvirt.
func (h *hibernation) save() tasks.Step {
	return tasks.Step{
		Name: "save", DecidedBy: "libvirt", Undone: "the machine goes on, the memory volume is empty again",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			defer h.vms.do(h.vm, statusSaving)()
			f, err := h.found(s)
			if err != nil {
				return err
			}
			j := &jobRun{
				vms: h.vms, vm: h.vm, what: "the save",
				begin: func(ctx context.Context) <-chan error { return h.vms.hv.Save(ctx, s, h.vm, f.Path) },
				done:  h.saved, fails: code.General,
			}
			return j.run(ctx, s)
		},
		Undo: h.unsave,
	}
}

// unsave lets the machine go on, and empties the memory volume.
func (h *hibernation) unsave(ctx context.Context, s *tasks.Scope) error {
	f, err := h.found(s)
	if err != nil {
		return err
	}
	if err := h.goOn(ctx, s, f); err != nil {
		return err
	}
	return h.vms.volumes.Replace(s, h.memory, nil, f.Memory)
}

// saved says whether the machine is down and its state is complete. A machine that is alive is not saved, whatever the file says: libvirt
// lets it go on after a save that it could not bring to its end.
func (h *hibernation) saved(ctx context.Context) (bool, error) {
	state, err := h.vms.hv.State(ctx, h.vm)
	if err != nil && code.Of(err) != code.NoSuchVM {
		return false, err
	}
	if err == nil && state.Alive() {
		return false, nil
	}
	head, err := h.vms.volumes.Read(h.memory, int64(len(savedMagic)))
	return complete(head), err
}

// goOn lets the machine run if it ran before. Libvirt does that by itself after a save that was cancelled, but not when it died itself.
func (h *hibernation) goOn(ctx context.Context, s *tasks.Scope, f found) error {
	return h.vms.goOn(ctx, s, h.vm, f.Paused)
}

// goOn lets a machine run that libvirt has left paused, unless it was paused before.
func (vms *VMs) goOn(ctx context.Context, s *tasks.Scope, vm string, paused bool) error {
	return vms.untilAnswered(ctx, s, func() error {
		state, err := vms.hv.State(ctx, vm)
		switch {
		case code.Of(err) == code.NoSuchVM:
			return nil // it went down in another way
		case err != nil || paused || state.Phase != virt.Paused:
			return err
		}
		return vms.hv.Resume(ctx, s, vm)
	})
}

// sync puts the state on stable storage, which libvirt does not.
func (h *hibernation) sync() tasks.Step {
	return tasks.Step{
		Name: "sync",
		Do:   func(_ context.Context, s *tasks.Scope) error { return h.vms.volumes.Sync(s, h.memory) },
	}
}
