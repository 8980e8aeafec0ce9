package prove

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"vdsm-agent/tasks"
)

// Config is what a verb package has proven.
type Config struct {
	Package string // the first word of its seeds
	Cases   []Case
	Golden  string // path of the golden file with the points of each case
	Sample  int    // how many cases run when not all are asked for
	// Second is how many second faults follow each first one with PROVE=all, where they are too many for minutes; 0 = all.
	// PROVE=everything runs all of them.
	Second  int
	Durable bool // a task finishes only when all its effects are synced
	// Ends is how cases end that nothing disturbs, by their names; all others finish. A case that does not proves less than it seems.
	// nil = nobody looks at that.
	Ends map[string]tasks.State
}

// Run proves the cases. The environment says how much: PROVE=all runs every stop, crash and failure at every point, and pairs of
// them (Config.Second); PROVE=everything runs all pairs; a number is that of an evenly spread sample, without one it is Config.Sample.
// PROVE_SEED runs that one case, with its trace.
func Run(t *testing.T, c Config) {
	if text := os.Getenv("PROVE_SEED"); text != "" {
		c.repro(t, text)
		return
	}
	much := os.Getenv("PROVE")
	all := much == "all" || much == "everything"
	if much != "" && !all {
		n, err := strconv.Atoi(much)
		if err != nil || n <= 0 {
			t.Fatalf("PROVE is %q: it is all, everything or the number of cases", much)
		}
		c.Sample = n
	}
	g := &golden{path: c.Golden}
	var proven, found atomic.Int64
	subjects := c.subjects(t)
	budget := max(1, c.Sample/max(1, len(subjects)*len(scripts)))
	t.Run("cases", func(t *testing.T) {
		for i, s := range subjects {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				for j, script := range scripts {
					e := &enumeration{t: t, subject: s, script: script, budget: budget, phase: i + j}
					if all {
						e.budget = 0
					}
					if much == "all" {
						e.second = c.Second
					}
					g.add(s.Name+"/"+script, e.base())
					if *update {
						continue // only the points are wanted
					}
					e.run()
					proven.Add(int64(e.ran))
					found.Add(int64(e.found))
				}
			})
		}
	})
	if !t.Failed() {
		g.check(t)
	}
	about := ""
	if !all || c.Second > 0 {
		about = "about "
	}
	fmt.Printf("proved %d cases of %s%d\n", proven.Load(), about, found.Load())
}

func (c Config) subjects(t *testing.T) []*subject {
	var out []*subject
	names := map[string]bool{}
	for _, one := range c.Cases {
		if names[one.Name] || strings.ContainsAny(one.Name, "/:") {
			t.Fatalf("the name of case %q is taken, or has a / or a : in it", one.Name)
		}
		names[one.Name] = true
		s, err := newSubject(c.Package, one)
		if err != nil {
			t.Fatalf("%s: %v", one.Name, err)
		}
		s.durable = c.Durable
		if c.Ends != nil {
			s.should = cmp.Or(c.Ends[one.Name], tasks.Finished)
		}
		out = append(out, s)
	}
	for name := range c.Ends {
		if !names[name] {
			t.Fatalf("there is no case %q, of which an end is known", name)
		}
	}
	return out
}

// repro runs the case of one seed, if it is of this package.
func (c Config) repro(t *testing.T, text string) {
	sd, err := parseSeed(text)
	if err != nil {
		t.Fatal(err)
	}
	if sd.pack != c.Package {
		return
	}
	subjects := c.subjects(t)
	i := slices.IndexFunc(subjects, func(s *subject) bool { return s.Name == sd.name })
	if i < 0 {
		t.Fatalf("there is no case %q", sd.name)
	}
	s := subjects[i]
	s.play(t, seed{pack: c.Package, name: sd.name, script: scriptClear}, false, false)
	out := s.play(t, sd, false, true)
	t.Log(report(sd, out))
	if out.broke != "" {
		t.Fail()
	}
}

func report(sd seed, out result) string {
	verdict := out.broke
	if verdict == "" {
		verdict = "every rule is kept"
	}
	var lines []string
	if out.trace != nil {
		lines = out.trace.lines
	}
	return fmt.Sprintf("%s\n%s\n%s\nagain: make repro SEED='%s'", sd, verdict, strings.Join(lines, "\n"), sd)
}
