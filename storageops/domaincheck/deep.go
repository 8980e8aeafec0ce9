package domaincheck

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
)

func itoa(n int) string { return strconv.Itoa(n) }

// deep lets qemu-img look at every qcow2 image whose header is as it should be: a template's once, and none that is in use, since what
// a guest writes meanwhile looks like damage.
func (s *scan) deep(ctx context.Context) error {
	if s.o.Starter == nil {
		return nil
	}
	var all []*volume
	for _, img := range slices.Sorted(maps.Keys(s.images)) {
		for _, vol := range slices.Sorted(maps.Keys(s.images[img].volumes)) {
			if v := s.images[img].volumes[vol]; v.clean && !v.shares && !v.inUse {
				all = append(all, v)
			}
		}
	}
	for i, v := range all {
		if s.o.Progress != nil {
			s.o.Progress(i, len(all))
		}
		s.checkImage(ctx, v)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *scan) checkImage(ctx context.Context, v *volume) {
	img := qemuimg.Image{Path: s.o.Path + "/" + v.path(), Format: qemuimg.QCOW2}
	want := qemuimg.Expect{Backing: v.header.Backing, BackingFormat: v.header.BackingFormat}
	r, err := qemuimg.CheckUntrusted(ctx, s.o.Starter, img, want)
	switch {
	case err != nil:
		s.add("qcow2-unchecked", v.path(), "%s.", capital(err)).of(v)
	case r.Found == qemuimg.Corrupt:
		s.add("qcow2-corrupt", v.path(), "%s has %d corruptions and %d places that cannot be checked.", v.path(), r.Corruptions, r.Errors).of(v)
	case r.Found == qemuimg.Leaks:
		s.add("qcow2-leaks", v.path(), "%s has %d leaked clusters.", v.path(), r.Leaks).of(v)
	}
}

// Trace is what is left of an image or volume that something names.
type Trace struct {
	Image  string `json:"image"`
	Volume string `json:"volume,omitempty"`
	State  string `json:"state"` // in words
}

// Traces says what is in the domain of the images and volumes with these ids.
func (r *Report) Traces(ids []string) (out []Trace) {
	for _, img := range slices.Sorted(maps.Keys(r.scan.images)) {
		i := r.scan.images[img]
		if slices.Contains(ids, img) && len(i.volumes) == 0 {
			out = append(out, Trace{Image: img, State: "empty"})
		}
		for _, vol := range slices.Sorted(maps.Keys(i.volumes)) {
			if slices.Contains(ids, vol) || slices.Contains(ids, img) {
				out = append(out, Trace{img, vol, i.volumes[vol].state()})
			}
		}
	}
	return out
}

// state is what a volume is, in words.
func (v *volume) state() string {
	switch {
	case v.meta == nil && v.data == nil:
		return "only a lease"
	case v.meta == nil:
		return "data without metadata"
	case v.data == nil:
		return "metadata without data"
	case v.m == nil:
		return "damaged metadata"
	case v.m.Legality != domain.Legal:
		return v.m.Legality
	}
	return "whole (LEGAL)"
}
