package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable: every bug can be planted in the code as it is now, says what it would do, and is there once.
func TestTable(t *testing.T) {
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, b := range table() {
		if names[b.name] || b.why == "" || len(b.edits) == 0 || b.by.run == "" {
			t.Errorf("%q is there twice, or says not why, what or who", b.name)
		}
		names[b.name] = true
		before, err := os.ReadFile(filepath.Join(root, b.file))
		if err != nil {
			t.Fatal(err)
		}
		after, err := b.plantIn(root)
		if err != nil || string(after) == string(before) {
			t.Errorf("%s: %v", b.name, err)
		}
	}
	if len(names) < 60 {
		t.Errorf("there are only %d bugs", len(names))
	}
}

// TestTry plants in a module of two functions what can become of a bug.
func TestTry(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":        "module small\n\ngo 1.26\n",
		"add/add.go":    "package add\n\nfunc Add(a, b int) int { return a + b }\n\nfunc Unseen() int { return 1 }\n",
		"add/a_test.go": "package add\n\nimport \"testing\"\n\nfunc TestAdd(t *testing.T) {\n\tt.Log(\"begins\")\n\tif got := Add(1, 2); got != 3 {\n\t\tt.Errorf(\"got %d\", got)\n\t}\n}\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, old, planted, run, what string }{
		{"seen", "a + b", "a - b", "^TestAdd$", "caught"},
		{"unseen", "return 1", "return 2", "^TestAdd$", "passes"},
		{"no Go", "a + b", "a +", "^TestAdd$", "not compiled"},
		{"a panic", "return a + b", `panic("planted")`, "^TestAdd$", "panics"},
		{"changed code", "a * b", "a - b", "^TestAdd$", "not planted"},
		{"text that is there twice", "return", "panic", "^TestAdd$", "not planted"},
		{"no such test", "a + b", "a - b", "^TestNone$", "not planted"},
	} {
		b := bug{name: c.name, file: "add/add.go", edits: []edit{{c.old, c.planted}}, by: catcher{pkg: "add", run: c.run}}
		if v := try(t.Context(), root, b); v.what != c.what {
			t.Errorf("%s: %s (%s), want %s", c.name, v.what, v.detail, c.what)
		}
	}
	if v := try(t.Context(), root, bug{by: catcher{pkg: "add", run: "^TestAdd$"}}); v.what != "passes" {
		t.Errorf("without a bug: %s (%s)", v.what, v.detail)
	}
}

// TestJudge reads what catchers print.
func TestJudge(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, c := range []struct {
		name, output string
		by           catcher
		err          error
		what, detail string
	}{
		{"a rule", "=== NAME  TestProve/cases/x\n    enumerate.go:45: mock/x/a:stop@3\n        G3: both\n        1ms  point 1\n", proof, errRule, "caught", "G3: both [mock/x/a:stop@3]"},
		{"it was killed", "", proof, failed, "panics", ""},
	} {
		v := c.by.judge(c.output, c.err)
		if v.what != c.what || !strings.Contains(v.detail, c.detail) {
			t.Errorf("%s: %s (%s), want %s (%s)", c.name, v.what, v.detail, c.what, c.detail)
		}
	}
	for output, want := range map[string]string{
		"    golden.go:60: the points are not those of testdata\n":                                    "",
		"    a_test.go:1: [rapid] OK, passed 100 tests\n":                                             "",
		"    a_test.go:1: [rapid] failed after 3 tests: no\n":                                         "[rapid] failed after 3 tests: no",
		"    a_test.go:1: [rapid] draw x: 1\n    a_test.go:9: got 1, want 2\n    a_test.go:10: got 3": "got 1, want 2",
	} {
		if got := (catcher{}).violation(output); got != want {
			t.Errorf("of %q the violation is %q, want %q", output, got, want)
		}
	}
}
