package prove

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
)

// fault is what goes wrong at a point of a run.
type fault struct {
	kind faultKind
	// at is the point: of the first fault its number in the first process; of the second how many points after the first
	// fault, or, when that was a crash, its number in the process that recovers.
	at  int
	arg string
}

type faultKind string

const (
	faultStop     faultKind = "stop"     // a client stops the task; arg: "", f = force, 2 = twice, late = while the step waits after the point
	faultCrash    faultKind = "crash"    // the process dies before the point; arg: k and the number of the subset that is kept
	faultRestart  faultKind = "restart"  // the process shuts down at the point, in good order
	faultFail     faultKind = "fail"     // the operation fails; arg: of a store u = unavailable, k = unknown and lost, a = unknown and there
	faultFailFrom faultKind = "failfrom" // it fails, and so do all later ones of its kind until it is healed
)

// seed says all of a case: the package, the case, the script and the faults.
type seed struct {
	pack, name, script string
	faults             []fault
}

func (s seed) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s/%s:", s.pack, s.name, s.script)
	for i, f := range s.faults {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "%s@", f.kind)
		if i > 0 {
			b.WriteString("+")
		}
		b.WriteString(strconv.Itoa(f.at))
		if f.arg != "" {
			b.WriteString(":" + f.arg)
		}
	}
	return b.String()
}

// parseSeed reads what String has written.
func parseSeed(text string) (seed, error) {
	place, faults, ok := strings.Cut(text, ":")
	parts := strings.Split(place, "/")
	if !ok || len(parts) != 3 {
		return seed{}, fmt.Errorf("%q is not package/case/script:faults", text)
	}
	s := seed{pack: parts[0], name: parts[1], script: parts[2]}
	for _, part := range strings.Split(faults, ",") {
		if part == "" {
			continue
		}
		kind, rest, _ := strings.Cut(part, "@")
		at, arg, _ := strings.Cut(rest, ":")
		n, err := strconv.Atoi(strings.TrimPrefix(at, "+"))
		if err != nil {
			return seed{}, fmt.Errorf("%q is not a fault such as crash@+3:k2: %w", part, err)
		}
		s.faults = append(s.faults, fault{faultKind(kind), n, arg})
	}
	return s, nil
}

// wholeSubsets is the most unsynced changes of which every subset is tried; of more it is sampledSubsets.
const (
	wholeSubsets   = 4
	sampledSubsets = 16
)

// subsets is how many outcomes a crash with k unsynced changes has.
func subsets(k int) int {
	if k <= wholeSubsets {
		return 1 << k
	}
	return sampledSubsets
}

// keep returns what a crash that leaves k unsynced changes keeps of them, in their order.
func (s seed) keep(k int, arg string) (func() bool, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(arg, "k"))
	if err != nil || n < 0 || n >= subsets(k) {
		return nil, fmt.Errorf("%d unsynced changes have no subset %q", k, arg)
	}
	if k > wholeSubsets {
		h := fnv.New64a()
		_, _ = h.Write([]byte(s.pack + "/" + s.name + "/" + s.script)) // never fails; not the faults: more may follow this crash
		rng := rand.New(rand.NewPCG(h.Sum64(), uint64(n)))
		return func() bool { return rng.IntN(2) == 0 }, nil
	}
	i := -1
	return func() bool { i++; return n>>i&1 == 1 }, nil
}
