package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// most is what `systemd-analyze security` may say of the service: 0 is safe, 10 is not.
const most = "4.0"

// analyze runs systemd-analyze and returns what it prints.
func analyze(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, complaints strings.Builder
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// TestSecurity: the service may do no more than storage work needs.
func TestSecurity(t *testing.T) {
	threshold := strings.ReplaceAll(most, ".", "")
	out, _, err := analyze(t, "security", "--no-pager", "--offline=true", "--threshold="+threshold, "units/vdsm-agentd.service")
	if err != nil {
		t.Errorf("the service is exposed more than %s: %v\n%s", most, err, out)
	}
	if _, _, err := analyze(t, "security", "--no-pager", "--offline=true", "--threshold=10", "units/vdsm-agentd.service"); err == nil {
		t.Error("systemd-analyze takes any service for safe")
	}
}

// installed lays the units out as the packages do, beside the targets of this host.
func installed(t *testing.T) (root string, names []string) {
	t.Helper()
	root = t.TempDir()
	dir := filepath.Join(root, "usr/lib/systemd/system")
	put := func(pattern string) (names []string) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // a target that points nowhere
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), text, 0o644); err != nil {
				t.Fatal(err)
			}
			names = append(names, filepath.Base(f))
		}
		return names
	}
	for _, d := range []string{dir, filepath.Join(root, "usr/bin"), filepath.Join(root, "bin")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"usr/bin/vdsm-agentd", "bin/kill"} {
		if err := os.WriteFile(filepath.Join(root, program), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put("/lib/systemd/system/*.target")
	return root, append(put("units/*.socket"), append(put("units/*.service"), put("units/*.slice")...)...)
}

// TestUnitsAreUnderstood: systemd has nothing to say against any of them. Its exit code does not count unknown keys.
func TestUnitsAreUnderstood(t *testing.T) {
	root, names := installed(t)
	if len(names) != 4 {
		t.Errorf("the units are %v", names)
	}
	verify := append([]string{"verify", "--man=no", "--root=" + root}, names...)
	if _, complaints, err := analyze(t, verify...); err != nil || complaints != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, complaints)
	}
	socket := filepath.Join(root, "usr/lib/systemd/system/vdsm-agentd.socket")
	text, err := os.ReadFile(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, append(text, "[Socket]\nColour=red\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, complaints, _ := analyze(t, verify...); !strings.Contains(complaints, "Colour") {
		t.Errorf("an unknown key is not found: %s", complaints)
	}
}

// TestExceptionsHaveReasons: each directive that lets the service do something has a comment in the lines before it.
func TestExceptionsHaveReasons(t *testing.T) {
	text, err := os.ReadFile("units/vdsm-agentd.service")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	exception := regexp.MustCompile(`^(CapabilityBoundingSet|ProtectSystem=full|ProtectHome=read-only|DevicePolicy|RestrictAddressFamilies|Delegate)`)
	found := 0
	for i, line := range lines {
		if !exception.MatchString(line) {
			continue
		}
		found++
		before := i - 1
		for before >= 0 && lines[before] != "" && !strings.HasPrefix(lines[before], "#") {
			before--
		}
		if !strings.HasPrefix(lines[before], "#") {
			t.Errorf("%s has no reason", line)
		}
	}
	if found != 6 {
		t.Errorf("%d exceptions are found, want 6", found)
	}
}

// TestUsersAndDirectories: what systemd makes of the files for sysusers and tmpfiles.
func TestUsersAndDirectories(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"systemd-sysusers", "--root=" + root, "units/vdsm-agent.sysusers.conf"},
		{"systemd-tmpfiles", "--root=" + root, "--create", "units/vdsm-agent.tmpfiles.conf"},
	} {
		for i, arg := range args {
			if strings.HasPrefix(arg, "units/") { // relative paths are looked for in the root
				path, err := filepath.Abs(arg)
				if err != nil {
					t.Fatal(err)
				}
				args[i] = path
			}
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if groups, err := os.ReadFile(filepath.Join(root, "etc/group")); err != nil || !strings.Contains(string(groups), "vdsm-agent:x:") {
		t.Errorf("the group is not made: %v\n%s", err, groups)
	}
	if dir, err := os.Stat(filepath.Join(root, "run/vdsm-agent")); err != nil || dir.Mode() != os.ModeDir|0o755 {
		t.Errorf("the directory is %v, %v", dir, err)
	}
}
