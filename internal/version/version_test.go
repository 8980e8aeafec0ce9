package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestString(t *testing.T) {
	for _, c := range []struct {
		b    Build
		want string
	}{
		{Build{Version: "unknown"}, "unknown"},
		{Build{Version: "(devel)", Go: "go1.26"}, "(devel)"},
		{Build{"1.2.0", "1234567890abcdef", "2026-01-02T03:04:05Z", "go1.26"}, "1.2.0 (commit 1234567890ab of 2026-01-02T03:04:05Z)"},
	} {
		if got := c.b.String(); got != c.want {
			t.Errorf("%+v is %q, want %q", c.b, got, c.want)
		}
	}
}

// TestWritten: what scripts/version.sh says is in a program that is built with its flags.
func TestWritten(t *testing.T) {
	cmd := exec.Command("../../scripts/version.sh", "ldflags")
	cmd.Env = append(os.Environ(), "VERSION=7.8.9")
	flags, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "vdsm-agentctl")
	build := exec.Command("go", "build", "-ldflags", strings.TrimSpace(string(flags)), "-o", program, "vdsm-agent/cmd/vdsm-agentctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil || !regexp.MustCompile(`^vdsm-agentctl 7\.8\.9 \(commit [0-9a-f]{12} of \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)\n$`).Match(out) {
		t.Errorf("it says %q, %v", out, err)
	}
}
