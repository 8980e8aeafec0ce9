package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestScriptsHaveAll: each command stands in the test scripts as one that is carried out, as one that fails, and with --json; and each flag
// stands there too.
func TestScriptsHaveAll(t *testing.T) {
	files, err := filepath.Glob("../../test/testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scripts", err)
	}
	var lines []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "ctl ") || strings.Contains(line, program+" ") || strings.HasPrefix(line, "env ") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	has := func(of, like string) {
		t.Helper()
		if !slices.ContainsFunc(lines, regexp.MustCompile(like).MatchString) {
			t.Errorf("%s: no line of a script is like %s", of, like)
		}
	}
	parser, err := kong.New(&commands{}, kong.Name(program), kong.Vars{"socket": defaultSocket})
	if err != nil {
		t.Fatal(err)
	}
	begin := `^ctl % (\S*--\S+ +|\S*\$\S+ +)*`
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimPrefix(leaf.Path(), program+" ")
		words := regexp.QuoteMeta(path) + `( |$)`
		if path == "events" { // until it is interrupted
			has(path, program+` `+words)
		} else {
			has(path, strings.Replace(begin, "%", "0", 1)+words)
		}
		if path != "version" { // which cannot fail
			has(path, strings.Replace(begin, "%", "[1-5]", 1)+words)
		}
		has(path, `\bctl.*`+words+`.*--json|--json.*`+words)
		for _, f := range leaf.Flags {
			like := `--` + f.Name + `\b`
			if f.Short != 0 {
				like += `|-` + string(f.Short) + `\b`
			}
			has(path, words+`.*(`+like+`)`)
		}
	}
	for _, f := range parser.Model.Flags {
		has(program, `--`+f.Name+`\b`)
	}
}
