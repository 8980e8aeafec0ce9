package hostops

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/version"

	"golang.org/x/tools/txtar"
)

var rewrite = flag.Bool("rewrite", false, "write what is answered into the files; look at the difference before you keep it")

// answer calls a verb of a host.
func answer(t *testing.T, h *Host, verb, params string) string {
	t.Helper()
	for _, c := range h.Calls() {
		if c.Name != verb {
			continue
		}
		v, err := c.Answer(t.Context(), json.RawMessage(params))
		if err != nil {
			return "error " + err.Error() + "\n"
		}
		b, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	t.Fatal("there is no", verb)
	return ""
}

// TestHosts: each file in testdata is a host: parts of its /proc, /sys and /etc, and behind them what it answers.
func TestHosts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no hosts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			host, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			want := map[string]string{}
			for _, f := range host.Files {
				if strings.HasPrefix(f.Name, "Host.") {
					want[f.Name] = string(f.Data)
					continue
				}
				path := filepath.Join(root, f.Name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := map[string]string{}
			synctest.Test(t, func(t *testing.T) {
				h := New(Options{Root: root, Domains: func(context.Context) map[string]Domain {
					return map[string]Domain{
						"good": {Version: 5, Delay: 1500 * time.Microsecond, Claimed: true},
						"bad":  {Code: int(code.DomainAccess), Delay: 2 * time.Second},
					}
				}})
				got["Host.getCapabilities"] = answer(t, h, "Host.getCapabilities", "{}")
				got["Host.getStats"] = answer(t, h, "Host.getStats", "{}")
			})
			for verb, text := range got { // what differs each time
				got[verb] = strings.NewReplacer(root, "ROOT", version.Get().Version, "VERSION").Replace(text)
			}
			for i, f := range host.Files {
				if _, is := want[f.Name]; !is {
					continue
				}
				if *rewrite {
					host.Files[i].Data = []byte(got[f.Name])
				} else if got[f.Name] != want[f.Name] {
					t.Errorf("%s answers\n%s\nwant\n%s", f.Name, got[f.Name], want[f.Name])
				}
			}
			if *rewrite {
				if err := os.WriteFile(file, txtar.Format(host), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestThisHost: the real one answers, and agrees with itself.
func TestThisHost(t *testing.T) {
	h := New(Options{Domains: func(context.Context) map[string]Domain { return nil }})
	var c Capabilities
	if err := json.Unmarshal([]byte(answer(t, h, "Host.getCapabilities", "")), &c); err != nil {
		t.Fatal(err)
	}
	if c.MemSize == "0" || c.CPUThreads == "0" || c.CPUCores == "0" || c.OperatingSystem.PrettyName == "" || c.Packages["kernel"].Version == "" {
		t.Errorf("it says %+v", c)
	}
	var s Stats
	if err := json.Unmarshal([]byte(answer(t, h, "Host.getStats", "")), &s); err != nil {
		t.Fatal(err)
	}
	if s.BootTime == "0" || s.MemFree == 0 || len(s.Network) == 0 || s.StorageDomains == nil {
		t.Errorf("it says %+v", s)
	}
}

// TestSince: what the processors did between two looks, and nothing when there was no time between them.
func TestSince(t *testing.T) {
	var s sample
	now := s.last
	now.User, now.System, now.Idle, now.Iowait = 10, 20, 60, 10
	for i, want := range []string{"10.00 20.00 70.00", "0.00 0.00 100.00"} {
		u, y, idle := s.since(now)
		if got := u + " " + y + " " + idle; got != want {
			t.Errorf("look %d: %s, want %s", i, got, want)
		}
	}
}

func TestEcho(t *testing.T) {
	h := New(Options{})
	for params, want := range map[string]string{
		`{"message":"é","more":1}`: "\"é\"\n", `{}`: "error parameter \"message\" is missing\n", `{"message":7}`: "error parameter \"message\": 7 is not a string\n",
	} {
		if got := answer(t, h, "Host.echo", params); got != want {
			t.Errorf("%s: %s, want %s", params, got, want)
		}
	}
}
