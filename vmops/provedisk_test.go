package vmops

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks/tasktest/prove"
)

func mergeCases(t *testing.T) []prove.Case {
	one := func(name, leaf, top string, change func(w *world)) prove.Case {
		raw, err := json.Marshal(map[string]any{
			"vmID": vmID, "drive": map[string]string{"domainID": sdID, "imageID": imgD, "volumeID": leaf, "device": "disk"}, "baseVolUUID": volB, "topVolUUID": top, "bandwidth": "0",
		})
		if err != nil {
			t.Fatal(err)
		}
		return prove.Case{Name: name, Verb: "VM.merge", Params: raw, Remainder: partMerged, World: func() prove.World {
			w := newChain([]string{volB, volT, volL}[:map[string]int{volT: 2, volL: 3}[leaf]]...)
			if change != nil {
				change(w)
			}
			return w
		}}
	}
	breaks := func(w *world) { w.breaks = 1 << 20 }
	return []prove.Case{
		one("merge a volume in the middle", volL, volT, nil),
		one("merge a volume in the middle, and QEMU has finished when it is to cancel", volL, volT, func(w *world) { w.deaf = true }),
		one("merge a volume in the middle, and QEMU gives it up", volL, volT, breaks),
		one("merge the leaf", volT, volT, nil),
		one("merge the leaf, and QEMU gives it up", volT, volT, breaks),
		one("merge the leaf, and QEMU does not change over", volT, volT, func(w *world) { w.refuses = true }),
	}
}

// newReplica is a world whose machine works on a volume by itself, with a volume that is to be its replica.
func newReplica() *world {
	w := newChain(volB)
	w.metas[volR] = &memMeta{domain.BlankUUID, domain.BlankUUID, true, storageops.VMMergeBase{Capacity: 10, Legality: domain.Legal}}
	w.volumes[onDisk(volR)] = &memVolume{domain.Shape{Length: 10}, ""}
	w.asks = true
	return w
}

func replicateCases(t *testing.T) []prove.Case {
	one := func(name string, change func(w *world)) prove.Case {
		raw, err := json.Marshal(map[string]any{"vmID": vmID, "srcDisk": oneDisk(volB), "dstDisk": oneDisk(volR), "needExtend": "false"})
		if err != nil {
			t.Fatal(err)
		}
		return prove.Case{Name: name, Verb: nameReplicate, Params: raw, Remainder: partReplica, World: func() prove.World {
			w := newReplica()
			if change != nil {
				change(w)
			}
			return w
		}}
	}
	return []prove.Case{
		one("replicate a disk", nil),
		one("replicate a disk, and QEMU gives it up", func(w *world) { w.breaks = 1 << 20 }),
		one("replicate a disk, and QEMU does not change over", func(w *world) { w.refuses = true }),
	}
}

// partReplica is what a replication may leave: the replica is ILLEGAL, and holds anything.
func partReplica(before, after string) error {
	return onlyILLEGAL(before, after, volR, "Legality:ILLEGAL")
}

// partMerged is what a merge may leave: the base is ILLEGAL and larger, and what it holds by itself is lost.
func partMerged(before, after string) error {
	return onlyILLEGAL(before, after, volB, "Legality:ILLEGAL Merging:true")
}

// onlyILLEGAL says what else than one volume is not as before. If that is not, its metadata says so.
func onlyILLEGAL(before, after, volume, mark string) error {
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range now {
		switch {
		case slices.Contains(old, line):
		case strings.HasPrefix(line, "metadata of "+volume) && strings.Contains(line, mark):
		case strings.HasPrefix(line, onDisk(volume).String()) && slices.ContainsFunc(now, func(l string) bool {
			return strings.HasPrefix(l, "metadata of "+volume) && strings.Contains(l, mark)
		}):
		default:
			return fmt.Errorf("%q is not part of the remainder; before it was\n%s", line, before)
		}
	}
	return nil
}
