package metrics_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const rules = "../packaging/prometheus/vdsm-agent.rules.yml"

// promtool is Prometheus' own; `make test` puts it there.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if path, err = exec.LookPath("../.tools/promtool"); err != nil {
			t.Fatalf("promtool is missing; scripts/promtool.sh .tools puts it there: %v", err)
		}
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

// TestRules: Prometheus understands the alerts, and each fires when it should and only then.
func TestRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", strings.Replace(rules, ".yml", "_test.yml", 1)}} {
		if out, err := promtool(t, args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", args[0], err, out)
		}
	}
}

// TestRulesNames: what the alerts look at is what the agent says; and each alert is in the guide.
func TestRulesNames(t *testing.T) {
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	have := ours(figures(t))
	names := regexp.MustCompile(`\bvdsm_agent_\w+`).FindAllString(string(text), -1)
	if len(names) < 10 {
		t.Fatalf("only %v are found", names)
	}
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(have) {
			t.Errorf("an alert looks at %s, which the agent does not say", name)
		}
	}
	for _, alert := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(guide), "`"+alert[1]+"`") {
			t.Errorf("docs/monitoring.md does not say what to do about %s", alert[1])
		}
	}
}
