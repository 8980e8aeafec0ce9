package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domaincheck"
)

// domainCommand looks at a storage domain itself.
type domainCommand struct {
	Check domainCheck `cmd:"" help:"Find everything in a domain's directory that is not as it should be; with --repair, mend what is safe."`
}

type domainCheck struct {
	Dir    string `arg:"" predictor:"file" help:"The domain's directory, whose name is the domain's id."`
	Deep   bool   `help:"Also let qemu-img check every qcow2 image that is not in use; takes time."`
	Owner  string `placeholder:"UID:GID" help:"The owner that everything must have, such as 36:36 (what dom_md/metadata has)."`
	Repair bool   `help:"Offer to repair what is safe, by tasks of the running daemon; everything that is removed goes to the trash."`
	Yes    bool   `help:"With --repair: do not ask."`
}

// Help is the end of the command's help text.
func (domainCheck) Help() string {
	return "It only reads, and needs no daemon; one that runs and has the domain is asked which tasks are at work, since what they are making is no problem. " +
		"docs/domain-check.md describes every class of findings. " +
		"A repair can be taken back with 'revert' until its task is cleared. " +
		"Exit code 0 when there is no error and no warning (any more), 5 when there is, 1 when the domain cannot be looked at."
}

func (d *domainCheck) Run(ctx context.Context, c *cli) error {
	if err := d.misused(c); err != nil {
		return err
	}
	o := domaincheck.Options{Path: d.Dir}
	var err error
	if o.Owner, err = owner(d.Owner); err != nil {
		return err
	}
	report, a, err := c.checkDomain(ctx, o, d.Deep)
	if err != nil {
		return err
	}
	if d.Repair {
		return c.repairDomain(ctx, report, a, repairing{yes: d.Yes, answers: bufio.NewScanner(c.stdin), again: func() (*domaincheck.Report, error) {
			report, _, err := c.checkDomain(ctx, o, d.Deep)
			return report, err
		}})
	}
	if err := c.show(checked{report, a.said(), nil}, func() error { return c.domainReport(report, a) }); err != nil {
		return err
	}
	return unsound(report)
}

func (d *domainCheck) misused(c *cli) error {
	switch {
	case d.Yes && !d.Repair:
		return misuse("--yes goes with --repair; see '%s domain check --help'", program)
	case d.Repair && c.JSON && !d.Yes:
		return misuse("--repair with --json cannot ask; give --yes too")
	}
	return localOnly(c)
}

// localOnly refuses what would read a directory here for a daemon elsewhere.
func localOnly(c *cli) error {
	if c.daemon.to.remote != "" {
		return misuse("this command reads a directory of this host, so it does not go with --connect; run it there")
	}
	return nil
}

// checked is the JSON of a check.
type checked struct {
	*domaincheck.Report
	Agent   string   `json:"agent"` // serving, other, none
	Repairs []repair `json:"repairs,omitempty"`
}

// unsound is the error of a domain with errors or warnings.
func unsound(r *domaincheck.Report) error {
	if errs, warnings := r.Count(domaincheck.Error), r.Count(domaincheck.Warning); errs+warnings > 0 {
		return fail(exitNoSuccess, "the domain has %s and %s", count(errs, "error", "errors"), count(warnings, "warning", "warnings"))
	}
	return nil
}

func owner(text string) (*domaincheck.Owner, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // none is asked for
	}
	u, g, _ := strings.Cut(text, ":")
	uid, err := strconv.Atoi(u)
	gid, gerr := strconv.Atoi(g)
	if err := errors.Join(err, gerr); err != nil || uid < 0 || gid < 0 {
		return nil, misuse("--owner: %q is not UID:GID, as in 36:36", text)
	}
	return &domaincheck.Owner{UID: uid, GID: gid}, nil
}

// checkDomain checks the domain in o.Path, with what a daemon that has it knows.
func (c *cli) checkDomain(ctx context.Context, o domaincheck.Options, deep bool) (*domaincheck.Report, *agentView, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, nil, err
	}
	o.Path = path
	if err := isDomain(path); err != nil {
		return nil, nil, err
	}
	root, err := domaincheck.Dir(path)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	a, err := c.agentOf(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	if a.serves {
		o.Busy, o.Known = a.busy, a.known
	}
	if deep {
		q, end, err := newChecker()
		if err != nil {
			return nil, nil, err
		}
		defer end()
		o.Starter = q
		o.Progress = func(done, total int) { c.note("qemu-img looks at image %d of %d", done+1, total) }
	}
	report, err := domaincheck.Check(ctx, root.FS(), o)
	return report, a, err
}

// isDomain refuses a directory that does not look like a domain's, and names those in it that do.
func isDomain(path string) error {
	if fi, err := os.Stat(filepath.Join(path, "dom_md")); err == nil && fi.IsDir() {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return misuse("%s cannot be looked at: %s", path, err)
	}
	for _, e := range entries {
		if fi, err := os.Stat(filepath.Join(path, e.Name(), "dom_md")); err == nil && fi.IsDir() && param.ValidUUID(e.Name()) {
			return misuse("%s is no storage domain, but there is one in it: %s", path, filepath.Join(path, e.Name()))
		}
	}
	return misuse("%s is no storage domain: it has no directory dom_md", path)
}
