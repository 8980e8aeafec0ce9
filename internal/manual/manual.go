// Package manual makes manual pages of the grammar of a program, so that they say what its --help says. It holds no words about any
// program. Only the tests that write and compare docs/man import it.
package manual

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"github.com/alecthomas/kong"
	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// Page is a manual page.
type Page struct {
	Section int    // of the manual
	Title   string // one line that says what the program is
	App     *kong.Application
	After   []Part // of the page, after the options and the commands
}

// Part is a part of a page with its own heading.
type Part struct{ Head, Text string }

//go:embed page.md
var layout string

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"text": text, "upper": strings.ToUpper, "flag": flag, "usage": usage, "shown": shown, "commands": commands,
}).Parse(layout))

// Roff is the page as roff, which man(1) reads. It has no date, so that it is the same whenever it is made.
func (p Page) Roff() ([]byte, error) {
	var page strings.Builder
	if err := pages.Execute(&page, p); err != nil {
		return nil, err
	}
	return md2man.Render([]byte(page.String())), nil
}

// special are the characters that mean something in Markdown.
var special = regexp.MustCompile("([\\\\`*_{}\\[\\]<>#|~])")

// text is plain text as Markdown.
func text(s string) string { return special.ReplaceAllString(strings.TrimSpace(s), `\$1`) }

// shown are the flags that a reader sees.
func shown(flags []*kong.Flag) []*kong.Flag {
	var out []*kong.Flag
	for _, f := range flags {
		if !f.Hidden {
			out = append(out, f)
		}
	}
	return out
}

// flag is how a flag is written.
func flag(f *kong.Flag) string {
	words := "**--" + f.Name + "**"
	if f.Short != 0 {
		words = fmt.Sprintf("**-%c**, %s", f.Short, words)
	}
	switch {
	case !f.IsBool():
		return words + "=*" + text(f.FormatPlaceHolder()) + "*"
	case f.PlaceHolder != "": // it may have a value
		return words + `\[=*` + text(f.PlaceHolder) + `*\]`
	}
	return words
}

// commands are the commands below a node that do something, each once, in their order.
func commands(n *kong.Node) []*kong.Node {
	var out []*kong.Node
	for _, child := range n.Children {
		switch {
		case child.Hidden:
		case len(child.Children) > 0:
			out = append(out, commands(child)...)
		default:
			out = append(out, child)
		}
	}
	return out
}

// usage is how a command is called.
func usage(n *kong.Node) string {
	words := []string{"**" + text(n.FullPath()) + "**"}
	for _, p := range n.Positional {
		word := "*" + text(strings.ToUpper(p.Name)) + "*"
		if p.IsCumulative() {
			word += " ..."
		}
		if !p.Required {
			word = `\[` + word + `\]`
		}
		words = append(words, word)
	}
	for _, f := range shown(n.Flags) {
		words = append(words, `\[`+flag(f)+`\]`)
	}
	return strings.Join(words, " ")
}

// Keep compares the page with the one in a folder, which it writes anew if update is set, and has mandoc look for mistakes in it.
func (p Page) Keep(t *testing.T, folder string, update bool) {
	t.Helper()
	made, err := p.Roff()
	if err != nil {
		t.Fatal(err)
	}
	keep(t, filepath.Join(folder, fmt.Sprintf("%s.%d", p.App.Name, p.Section)), made, update)
}

// Text is a manual page that is about no program.
type Text struct {
	Name    string
	Section int
	Title   string // one line that says what it is
	Parts   []Part
}

// Keep is Page.Keep.
func (x Text) Keep(t *testing.T, folder string, update bool) {
	t.Helper()
	var page strings.Builder
	fmt.Fprintf(&page, "%s %d \"\" \"vdsm-agent\" \"vdsm-agent manual\"\n====\n\n# NAME\n\n%s - %s\n", strings.ToUpper(x.Name), x.Section, x.Name, x.Title)
	for _, part := range x.Parts {
		fmt.Fprintf(&page, "\n# %s\n\n%s\n", part.Head, part.Text)
	}
	keep(t, filepath.Join(folder, fmt.Sprintf("%s.%d", x.Name, x.Section)), md2man.Render([]byte(page.String())), update)
}

func keep(t *testing.T, file string, made []byte, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(file, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(made) {
		t.Errorf("%s is not what the program says; run `make generate`", file)
	}
	found, _ := exec.Command("mandoc", "-Tlint", "-Wwarning", file).Output() // its exit code says what it prints
	for line := range strings.Lines(string(found)) {
		if !strings.Contains(line, "missing date") {
			t.Error(line)
		}
	}
}
