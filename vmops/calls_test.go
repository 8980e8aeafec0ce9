package vmops

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

const other = "dddddddd-0000-4000-8000-000000000002"

// host is the verbs over a world, without an engine.
type host struct {
	*VMs
	t     *testing.T
	world *world
	held  int
}

func newHost(t *testing.T, w *world) *host {
	t.Helper()
	open := func(*tasks.Scope, string) error { return nil }
	h := &host{VMs: newVMs(memLibvirt{w, open}, memVolumes{w, open}, zerolog.Nop()), t: t, world: w}
	h.hold = func(string, []tasks.Lock) (func(), error) {
		h.held++
		return func() { h.held-- }, nil
	}
	w.ended = h.ended
	return h
}

// call answers a verb as its result is on the wire.
func (h *host) call(verb string, params map[string]any) (any, error) {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range h.Calls() {
		if c.Name != verb {
			continue
		}
		v, err := c.Answer(context.Background(), raw)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(v)
		if err != nil {
			h.t.Fatal(err)
		}
		var out any
		if err := json.Unmarshal(text, &out); err != nil {
			h.t.Fatal(err)
		}
		return out, nil
	}
	h.t.Fatalf("there is no verb %s", verb)
	return nil, nil
}

// get is the call, which must succeed.
func (h *host) get(verb string, params map[string]any) any {
	h.t.Helper()
	v, err := h.call(verb, params)
	if err != nil {
		h.t.Fatalf("%s: %v", verb, err)
	}
	return v
}

// stats are the only entry of VM.getStats.
func (h *host) stats(vm string) map[string]any {
	h.t.Helper()
	return h.get("VM.getStats", map[string]any{"vmID": vm}).([]any)[0].(map[string]any)
}

func (h *host) status(want string) {
	h.t.Helper()
	if got := h.stats(vmID)["status"]; got != want {
		h.t.Errorf("the machine is %v, not %s", got, want)
	}
}

func xmlOf(vm string) string {
	return "<domain type='kvm'><name>one</name><uuid>" + vm + "</uuid></domain>"
}

// TestLife: a machine is started, paused, continued, shut down, and forgotten; and each status is VDSM's.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(virt.Running)
		delete(w.machines, vmID)
		h := newHost(t, w)
		id := map[string]any{"vmID": vmID}
		create := map[string]any{"vmID": vmID, "vmParams": map[string]any{"xml": xmlOf(vmID), "vmId": vmID, "display": "vnc"}}
		answer := h.get("VM.create", create).(map[string]any)
		if answer["status"] != statusLaunching || answer["vmId"] != vmID || answer["vmName"] != "one" {
			t.Errorf("VM.create answers %v", answer)
		}
		synctest.Wait()
		if _, err := h.call("VM.create", create); code.Of(err) != code.VMExists {
			t.Errorf("a second start: %v", err)
		}
		h.status(statusUp)
		h.get("VM.pause", id)
		h.status(statusPaused)
		h.get("VM.cont", id)
		h.get("VM.cont", id)
		h.status(statusUp)
		if got := h.get("Host.getVMList", nil); !reflect.DeepEqual(got, []any{vmID}) {
			t.Errorf("Host.getVMList answers %v", got)
		}
		h.get("VM.shutdown", map[string]any{"vmID": vmID, "delay": "30", "message": "bye"})
		h.status(statusDown)
		if s := h.stats(vmID); s["exitCode"] != 0.0 || s["exitReason"] != float64(exitAdmin) {
			t.Errorf("it ended %v", s)
		}
		if got := h.get("Host.getVMList", map[string]any{"onlyUUID": "false"}); !reflect.DeepEqual(got, []any{map[string]any{"vmId": vmID, "status": statusDown}}) {
			t.Errorf("Host.getVMList answers %v", got)
		}
		for _, verb := range []string{"VM.pause", "VM.cont", "VM.shutdown"} {
			if _, err := h.call(verb, id); code.Of(err) != code.VMIsDown {
				t.Errorf("%s of a machine that is down: %v", verb, err)
			}
		}
		h.get("VM.destroy", id)
		for _, verb := range []string{"VM.pause", "VM.cont", "VM.shutdown", "VM.destroy", "VM.getStats", "VM.getInfo"} {
			if _, err := h.call(verb, id); code.Of(err) != code.NoSuchVM {
				t.Errorf("%s of no machine: %v", verb, err)
			}
		}
		h.get("VM.create", create)
		synctest.Wait()
		h.get("VM.destroy", id)
		if got := h.get("Host.getAllVmStats", nil); !reflect.DeepEqual(got, []any{}) {
			t.Errorf("when it is destroyed there is still %v", got)
		}
		if h.held != 0 {
			t.Errorf("%d locks are left", h.held)
		}
		h.Close()
	})
}

// TestResume: what VM.hibernate has saved is resumed, and nothing else.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(virt.Running)
		delete(w.machines, vmID)
		h := newHost(t, w)
		conf, err := savedConf{VM: vmID, Memory: memoryVolume, Paused: true}.encode()
		if err != nil {
			t.Fatal(err)
		}
		resume := func(vm string) map[string]any {
			return map[string]any{"vmID": vm, "vmParams": map[string]any{"xml": xmlOf(vm), "hiberVolHandle": saved}}
		}
		for _, c := range []struct {
			name, vm, conf, memory, text string
		}{
			{"empty volumes", vmID, "", "", "no saved state"},
			{"VDSM's", vmID, "\x80\x04K\x01.", savedMagic, "VDSM"},
			{"another version", vmID, strings.Replace(string(conf), `"version":1`, `"version":2`, 1), savedMagic, "version 2"},
			{"another machine's", other, string(conf), savedMagic, vmID},
			{"a memory that is not complete", vmID, string(conf), "LibvirtQemudPart", "not complete"},
		} {
			w.volumes[confVolume].content, w.volumes[memoryVolume].content = c.conf, c.memory
			if _, err := h.call("VM.create", resume(c.vm)); code.Of(err) != code.InvalidParameter || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		w.volumes[confVolume].content, w.volumes[memoryVolume].content = string(conf)+"\x00\x00", savedMagic+" and more"
		if answer := h.get("VM.create", resume(vmID)).(map[string]any); answer["status"] != statusRestoring {
			t.Errorf("VM.create answers %v", answer)
		}
		synctest.Wait()
		h.status(statusPaused) // as it was saved
		if got := w.machines[vmID].xml; got != machineXMLOn(volB) {
			t.Errorf("it works on %s", got)
		}
		h.get("VM.destroy", map[string]any{"vmID": vmID})
		again := resume(vmID)
		again["vmParams"].(map[string]any)["xml"] = machineXMLOn(volT)
		h.get("VM.create", again)
		synctest.Wait()
		if files, err := h.files(t.Context(), vmID, "vda"); err != nil || len(files) != 1 || files[0] != volT {
			t.Errorf("resumed on another volume it works on %v: %v", files, err)
		}
		h.Close()
	})
}

// TestFreeze: a guest is frozen and thawed; without an agent that is refused by name.
func TestFreeze(t *testing.T) {
	w := newWorld(virt.Running)
	h := newHost(t, w)
	id := map[string]any{"vmID": vmID}
	h.get("VM.freeze", id)
	if !w.machines[vmID].atRest {
		t.Error("it is not at rest")
	}
	h.get("VM.thaw", id)
	if w.machines[vmID].atRest {
		t.Error("it is at rest still")
	}
	w.noGuest = true
	if _, err := h.call("VM.freeze", id); code.Of(err) != code.GuestAgent {
		t.Errorf("without an agent: %v", err)
	}
}

// TestRefusals: what cannot work is refused by name.
func TestRefusals(t *testing.T) {
	h := newHost(t, newWorld(virt.Running))
	none := newVMs(nil, h.volumes, zerolog.Nop())
	for _, c := range none.Calls() {
		if c.Name == "Host.leaveMaintenance" {
			continue // of storage, too
		}
		raw, _ := json.Marshal(map[string]any{"vmID": vmID, "vmParams": map[string]any{"xml": xmlOf(vmID)}})
		if _, err := c.Answer(t.Context(), raw); code.Of(err) != code.ResourceUnavailable {
			t.Errorf("%s without libvirt: %v", c.Name, err)
		}
	}
	handle := func(s string) map[string]any { return map[string]any{"vmID": vmID, "hibernationVolHandle": s} }
	drives := func(all ...map[string]string) map[string]any { return map[string]any{"vmID": vmID, "snapDrives": all} }
	drive := func(base, volume string) map[string]string {
		return map[string]string{"domainID": sdID, "imageID": imgD, "baseVolumeID": base, "volumeID": volume}
	}
	for _, c := range []struct {
		name   string
		params map[string]any
		code   code.Code
	}{
		{"no disks", drives(), code.InvalidParameter},
		{"no base", drives(map[string]string{"domainID": sdID, "imageID": imgD, "volumeID": volT}), code.InvalidParameter},
		{"the same volume", drives(drive(volB, volB)), code.InvalidParameter},
		{"an image twice", drives(drive(volB, volT), drive(volT, volC)), code.InvalidParameter},
		{"a memory", map[string]any{"vmID": vmID, "snapDrives": snapDrives, "snapMemory": saved}, 0},
		{"a memory in one volume", map[string]any{"vmID": vmID, "snapDrives": snapDrives, "snapMemory": strings.Join([]string{sdID, spID, imgM, volM, imgM, volM}, ",")}, code.InvalidParameter},
		{"a memory that is not there", map[string]any{"vmID": vmID, "snapDrives": snapDrives, "snapMemory": strings.Join([]string{sdID, spID, imgM, volM, imgC, volM}, ",")}, code.VolumeDoesNotExist},
		{"a snapshot of no machine", map[string]any{"vmID": other, "snapDrives": snapDrives}, code.NoSuchVM},
		{"no machine", map[string]any{"vmID": other, "hibernationVolHandle": saved}, code.NoSuchVM},
		{"no volumes", handle(""), code.InvalidParameter},
		{"five ids", handle(strings.Join(strings.Split(saved, ",")[:5], ",")), code.InvalidParameter},
		{"no ids", handle("a,b,c,d,e,f"), code.InvalidParameter},
		{"one volume twice", handle(strings.Join([]string{sdID, spID, imgM, volM, imgM, volM}, ",")), code.InvalidParameter},
		{"a volume that is not there", handle(strings.Join([]string{sdID, spID, imgM, volM, imgC, volM}, ",")), code.VolumeDoesNotExist},
	} {
		raw, _ := json.Marshal(c.params)
		v := h.Verbs()[0]
		if c.params["snapDrives"] != nil {
			v = h.Verbs()[1]
		}
		_, err := v.Plan("x", raw)
		if err == nil {
			err = v.Admit(t.Context(), raw)
		}
		if code.Of(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestPlace: where an engine has written its own path of a volume, that of the volume's file is put.
func TestPlace(t *testing.T) {
	const disk = "<disk><source %/><target dev='vda'/></disk>"
	of := func(source string) string {
		return "<domain><devices>" + strings.Replace(disk, "%", source, 1) + "</devices></domain>"
	}
	for before, after := range map[string]string{
		"file='/rhev/data-center/" + spID + "/" + sdID + "/images/" + imgM + "/" + volM + "'":     "file='/storage/" + volM + "'",
		"file='/rhev/data-center/mnt/host:_export/" + sdID + "/images/" + imgM + "/" + volM + "'": "file='/storage/" + volM + "'",
		"file='/srv/elsewhere/" + sdID + "/images/" + imgM + "/" + volM + "'":                     "file='/srv/elsewhere/" + sdID + "/images/" + imgM + "/" + volM + "'",
		"dev='/dev/sda'": "dev='/dev/sda'",
	} {
		d, err := parseXML(of(before))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.place(func(v storageops.VolumeID) (string, error) { return "/storage/" + v.Volume, nil }); err != nil {
			t.Fatal(err)
		}
		text, err := d.String()
		if err != nil {
			t.Fatal(err)
		}
		if text != strings.ReplaceAll(of(after), "'", `"`) && text != of(after) {
			t.Errorf("got  %s\nwant %s", text, of(after))
		}
	}
}
