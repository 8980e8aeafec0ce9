package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProblems: whatever is wrong is named with its file and line, all of it at once.
func TestProblems(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[storage]\n\ncolour = red\n", `:3: there is no key "colour" in section [storage]; it has roots, owner, trash_for`},
		{"[paint]\ncolour = red", ":2: there is no section [paint]; sections are access, agent, debug, metrics, plain, rpc, storage, tasks, tls"},
		{"log_level = info", ":1: log_level stands before the first section"},
		{"# a comment\n[storage]\ntrash_for = soon # or later", `:3: trash_for in section [storage]: "soon" is not a length of time`},
		{"[storage]\ntrash_for =", ":2: trash_for in section [storage]:"},
		{"[tasks]\ncopy_limit = 1\n; one more\ncopy_limit = 2", ":4: copy_limit in section [tasks] is given twice, first in line 2"},
		{"[tasks]\ncopy_limit = -1", ":2: copy_limit in section [tasks]"},
		{"[tasks]\nfence_for 3h\n", `:2: "fence_for 3h" is no section, key or comment`},
		{"[tasks]\nfence_for = \"\"\"3h\n", ":2: "},
		{"[tasks\nfence_for = 3h", ":1: "},
		{"[agent]\nlog_level = loud\n[access]\nadmin = nobody-of-this-host", ":2: log_level in section [agent]"},
		{"[agent]\nlog_level = loud\n[access]\nadmin = nobody-of-this-host", ":4: admin in section [access]"},
		{"[tls]\naddress = here", ":2: address in section [tls]"},
		{"[agent]\nsocket_mode = 7777", ":2: socket_mode in section [agent]"},
	} {
		file := write(t, c.text)
		_, err := Load(Flags{File: file})
		if err == nil || !strings.Contains(err.Error(), file+c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
	if _, err := Load(Flags{File: filepath.Join(t.TempDir(), "none.conf")}); err == nil {
		t.Error("a file that was named may be absent")
	}
	if _, err := Load(Flags{LogLevel: "loud"}); err == nil || !strings.Contains(err.Error(), "--log-level: ") {
		t.Errorf("a wrong flag is %v", err)
	}
}

// TestParts: the files of conf.d come after the file, in the order of their names, and flags after all.
func TestParts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.conf")
	put(t, file, "[tasks]\ncopy_limit = 1\nmerge_limit = 1\nfence_for = 1m\n[agent]\nlog_level = warn\n")
	put(t, filepath.Join(dir, "conf.d", "20-b.conf"), "[tasks]\nmerge_limit = 3\n")
	put(t, filepath.Join(dir, "conf.d", "10-a.conf"), "\n[tasks]\nmerge_limit = 2\nfence_for = 2m\n")
	put(t, filepath.Join(dir, "conf.d", "note.txt"), "no configuration")
	c, err := Load(Flags{File: file, StateDir: filepath.Join(dir, "state"), LogLevel: "debug"})
	if err != nil {
		t.Fatal(err)
	}
	origins := map[string]string{}
	for _, e := range c.Entries() {
		origins[e.Name()] = strings.ReplaceAll(e.Value+" "+e.Origin, dir+"/", "")
	}
	for name, want := range map[string]string{
		"tasks.copy_limit": "1 agent.conf:2", "tasks.merge_limit": "3 conf.d/20-b.conf:2", "tasks.fence_for": "2m conf.d/10-a.conf:4",
		"tasks.vm_limit": "8 default", "agent.log_level": "debug --log-level", "agent.socket": "state/api.sock --state-dir", "access.admin": " default",
	} {
		if origins[name] != want {
			t.Errorf("%s is %q, want %q", name, origins[name], want)
		}
	}
	if c.Limits["merge"] != 3 || c.Tuning.FenceFor != 2*time.Minute || c.Socket != filepath.Join(dir, "state", "api.sock") {
		t.Errorf("the configuration is %+v", c)
	}
	put(t, filepath.Join(dir, "conf.d", "30-c.conf"), "[tasks]\ncopy_limit = 9\n")
	if again, err := c.Reload(); err != nil || again.Limits["copy"] != 9 {
		t.Errorf("read again it is %+v, %v", again, err)
	}
}

// TestAddresses: without TLS a port alone is this host's own; what is no address is said.
func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"[plain]\naddress = :54322": "127.0.0.1:54322", "[plain]\naddress = 192.0.2.1:54322": "192.0.2.1:54322", "[plain]\naddress = [::]:0": "[::]:0",
		"[tls]\naddress = :54322": ":54322", "[tls]\naddress = none": "", "": "",
	} {
		c, err := Load(Flags{File: write(t, text)})
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
		if _, err := Load(Flags{File: write(t, "[plain]\naddress = "+text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
