package vmops

import (
	"encoding/json"
	"reflect"
	"testing"
	"testing/synctest"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/prove"

	"github.com/rs/zerolog"
)

// oneDisk are parameters that name the disk of the world's machine.
func oneDisk(volume string) map[string]string {
	return map[string]string{"poolID": spID, "domainID": sdID, "imageID": imgD, "volumeID": volume, "device": "disk"}
}

// refusal is what a verb is to refuse: with its code, at the submit.
type refusal struct {
	name   string
	verb   string
	params map[string]any
	code   code.Code
}

func (h *host) refuse(all []refusal) {
	h.t.Helper()
	for _, c := range all {
		raw, err := json.Marshal(c.params)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, v := range h.Verbs() {
			if v.Name != c.verb {
				continue
			}
			if _, err = v.Plan("x", raw); err == nil {
				err = v.Admit(h.t.Context(), raw)
			}
			if code.Of(err) != c.code {
				h.t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// TestMergeRefusals: what cannot be merged is refused by name.
func TestMergeRefusals(t *testing.T) {
	h := newHost(t, newChain(volB, volT, volL))
	params := func(vm string, drive map[string]string, base, top string) map[string]any {
		return map[string]any{"vmID": vm, "drive": drive, "baseVolUUID": base, "topVolUUID": top}
	}
	slow := params(vmID, oneDisk(volL), volB, volT)
	slow["bandwidth"] = "-1"
	h.refuse([]refusal{
		{"no machine", nameMerge, params(other, oneDisk(volL), volB, volT), code.NoSuchVM},
		{"no image", nameMerge, params(vmID, map[string]string{"domainID": sdID, "volumeID": volL}, volB, volT), code.InvalidParameter},
		{"one volume", nameMerge, params(vmID, oneDisk(volL), volB, volB), code.InvalidParameter},
		{"no neighbours", nameMerge, params(vmID, oneDisk(volL), volB, volL), code.ImageIsNotLegalChain},
		{"a speed below nothing", nameMerge, slow, code.InvalidParameter},
		{"a merge", nameMerge, params(vmID, oneDisk(volL), volB, volT), 0},
	})
}

// engine runs the tasks of the verbs over a world.
func engine(t *testing.T, w *world) (*tasks.Engine, *VMs) {
	t.Helper()
	open := func(*tasks.Scope, string) error { return nil }
	vms := newVMs(memLibvirt{w, open}, memVolumes{w, open}, zerolog.Nop())
	e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: vms.Verbs(), Log: zerolog.Nop()})
	vms.tasks = func() Tasks { return e }
	if err := e.Start(nil); err != nil {
		t.Fatal(err)
	}
	return e, vms
}

// TestMergeIsSeen: from the answer to its submit to its end a merge is in the statistics of its machine, as engines look for it there. Another
// one that follows finds the disk free.
func TestMergeIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(volB, volT, volL)
		e, vms := engine(t, w)
		defer func() {
			if err := e.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		jobs := func() map[string]BlockJob {
			raw, err := json.Marshal(map[string]any{"vmID": vmID})
			if err != nil {
				t.Fatal(err)
			}
			v, err := vms.getStats(t.Context(), raw)
			if err != nil {
				t.Fatal(err)
			}
			return v.([]Stats)[0].Jobs
		}
		if got := jobs(); got == nil || len(got) > 0 {
			t.Errorf("before there is %v", got)
		}
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "drive": oneDisk(volL), "baseVolUUID": volB, "topVolUUID": volT, "bandwidth": "7"})
		if err != nil {
			t.Fatal(err)
		}
		id, err := e.Submit(t.Context(), tasks.Submission{ID: other, Verb: nameMerge, Params: raw, Who: "tester"})
		if err != nil {
			t.Fatal(err)
		}
		got := jobs()[id]
		if want := (BlockJob{id, "block", "commit", imgD, 7, got.Done, got.Total}); got != want {
			t.Errorf("there is %+v, not %+v", got, want)
		}
		if _, err := e.Wait(t.Context(), id, tasks.Ended); err != nil {
			t.Fatal(err)
		}
		if got := jobs(); len(got) > 0 {
			t.Errorf("when it has ended there is %v", got)
		}
		if want := []string{volL, volB}; !reflect.DeepEqual(w.disk.files, want) {
			t.Errorf("the machine works on %v", w.disk.files)
		}
	})
}

// TestMergeOfMachineThatGoesDown: when the guest shuts down in a merge, a volume in the middle is out of the chain if its file says so, and a leaf is LEGAL
// again if it never was asked to change over; if it was, nobody can tell, and that is said.
func TestMergeOfMachineThatGoesDown(t *testing.T) {
	for _, c := range []struct {
		name, leaf, at string
		state          tasks.State
		legality       string
	}{
		{"in the middle, when the commit begins", volL, "begin the commit", tasks.Recovered, "LEGAL"},
		{"in the middle, when it has ended", volL, "ended", tasks.Finished, "ILLEGAL"},
		{"the leaf, when the commit begins", volT, "begin the commit", tasks.Recovered, "LEGAL"},
		{"the leaf, when it is marked", volT, "mark the top: true", tasks.Recovered, "LEGAL"},
		{"the leaf, when it is asked to change over", volT, "pivot", tasks.Failed, "ILLEGAL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newChain([]string{volB, volT, volL}[:map[string]int{volT: 2, volL: 3}[c.leaf]]...)
				down := func() { delete(w.machines, vmID); w.disk.job = nil }
				gate := func(_ *tasks.Scope, effect string) error {
					if effect == c.at {
						w.mu.Lock()
						defer w.mu.Unlock()
						down()
					}
					return nil
				}
				if c.at == "ended" {
					w.ends = down
				}
				e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: w.Verbs(gate), Log: zerolog.Nop()})
				if err := e.Start(nil); err != nil {
					t.Fatal(err)
				}
				raw, err := json.Marshal(map[string]any{"vmID": vmID, "drive": oneDisk(c.leaf), "baseVolUUID": volB, "topVolUUID": volT})
				if err != nil {
					t.Fatal(err)
				}
				id, err := e.Submit(t.Context(), tasks.Submission{Verb: nameMerge, Params: raw, Who: "tester"})
				if err != nil {
					t.Fatal(err)
				}
				s, err := e.Wait(t.Context(), id, tasks.Ended)
				if err != nil || s.State != c.state {
					t.Errorf("ended %s: %s, %v", s.State, s.Message, err)
				}
				if got := w.metas[volT].base.Legality; got != c.legality {
					t.Errorf("the top is %s", got)
				}
				if err := e.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestMergeStoppedOverRestart: the agent dies while QEMU does not take the cancel. The next one goes on asking, and nothing is undone before.
func TestMergeStoppedOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, kept := newChain(volB, volT), tasktest.NewMemStore()
		deaf := func(_ *tasks.Scope, effect string) error {
			if effect == "cancel the job of the disk" {
				return errInvalid
			}
			return nil
		}
		begin := func(gate prove.Gate) *tasks.Engine {
			e := tasks.New(tasks.Options{Store: kept, Verbs: w.Verbs(gate), Log: zerolog.Nop()})
			if err := e.Start(nil); err != nil {
				t.Fatal(err)
			}
			return e
		}
		end := func(e *tasks.Engine) {
			if err := e.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "drive": oneDisk(volT), "baseVolUUID": volB, "topVolUUID": volT})
		if err != nil {
			t.Fatal(err)
		}
		e := begin(deaf)
		id, err := e.Submit(t.Context(), tasks.Submission{Verb: nameMerge, Params: raw, Who: "tester"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := e.Stop(id, tasks.StopOptions{Who: "tester"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w.disk.job == nil {
			t.Fatal("the job is gone already")
		}
		left := kept.Crash(func() bool { return false })
		end(e)
		w, kept = w.Crash(func() bool { return true }).(*world), left
		kept.OnCommit = func(c store.Change) error {
			for _, r := range c.Put {
				if tasks.State(r.State) == tasks.Recovering && w.disk.job != nil {
					t.Error("the undo begins, and the job is there")
				}
			}
			return nil
		}
		e = begin(func(*tasks.Scope, string) error { return nil })
		if s, err := e.Wait(t.Context(), id, tasks.Ended); err != nil || s.State != tasks.Recovered {
			t.Errorf("ended %s: %s, %v", s.State, s.Message, err)
		}
		end(e)
	})
}
