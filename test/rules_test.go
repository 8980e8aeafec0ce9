package test

import (
	"errors"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// allowed is the table of ARCHITECTURE.md: what each package of the project may import of the project. An entry that ends with
// "/..." stands for a package and all below it. Tests may import more.
var allowed = map[string][]string{
	"cmd/vdsm-agentd":                     {"agent", "agent/config", "storageops/copy", "systemd", "internal/version"},
	"cmd/vdsm-agentctl":                   {"agent/config", "doctor", "storageops/domaincheck", "storageops/vdsmtasks", "rpc/certs", "rpc/client", "rpc/wire", "tasks", "tasks/store", "internal/...", "cmd/vdsm-agentctl/internal/..."},
	"cmd/vdsm-agentctl/internal/show":     {"internal/..."},
	"cmd/vdsm-agentctl/internal/verbargs": {"internal/..."},
	"agent/config":                        {"rpc/certs", "rpc/stomp", "storageops/domain", "tasks", "internal/access"},
	"agent":                               {"agent/config", "rpc/...", "hostops", "metrics", "storageops/...", "systemd", "tasks/...", "vmops/...", "internal/..."},
	"rpc":                                 {"tasks", "tasks/store", "rpc/openrpc", "rpc/stream", "rpc/wire", "internal/..."},
	"rpc/openrpc":                         {"internal/..."},
	"rpc/stream":                          {"internal/..."},
	"rpc/stomp":                           {"rpc/stream", "internal/..."},
	"rpc/certs":                           {},
	"rpc/certs/certstest":                 {"rpc/certs"},
	"rpc/remote":                          {"rpc", "rpc/certs", "rpc/stomp", "rpc/stream", "internal/..."},
	"rpc/client":                          {"rpc/certs", "rpc/stream", "rpc/stomp", "rpc/wire", "internal/..."},
	"rpc/wire":                            {"tasks", "tasks/store", "internal/..."},
	"doctor":                              {"agent/config", "storageops/domain", "tasks/store", "vmops/virt", "internal/..."},
	"hostops":                             {"tasks", "internal/..."},
	"metrics":                             {"tasks", "internal/..."},
	"vmops":                               {"rpc/client", "storageops", "storageops/domain", "tasks", "vmops/virt", "internal/..."},
	"vmops/virt":                          {"internal/code"},
	"storageops":                          {"tasks", "storageops/...", "internal/..."},
	"storageops/domain":                   {"internal/code", "storageops/lease"},
	"storageops/lease":                    {"internal/code"},
	"storageops/sanlock":                  {"storageops/domain", "storageops/qemuimg", "internal/code", "internal/proc"},
	"storageops/domain/hangfs":            {},
	"storageops/domaincheck":              {"storageops/domain", "storageops/qemuimg", "storageops/vdsmtasks", "internal/..."},
	"storageops/vdsmtasks":                {"internal/param"},
	"storageops/qemuimg":                  {"storageops/nbd", "internal/code", "internal/proc"},
	"storageops/qemuimg/qemuimgtest":      {"storageops/qemuimg", "internal/..."},
	"storageops/nbd":                      {},
	"storageops/copy":                     {"storageops/nbd", "storageops/qemuimg", "internal/code", "internal/proc"},
	"systemd":                             {},
	"test/benchkit":                       {"rpc/client"},
	"test/chainbench":                     {"rpc/wire", "test/benchkit"},
	"test/daemonbench":                    {"rpc/wire", "test/benchkit"},
	"test/domainbench":                    {"test/benchkit"},
	"test/enginebench":                    {"tasks", "tasks/store", "tasks/tasktest/mock", "rpc/client", "test/benchkit"},
	"test/manybench":                      {"tasks/store", "rpc/wire", "test/benchkit"},
	"test/planted":                        {},
	"test/rpcbench":                       {"rpc/stomp", "rpc/certs/...", "test/benchkit"},
	"storageops/copy/copybench":           {"storageops/...", "internal/..."},
	"tasks":                               {"tasks/store", "internal/access", "internal/code", "internal/param"},
	"tasks/store":                         {"internal/code"},
	"tasks/tasktest":                      {"tasks", "tasks/store", "internal/..."},
	"tasks/tasktest/mock":                 {"tasks", "internal/..."},
	"tasks/tasktest/prove":                {"tasks", "tasks/store", "tasks/tasktest", "internal/..."},
	"internal/access":                     {},
	"internal/code":                       {},
	"internal/manual":                     {},
	"internal/param":                      {"internal/code"},
	"internal/proc":                       {"internal/code"},
	"internal/version":                    {},
}

// packages are the folders of the project with Go files that are not tests.
func packages(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{if .GoFiles}}{{.ImportPath}}{{end}}", "vdsm-agent/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, path := range strings.Fields(string(out)) {
		list = append(list, strings.TrimPrefix(path, "vdsm-agent/"))
	}
	return list
}

// TestImports keeps the directions of dependencies.
func TestImports(t *testing.T) {
	for _, pkg := range packages(t) {
		rule, known := allowed[pkg]
		if !known {
			t.Errorf("package %s is not in the table: add it here and in ARCHITECTURE.md", pkg)
			continue
		}
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "vdsm-agent/"+pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(string(out)) {
			name, ours := strings.CutPrefix(path, "vdsm-agent/")
			if ours && !slices.ContainsFunc(rule, func(r string) bool { return matches(r, name) }) {
				t.Errorf("%s may not import %s", pkg, name)
			}
		}
	}
}

func matches(rule, name string) bool {
	if root, ok := strings.CutSuffix(rule, "/..."); ok {
		return name == root || strings.HasPrefix(name, root+"/")
	}
	return rule == name
}

// TestPackageComments: every package says what it is.
func TestPackageComments(t *testing.T) {
	for _, pkg := range packages(t) {
		files, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		documented := 0
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && len(f.Doc.Text()) > 60 && !strings.HasSuffix(file, "_test.go") {
				documented++
			}
		}
		if documented != 1 {
			t.Errorf("package %s has %d package comments of more than a line, want 1", pkg, documented)
		}
	}
}

// foreign are words that have no place in the project: paths of one machine, and what it was written with.
var foreign = regexp.MustCompile(`(^|[^\w./-])/(work|root|home)/[a-z]|\bclaude\b|\banthropic\b|\bcopilot\b`)

// TestNoForeignWords looks through every file that is committed, or could be.
func TestNoForeignWords(t *testing.T) {
	out, err := exec.Command("git", "-C", "..", "ls-files", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) < 50 {
		t.Fatalf("only %d files are found", len(files))
	}
	for _, file := range files {
		if file == "test/rules_test.go" || file == "go.sum" {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			continue // deleted in the working tree
		}
		for n, line := range strings.Split(string(text), "\n") {
			if foreign.MatchString(line) {
				t.Errorf("%s:%d: %s", file, n+1, line)
			}
		}
	}
}

// TestNothingIsSkipped: no test is left out. And tests wait for something that happens: only in a synctest bubble, where time is
// virtual, may one sleep.
func TestNothingIsSkipped(t *testing.T) {
	if out := grep(t, `\bt\.Skip(f|Now)?\(`); len(out) > 0 {
		t.Errorf("skipped tests: %v", out)
	}
	for _, file := range grep(t, `\btime\.Sleep\(`) {
		if text, err := os.ReadFile(filepath.Join("..", file)); err != nil || !strings.Contains(string(text), `"testing/synctest"`) {
			t.Errorf("%s sleeps outside of a bubble (%v)", file, err)
		}
	}
}

// grep lists the test files with a line that matches.
func grep(t *testing.T, pattern string) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", "..", "grep", "-lE", pattern, "--", "*_test.go", ":!test/rules_test.go").Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: nothing is found
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
