package prove

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file of the points")

// golden is the file with the points of every case and script. A point that is lost, or new, fails the test until somebody has
// read the difference and written the file anew.
type golden struct {
	path  string
	mu    sync.Mutex
	cases map[string][]string
}

func (g *golden) add(name string, points []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cases == nil {
		g.cases = map[string][]string{}
	}
	g.cases[name] = points
}

func (g *golden) check(t *testing.T) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(g.cases)) {
		fmt.Fprintf(&b, "== %s: %d points\n%s\n\n", name, len(g.cases[name]), strings.Join(g.cases[name], "\n"))
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(g.path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(g.path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatalf("%v; write it with: go test -run '%s' -update", err, t.Name())
	}
	if string(want) == b.String() {
		return
	}
	wants, gots := strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")
	for i := range max(len(wants), len(gots)) {
		w, g := line(wants, i), line(gots, i)
		if w != g {
			t.Errorf("the points are not those of %s, line %d:\nwant %s\ngot  %s\nif that is meant, write it anew: go test -run '%s' -update", "testdata", i+1, w, g, t.Name())
			return
		}
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}
