package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vdsm-agent/internal/manual"
)

var update = flag.Bool("update", false, "write the generated documents")

// TestShippedFile: the file that is shipped, and shown in docs/configuration.md, is what the table says. `make generate` writes both.
func TestShippedFile(t *testing.T) {
	const shipped, page = "../../packaging/vdsm-agent.conf", "../../docs/configuration.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), "```ini\n")
	_, after, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatalf("there is no place for the file in %s", page)
	}
	for file, want := range map[string]string{shipped: File(), page: before + "```ini\n" + File() + "```\n" + after} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || string(have) != want {
			t.Errorf("%s is not what the table of keys says; run `make generate` (%v)", file, err)
		}
	}
}

// TestManual: docs/man/vdsm-agent.conf.5 is what the table says. `make generate` writes it.
func TestManual(t *testing.T) {
	manual.Text{Name: "vdsm-agent.conf", Section: 5, Title: "configuration of vdsm-agentd", Parts: []manual.Part{
		{Head: "DESCRIPTION", Text: `**vdsm-agentd**(8) reads */etc/vdsm-agent/vdsm-agent.conf*, which may be absent, and then the files named *\*.conf* in
*/etc/vdsm-agent/conf.d*, in the order of their names: the last one that gives a key counts. A file has sections, whose names are in brackets, and in them lines
of the form key = value. Lines that begin with # or ; are comments. Lengths of time are a number with a unit, ms, s, m or h.

Unknown keys and bad values keep the daemon from starting. While it runs it reads the files again when one of them changes, and on SIGHUP; when anything is
wrong with them all stays as it was. **vdsm-agentd --check-config** says what is wrong, **vdsm-agentctl config show** what is in force.
`},
		{Head: "KEYS", Text: "Each is shown with its default.\n" + Manual()},
		{Head: "SEE ALSO", Text: "**vdsm-agentd**(8), **vdsm-agentctl**(1)"},
	}}.Keep(t, "../../docs/man", *update)
}

// TestDefaults: the shipped file changes nothing, every default and every example of it can be read, and each key has a doc.
func TestDefaults(t *testing.T) {
	absent, err := Load(Flags{File: write(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := Load(Flags{File: write(t, File())})
	if err != nil {
		t.Fatal(err)
	}
	written, err := Load(Flags{File: write(t, strings.ReplaceAll(File(), "\n;", "\n"))})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(absent.entries, shipped.entries) {
		t.Errorf("the shipped file says\n%+v, the defaults are\n%+v", shipped.entries, absent.entries)
	}
	for i, k := range keys {
		if k.doc == "" || !strings.HasSuffix(k.doc, ".") {
			t.Errorf("%s has no doc that is a sentence", k.name())
		}
		if got := written.entries[i]; got.Value != k.value || (absent.entries[i].Value == k.value) == k.unset {
			t.Errorf("%s: %+v is written, %+v is the default", k.name(), got, absent.entries[i])
		}
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.conf")
	put(t, path, text)
	return path
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
