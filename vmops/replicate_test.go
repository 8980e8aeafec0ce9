package vmops

import (
	"encoding/json"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// TestReplicateRefusals: what cannot be mirrored is refused by name.
func TestReplicateRefusals(t *testing.T) {
	h := newHost(t, newReplica())
	params := func(vm string, source, replica map[string]string) map[string]any {
		return map[string]any{"vmID": vm, "srcDisk": source, "dstDisk": replica}
	}
	h.refuse([]refusal{
		{"no machine", nameReplicate, params(other, oneDisk(volB), oneDisk(volR)), code.NoSuchVM},
		{"no volume", nameReplicate, params(vmID, oneDisk(volB), oneDisk("")), code.InvalidParameter},
		{"one volume", nameReplicate, params(vmID, oneDisk(volB), oneDisk(volB)), code.InvalidParameter},
		{"a volume that is not there", nameReplicate, params(vmID, oneDisk(volB), oneDisk(volT)), code.VolumeDoesNotExist},
		{"a mirror", nameReplicate, params(vmID, oneDisk(volB), oneDisk(volR)), 0},
	})
}

// TestReplicateFinish: it changes over once the replica is ready, and as often as it is asked; with the source as the destination it goes back at any time.
func TestReplicateFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReplica()
		w.asks = false
		e, vms := engine(t, w)
		defer func() {
			if err := e.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		params := func(replica string) json.RawMessage {
			raw, err := json.Marshal(map[string]any{"vmID": vmID, "srcDisk": oneDisk(volB), "dstDisk": oneDisk(replica)})
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		start := func() string {
			id, err := e.Submit(t.Context(), tasks.Submission{Verb: nameReplicate, Params: params(volR), Who: "tester"})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return id
		}
		finish := func(replica string, want code.Code) {
			t.Helper()
			if _, err := vms.replicateFinish(t.Context(), params(replica)); code.Of(err) != want {
				t.Errorf("VM.diskReplicateFinish answers %v, not %d", err, want)
			}
		}
		ended := func(id string, want tasks.State) {
			t.Helper()
			if s, err := e.Wait(t.Context(), id, tasks.Ended); err != nil || s.State != want {
				t.Errorf("ended %s: %s, %v", s.State, s.Message, err)
			}
		}
		finish(volR, code.NotReplicating)
		for _, after := range []time.Duration{0, 2 * commitTakes} {
			id := start()
			finish(volR, code.ResourceUnavailable)
			time.Sleep(after)
			finish(volT, code.InvalidParameter)
			finish(volB, 0)
			ended(id, tasks.Recovered)
			finish(volB, 0)
			if w.disk.job != nil || w.disk.files[0] != volB {
				t.Errorf("the disk is %+v", w.disk)
			}
			w.metas[volR].base.Legality = "LEGAL"
		}
		id := start()
		time.Sleep(2 * commitTakes)
		w.copying = true
		finish(volR, code.PrepareIllegalVolume)
		w.copying = false
		finish(volR, 0)
		ended(id, tasks.Finished)
		finish(volR, 0)
		if want := []string{volR}; !reflect.DeepEqual(w.disk.files, want) || w.metas[volR].base.Legality != "LEGAL" {
			t.Errorf("the disk is %+v, the replica %+v", w.disk, w.metas[volR])
		}
	})
}
