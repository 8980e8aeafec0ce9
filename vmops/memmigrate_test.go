package vmops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

// farHost is the host that machines go to: its libvirt, and its agent, which is a real one and goes on when the one that is proven dies. The
// world's lock guards its libvirt. Without an agent there is no such host.
type farHost struct {
	agent    *VMs
	machines map[string]*memMachine
	breaks   string    // how the libvirtd of this host dies at the switch-over, once; "" = it does not
	dies     bool      // the other one dies in the middle, and comes back
	back     time.Time // until then it does not answer
	full     time.Time // until then as many machines are on their way to it as may be
}

// How the libvirtd of the source may die; the call that it carried out gets no answer.
const (
	dieBefore  = "before"  // the machine goes on here
	dieArrived = "arrived" // it was left paused here, and runs there
	dieLost    = "lost"    // it was left paused here, and is gone there
	dieStopped = "stopped" // it was left paused on both
)

// farLibvirt is that host's libvirt, as far as an agent asks it.
type farLibvirt struct{ memLibvirt }

func (l farLibvirt) with(vm string, f func(*memMachine) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass()
	m := l.far.machines[vm]
	if m == nil {
		return code.Errorf(code.NoSuchVM, "there is no machine %s", vm)
	}
	return f(m)
}

func (l farLibvirt) State(_ context.Context, vm string) (s virt.State, err error) {
	err = l.with(vm, func(m *memMachine) error { s = m.state; return nil })
	return s, err
}

func (l farLibvirt) Job(_ context.Context, vm string) (virt.Job, error) {
	return virt.Job{}, l.with(vm, func(m *memMachine) error {
		if m.job != nil {
			return errInvalid // that of a machine that comes is told on its source
		}
		return nil
	})
}

func (l farLibvirt) StatsOf(ctx context.Context, vm string) (virt.Stats, error) {
	s, err := l.State(ctx, vm)
	return virt.Stats{UUID: vm, Name: "one", State: s}, err
}

func (l farLibvirt) List(context.Context) (out []virt.Stats, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.far.full) {
		out = append(out, virt.Stats{UUID: other, State: virt.Coming})
	}
	return out, nil
}

func (l farLibvirt) Destroy(_ context.Context, vm string, _ bool) error {
	return l.with(vm, func(m *memMachine) error {
		if m.state.Phase == virt.Running {
			panic("a machine that runs is ended")
		}
		l.far.drop(vm)
		return nil
	})
}

// drop is libvirt's: the machine is gone there, and the agent is told.
func (f *farHost) drop(vm string) {
	delete(f.machines, vm)
	f.agent.ended(vm, virt.EndedFailed)
}

// withFar gives the world another host.
func (w *world) withFar() *world {
	w.far.machines = map[string]*memMachine{}
	w.far.agent = w.farAgent()
	return w
}

func (w *world) farAgent() *VMs {
	open := func(*tasks.Scope, string) error { return nil }
	return newVMs(farLibvirt{memLibvirt{w, open}}, memVolumes{w, open}, zerolog.Nop())
}

// after is that host for the next world.
func (f *farHost) after(next *world) farHost {
	out := *f
	if f.agent == nil {
		return out
	}
	out.machines = map[string]*memMachine{}
	for vm, m := range f.machines {
		n := *m
		out.machines[vm] = &n
	}
	out.agent = next.farAgent()
	out.agent.machines, out.agent.dismissed = f.agent.machines, f.agent.dismissed
	return out
}

func (f *farHost) seen() (out []string) {
	for vm, m := range f.machines {
		line := fmt.Sprintf("on the other host machine %s %v", vm, m.state)
		if m.job != nil {
			line += ", coming"
		}
		out = append(out, line)
	}
	return out
}

// runs says where the machine runs: on one host at most. The lock is held.
func (w *world) runs() (out []string) {
	line := ""
	if m := w.machines[vmID]; m != nil && m.state.Phase == virt.Running && (m.job == nil || !m.job.postCopy) {
		line += " here"
	}
	if m := w.far.machines[vmID]; m != nil && m.state.Phase == virt.Running {
		line += " there"
	}
	if line != "" {
		out = append(out, "the machine runs"+line)
	}
	return out
}

// memPeers is the other host's agent.
type memPeers struct {
	*world
	gate prove.Gate
}

func (p memPeers) ask(s *tasks.Scope, effect string, params any, answer func(context.Context, json.RawMessage) (any, error), out any) error {
	p.mu.Lock()
	p.pass()
	away := time.Now().Before(p.far.back)
	p.mu.Unlock()
	if s != nil {
		if err := p.gate(s, effect); err != nil {
			return err
		}
	}
	if away {
		return code.Errorf(code.ResourceUnavailable, "the other host is off")
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	v, err := answer(context.Background(), raw)
	if err != nil || out == nil {
		return err
	}
	*out.(*arrival) = v.(arrival)
	return nil
}

func (p memPeers) Prepare(_ context.Context, s *tasks.Scope, _ string, params arrivalParams) error {
	return p.ask(s, "have the destination make ready", params, p.far.agent.migrationCreate, nil)
}

func (p memPeers) Arrival(_ context.Context, _ string, params arrivalOf) (out arrival, err error) {
	err = p.ask(nil, "", params, p.far.agent.migrationArrival, &out)
	return out, err
}

func (p memPeers) Dismiss(_ context.Context, s *tasks.Scope, _ string, params dismissParams) error {
	return p.ask(s, "have the destination remove what has come", params, p.far.agent.migrationDismiss, nil)
}

// Migrate makes a machine on the other host that waits, and ends when its time has come.
func (l memLibvirt) Migrate(_ context.Context, s *tasks.Scope, vm string, _ virt.Migration) <-chan error {
	answer := make(chan error, 1)
	if err := l.allowed(s, "migrate the machine"); err != nil {
		answer <- err
		return answer
	}
	err := l.with(vm, func(m *memMachine) error {
		if m.job != nil {
			return errInvalid
		}
		if l.far.machines[vm] != nil {
			return code.Errorf(code.VMExists, "the other libvirt has it")
		}
		m.job = &memJob{task: s.TaskID(), began: time.Now(), ends: time.Now().Add(l.saveTakes), paused: m.state.Phase == virt.Paused, leaves: true, answer: answer}
		l.far.machines[vm] = &memMachine{state: virt.Coming, job: m.job}
		return nil
	})
	if err != nil {
		answer <- err
		return answer
	}
	l.passAfter(l.saveTakes)
	return answer
}

func (l memLibvirt) passAfter(d time.Duration) {
	time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pass()
	})
}

// arrive is the switch-over; the lock is held.
func (w *world) arrive(vm string, m *memMachine, j *memJob) {
	how := w.far.breaks
	w.far.breaks = ""
	switch {
	case w.far.dies:
		w.far.back = time.Now().Add(2 * time.Second) // each time
		w.far.drop(vm)
		j.end(errors.New("the other libvirt is gone"))
	case how == dieBefore, how == dieLost:
		if how == dieLost {
			m.state = virt.Coming
		}
		w.far.drop(vm)
		j.end(errGone)
	case how == dieStopped:
		m.state = virt.Coming
		w.far.machines[vm].job = nil
		j.end(errGone)
	default:
		there := w.far.machines[vm]
		there.job, there.state = nil, virt.State{Phase: virt.Running}
		if j.paused {
			there.state.Phase = virt.Paused
		}
		m.state = virt.Coming
		if how == dieArrived {
			j.end(errGone)
			break
		}
		delete(w.machines, vm)
		j.end(nil)
	}
	w.wake()
}

func (l memLibvirt) SetBandwidth(context.Context, string, uint64) error { return nil }

func (l memLibvirt) SetDowntime(context.Context, string, time.Duration) error { return nil }

func (l memLibvirt) PostCopy(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "enter post-copy"); err != nil {
		return err
	}
	return l.with(vm, func(m *memMachine) error {
		if m.job == nil || m.job.postCopy {
			return errInvalid
		}
		m.job.postCopy, m.job.ends = true, time.Now().Add(1300*time.Millisecond)
		l.far.machines[vm].state = virt.State{Phase: virt.Running}
		l.passAfter(1300 * time.Millisecond)
		return nil
	})
}

func (l memLibvirt) Remove(_ context.Context, s *tasks.Scope, vm string) error {
	if err := l.allowed(s, "remove the machine that was left behind"); err != nil {
		return err
	}
	return l.with(vm, func(*memMachine) error {
		delete(l.machines, vm)
		return nil
	})
}
