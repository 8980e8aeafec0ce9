package prove

import (
	"fmt"
	"testing"
)

// enumeration runs the cases of one script over one subject.
type enumeration struct {
	t       *testing.T
	subject *subject
	script  string
	budget  int // 0 = all
	second  int // second faults after each first one when all run; 0 = all
	phase   int // shifts the sample, so that subjects do not all sample the same points
	ran     int
	found   int // all that there are; counted up from the sample if not all run
	broken  int
	spots   []spot
}

// base runs the script without a fault and returns its points, a line each.
func (e *enumeration) base() []string {
	out := e.play(nil, true, true)
	e.found++
	e.spots = out.after
	return out.trace.points
}

func (e *enumeration) play(faults []fault, probing, traced bool) result {
	sd := seed{e.subject.pack, e.subject.Name, e.script, faults}
	out := e.subject.play(e.t, sd, probing, traced)
	e.ran++
	if e.ran%compareEvery == 0 {
		e.compare(sd)
	}
	if out.broke != "" {
		e.broken++
		if !traced {
			again := e.subject.play(e.t, sd, false, true)
			if again.broke == "" {
				again.broke = out.broke + "\n(not seen again when it was run with the trace: the case depends on more than its seed)"
			}
			out = again
		}
		e.t.Error(report(sd, out))
	}
	return out
}

// compareEvery is how many cases come to one that is run twice more, to see that a seed says all.
const compareEvery = 50

// compare fails if two runs of a seed differ.
func (e *enumeration) compare(sd seed) {
	one, two := e.subject.play(e.t, sd, false, true), e.subject.play(e.t, sd, false, true)
	first, second := one.trace.essence(), two.trace.essence()
	for i := range max(len(first), len(second)) {
		if a, b := line(first, i), line(second, i); a != b {
			e.broken++
			e.t.Errorf("%s: two runs differ in line %d:\n%s\n%s\n\n%s", sd, i+1, a, b, report(sd, one))
			return
		}
	}
}

// enough ends the enumeration of a subject that is broken anyway.
const enough = 3

func (e *enumeration) run() {
	if e.broken > 0 {
		return
	}
	first := singles(e.spots)
	e.found += len(first)
	share := 0
	if e.budget > 0 {
		share = max(1, e.budget/2)
	}
	var openers [][]fault
	for i, f := range first {
		if opens(f) {
			openers = append(openers, []fault{f})
		} else if e.taken(i, len(first), share) {
			e.play([]fault{f}, false, false)
		}
		if e.broken >= enough {
			return
		}
	}
	e.pairs(openers, len(first))
}

// pairs runs the cases of two faults. Of a sample only some first faults are followed, and of each some second ones: other
// ones after each, so that all of them come about.
func (e *enumeration) pairs(openers [][]fault, total int) {
	const followed = 6
	most := e.second
	if e.budget > 0 {
		most = max(1, e.budget/(2*followed))
	}
	seconds, probed := 0, 0
	for i, first := range openers {
		if e.budget > 0 && !e.taken(i, len(openers), followed) {
			if e.taken(i, len(openers), e.budget*len(openers)/(2*total)) {
				e.play(first, false, false)
			}
			continue
		}
		spots := e.play(first, true, false).after
		second := follow(first[0], spots)
		seconds, probed = seconds+len(second), probed+1
		for j, f := range second {
			if e.taken(i+j, len(second), most) {
				e.play([]fault{first[0], f}, false, false)
			}
			if e.broken >= enough {
				return
			}
		}
	}
	if probed > 0 {
		e.found += seconds * len(openers) / probed
	}
}

// taken says whether the ith of n is in an evenly spread sample of most; most 0 = all are.
func (e *enumeration) taken(i, n, most int) bool {
	if most == 0 || most >= n {
		return true
	}
	i = (i + e.phase*7) % n
	return i*most/n != (i+1)*most/n
}

// opens says whether a second fault may follow. After a stop that comes late, while a program that decides is at work, it must: only
// then has a process that starts a stop to assert again.
func opens(f fault) bool {
	return f.kind == faultCrash || f.kind == faultStop && (f.arg == "" || f.arg == "late")
}

// singles are all single faults of a run with those points.
func singles(spots []spot) []fault {
	var out []fault
	for i, s := range spots {
		n := i + 1
		out = append(out, fault{faultStop, n, ""})
		if n%3 == 0 {
			out = append(out, fault{faultStop, n, "f"})
		}
		if n%4 == 0 {
			out = append(out, fault{faultStop, n, "2"})
		}
		if !s.commit {
			out = append(out, fault{faultStop, n, "late"})
		}
		out = append(out, fault{faultRestart, n, ""})
		out = append(out, crashes(n, s)...)
		out = append(out, failures(n, s)...)
		out = append(out, fault{faultFailFrom, n, ""})
	}
	return out
}

func crashes(n int, s spot) []fault {
	var out []fault
	for k := range subsets(s.k) {
		out = append(out, fault{faultCrash, n, fmt.Sprintf("k%d", k)})
	}
	return out
}

func failures(n int, s spot) []fault {
	if !s.commit {
		return []fault{{faultFail, n, ""}}
	}
	return []fault{{faultFail, n, "u"}, {faultFail, n, "k"}, {faultFail, n, "a"}}
}

// follow are all faults that can follow the first one.
func follow(first fault, spots []spot) []fault {
	var out []fault
	for i, s := range spots {
		n := i + 1
		out = append(out, crashes(n, s)...)
		out = append(out, failures(n, s)...)
		if first.kind == faultCrash {
			out = append(out, fault{faultStop, n, ""})
		}
	}
	return out
}
