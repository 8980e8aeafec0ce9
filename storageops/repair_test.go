package storageops

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/storageops/domaincheck"
)

// TestMessyDomain: what the cases of the proof repair is what a check of the domain in memory finds and offers, and in the furnished one
// nothing is found.
func TestMessyDomain(t *testing.T) {
	find := func(d *disk) (out []string) {
		r, err := memDomain{&hand{disk: d, gate: open}, nil, sdID}.Examine(t.Context(), domaincheck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Findings {
			if f.Severity != domaincheck.Note {
				out = append(out, fmt.Sprint(f.Class, " ", f.Path, " ", f.Repair != ""))
			}
		}
		slices.Sort(out)
		return out
	}
	if got := find(furnished()); len(got) > 0 {
		t.Errorf("the furnished domain has findings:\n%s", strings.Join(got, "\n"))
	}
	var want []string
	for _, f := range messy {
		want = append(want, f.String()+" true")
	}
	slices.Sort(want)
	if got := find(messyDisk()); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
