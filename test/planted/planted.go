// Planted shows that the tests would see a defect: each entry of its table is one that would break a promise of the cancel
// contract on a real host (a stop that is answered before it is recorded, an undo in the wrong order, a lock that is given back
// too early), and each must be caught by the proof or by a test.
//
// The project's code knows nothing of it. For each bug the tool changes a copy of one file, builds the catcher's test with
// `go test -c -overlay`, and runs it: it must fail with a rule of the oracle or a failed assertion, not with a panic or a timeout.
// Before that every catcher runs without a bug, and must pass.
//
// The text to replace must occur exactly once. Where the code was changed so that it does not, the bug must be planted anew, in
// the same sense; TestTable says so at once. A bug that is not caught means that the tests have a hole: close it there, and
// never take the bug away because it is hard.
//
//	make planted                                  # all
//	go run ./test/planted -run 'fence'            # those whose names match
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"time"
)

// bug is a defect that could be made.
type bug struct {
	name  string
	why   string // what would happen on a real host
	file  string // relative to the root of the project
	edits []edit
	by    catcher
}

// edit puts planted in the place of old, which occurs once in the file.
type edit struct{ old, planted string }

// catcher is a test that sees a bug.
type catcher struct {
	pkg    string   // folder of the package
	run    string   // pattern of -test.run
	args   []string // more for the test
	seed   string   // the one case of the proof that is run; "" = a sample, which does not always meet what is rare
	points bool     // the golden list of points shows it: what is wrong is what is done, and not what comes of it
}

func (c catcher) byItsPoints() catcher    { c.points = true; return c }
func (c catcher) seeded(s string) catcher { c.seed = s; return c }
func (c catcher) test(n string) catcher   { c.run = "^(" + n + ")$"; return c }

// table is all bugs, in the order in which they are planted.
func table() []bug {
	return slices.Concat(engineBugs(), runBugs(), requestBugs(), serviceBugs(), schedulerBugs(), startBugs(), storeBugs(), verbBugs(), chainBugs(), jobBugs(), mergeBugs(), vmBugs(), workerBugs(), wireBugs())
}

func main() {
	pattern := flag.String("run", "", "only the bugs whose names match this regular expression")
	verbose := flag.Bool("v", false, "print what the catchers say")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := plant(ctx, *pattern, *verbose)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		os.Exit(1)
	}
}

// workers is how many bugs are planted at a time: while one is built another is run.
const workers = 2

func plant(ctx context.Context, pattern string, verbose bool) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	bugs := slices.DeleteFunc(table(), func(b bug) bool { return !re.MatchString(b.name) })
	if len(bugs) == 0 {
		return fmt.Errorf("no bug has a name that matches %q", pattern)
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	begin := time.Now()
	healthy := healthyCatchers(bugs)
	failed := 0
	var mu sync.Mutex // guards failed and what is printed
	each(append(healthy, bugs...), func(b bug) {
		start := time.Now()
		v := try(ctx, root, b)
		mu.Lock()
		defer mu.Unlock()
		want := "caught"
		if len(b.edits) == 0 {
			want = "passes"
		}
		if v.what != want {
			failed++
		}
		fmt.Printf("%-14s %5.1f s  %s\n%23s by %s: %s\n", v.what, time.Since(start).Seconds(), b.name, "", b.by, v.detail)
		if verbose {
			fmt.Println(v.output)
		}
	})
	fmt.Printf("%d bugs planted, %d of %d runs not as they should be, %.0f s\n", len(bugs), failed, len(bugs)+len(healthy), time.Since(begin).Seconds())
	if failed > 0 {
		return fmt.Errorf("a bug that was planted is not caught, or a catcher is not well; see test/planted/planted.go")
	}
	return ctx.Err()
}

// healthyCatchers are entries without a bug, one for each catcher.
func healthyCatchers(bugs []bug) []bug {
	var out []bug
	for _, b := range bugs {
		b.by.points = false
		if !slices.ContainsFunc(out, func(o bug) bool { return o.by.String() == b.by.String() }) {
			out = append(out, bug{name: "without a bug", by: b.by})
		}
	}
	return out
}

// each calls f for every bug, a few at a time.
func each(bugs []bug, f func(bug)) {
	var all sync.WaitGroup
	queue := make(chan bug)
	for range workers {
		all.Go(func() {
			for b := range queue {
				f(b)
			}
		})
	}
	for _, b := range bugs {
		queue <- b
	}
	close(queue)
	all.Wait()
}
