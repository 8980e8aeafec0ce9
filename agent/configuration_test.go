package agent

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestConfigurationDocument: the file in docs/configuration.md has every key, once and with a comment, and no other; its values
// are the defaults; and what it shows of keys that have none can be read too.
func TestConfigurationDocument(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```ini\n")
	sample, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("there is no sample in docs/configuration.md")
	}
	c := Config{}
	known := slices.Sorted(maps.Keys(c.keys()))
	if got := slices.Sorted(slices.Values(keysOf(t, sample))); !slices.Equal(got, known) {
		t.Errorf("docs/configuration.md has the keys\n%v, the agent knows\n%v", got, known)
	}
	absent, err := Load(Flags{ConfigFile: write(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	written, err := Load(Flags{ConfigFile: write(t, sample)})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(written, absent) {
		t.Errorf("docs/configuration.md says\n%+v, the defaults are\n%+v", written, absent)
	}
	all, err := Load(Flags{ConfigFile: write(t, strings.ReplaceAll(sample, "\n;", "\n"))})
	if err != nil {
		t.Fatal(err)
	}
	if reflect.DeepEqual(all, absent) {
		t.Error("a key after ; has its default")
	}
}

// TestAddresses: without TLS a port alone is this host's own; what is no address is said.
func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"[plain]\naddress = :54322": "127.0.0.1:54322", "[plain]\naddress = 192.0.2.1:54322": "192.0.2.1:54322", "[plain]\naddress = [::]:0": "[::]:0",
		"[tls]\naddress = :54322": ":54322", "[tls]\naddress = none": "", "": "",
	} {
		c, err := Load(Flags{ConfigFile: write(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		got := c.Plain.Address
		if strings.HasPrefix(text, "[tls]") {
			got = c.TLS.Address
		}
		if got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"54322": "neither host:port", "host": "neither host:port", "host:http": `"http" is not a port, 0 to 65535`, "host:65536": "is not a port", "": "neither host:port",
	} {
		if _, err := Load(Flags{ConfigFile: write(t, "[plain]\naddress = "+text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

var (
	sectionLine = regexp.MustCompile(`^\[(\w+)\]$`)
	keyLine     = regexp.MustCompile(`^;?(\w+) = .`)
)

// keysOf lists the keys of a sample, as section.key. The lines before a key are its comment, or another key with the same.
func keysOf(t *testing.T, sample string) []string {
	t.Helper()
	var out []string
	section, before := "", ""
	for line := range strings.Lines(sample) {
		line = strings.TrimSuffix(line, "\n")
		if s := sectionLine.FindStringSubmatch(line); s != nil {
			section = s[1]
		} else if k := keyLine.FindStringSubmatch(line); k != nil {
			out = append(out, section+"."+k[1])
			if !strings.HasPrefix(before, "#") && !keyLine.MatchString(before) {
				t.Errorf("%s.%s has no comment", section, k[1])
			}
		} else if line != "" && !strings.HasPrefix(line, "# ") {
			t.Errorf("what is %q?", line)
		}
		before = line
	}
	return out
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
