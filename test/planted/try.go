package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// verdict is what became of one bug.
type verdict struct {
	what   string // caught, passes (nobody saw it), not planted, not compiled, panics
	detail string // the first rule that was broken, and where; or what went wrong
	output string
}

// limit is the time that a catcher has. One that is not through by then has not caught anything.
const limit = 5 * time.Minute

func (c catcher) String() string {
	s := "./" + c.pkg + " " + c.run
	if c.seed != "" {
		s += " PROVE_SEED='" + c.seed + "'"
	}
	return s
}

// findRoot looks for go.mod from here upwards.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("there is no go.mod here or above; start it in the project")
		}
	}
}

// try plants one bug in the module at root, builds its catcher and runs it. A bug without edits is none: the catcher must pass.
func try(ctx context.Context, root string, b bug) verdict {
	dir, err := os.MkdirTemp("", "planted-")
	if err != nil {
		return verdict{what: "not planted", detail: err.Error()}
	}
	defer os.RemoveAll(dir)
	overlay, err := b.write(root, dir)
	if err != nil {
		return verdict{what: "not planted", detail: err.Error()}
	}
	test := filepath.Join(dir, "catcher.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", test, "./"+b.by.pkg)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return verdict{what: "not compiled", detail: strings.TrimSpace(string(out))}
	}
	return b.by.judge(runCatcher(ctx, root, dir, test, b.by))
}

// write makes the copy of the file, and the overlay that puts it in the place of the file.
func (b bug) write(root, dir string) (overlay string, err error) {
	replace := map[string]string{}
	if len(b.edits) > 0 {
		text, err := b.plantIn(root)
		if err != nil {
			return "", err
		}
		copied := filepath.Join(dir, filepath.Base(b.file))
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, b.file)] = copied
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, raw, 0o600)
}

// plantIn returns the text of the file with the bug in it.
func (b bug) plantIn(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, b.file))
	if err != nil {
		return nil, err
	}
	for _, e := range b.edits {
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%s was changed: the text is there %d times, so the bug must be planted anew: %q", b.file, n, e.old)
		}
		text = bytes.Replace(text, []byte(e.old), []byte(e.planted), 1)
	}
	return text, nil
}

// runCatcher returns what the catcher says, up to the first rule of the oracle that is broken: what comes after that says no more, and
// a bug may well keep the rest from ever ending.
func runCatcher(ctx context.Context, root, dir, test string, c catcher) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Cases run beside each other, since a bug may keep one from ever ending. With -test.v what is found is printed at once, but so
	// is what tests only tell: of the oracle, the two are told apart.
	args := append([]string{fmt.Sprintf("-test.v=%v", strings.HasPrefix(c.run, "^TestProve")), "-test.run", c.run, "-test.failfast", "-test.parallel", "8"}, c.args...)
	cmd := exec.CommandContext(ctx, test, args...)
	cmd.Dir = filepath.Join(root, c.pkg)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "PROVE_SEED="+c.seed, "PROVE=10000") // a larger sample than that of make test
	out := &untilRule{end: cancel}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if out.broken {
		return out.out.String(), errRule
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("the catcher was ended: %w", ctx.Err())
	}
	return out.out.String(), err
}

// errRule: the oracle has reported a broken rule.
var errRule = errors.New("a rule is broken")

// untilRule keeps what is written, and calls end at the first report of the oracle.
type untilRule struct {
	out    bytes.Buffer // not embedded: its ReadFrom would pass Write by
	end    func()
	broken bool
}

func (u *untilRule) Write(p []byte) (int, error) {
	n, err := u.out.Write(p)
	if !u.broken && report.Match(u.out.Bytes()) {
		u.broken = true
		u.end()
	}
	return n, err
}

var (
	panicked  = regexp.MustCompile(`(?m)^(panic|fatal error): .*`)
	assertion = regexp.MustCompile(`(?m)^\s+\S+_?\w*\.go:\d+: (.*)`)
	ofRapid   = regexp.MustCompile(`^\[rapid\] (OK|panic|draw|fail file)`)
	report    = regexp.MustCompile(`(?m)^\s+enumerate\.go:\d+: (.*)\n\s+(\S.*)\n`) // of a case: its seed, and the rule
	points    = "the points are not those of"
)

// judge says what the output of the catcher means. That the golden list of points has changed is no catch: it shows that
// something is different, not that it is wrong.
func (c catcher) judge(output string, err error) verdict {
	v := verdict{output: output}
	var exit *exec.ExitError
	switch p := panicked.FindString(output); {
	case errors.Is(err, errRule):
		m := report.FindStringSubmatch(output)
		v.what, v.detail = "caught", fmt.Sprintf("%s [%s]", m[2], m[1])
	case err == nil && strings.Contains(output, "no tests to run"):
		v.what, v.detail = "not planted", "the catcher's pattern matches no test"
	case err == nil:
		v.what = "passes"
	case !errors.As(err, &exit):
		v.what, v.detail = "panics", err.Error()
	case p != "":
		v.what, v.detail = "panics", p
	default:
		if v.detail = c.violation(output); v.detail == "" {
			v.what, v.detail = "panics", "it fails, and says no reason: "+err.Error()
			break
		}
		v.what = "caught"
	}
	return v
}

// violation is the first assertion that failed.
func (c catcher) violation(output string) string {
	for _, m := range assertion.FindAllStringSubmatch(output, -1) {
		if m[1] != "" && (c.points || !strings.Contains(m[1], points)) && !ofRapid.MatchString(m[1]) {
			return m[1]
		}
	}
	return ""
}
