package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/storageops/domaincheck"
	"vdsm-agent/storageops/vdsmtasks"
)

// importCommand shows what VDSM has left of its tasks, and cleans up after them.
type importCommand struct {
	Dir    string   `arg:"" predictor:"file" help:"The directory of tasks: MASTER-DOMAIN/master/tasks, or a copy of it."`
	Domain []string `predictor:"file" placeholder:"DIR" help:"The directory of a domain that tasks worked on; may be given several times. The one that the directory of tasks is in need not be given."`
	Repair bool     `help:"Offer to clean up what is safe, by tasks of the running daemon; everything that is removed goes to the trash."`
	Yes    bool     `help:"With --repair: do not ask."`
}

// Help is the end of the command's help text.
func (importCommand) Help() string {
	return "It only reads, and needs no daemon. The tasks themselves are not carried on: what was never completed is moved to the trash, and so are the tasks on the domain. " +
		"VDSM must not be running with these domains. docs/domain-check.md says more. " +
		"A repair can be taken back with 'revert' until its task is cleared. " +
		"Exit code 0 when there is nothing to clean up (any more), 5 when there is, 1 when the tasks or a domain cannot be looked at."
}

// imported is the JSON of the command.
type imported struct {
	Path     string            `json:"path"`
	Tasks    []importedTask    `json:"tasks"`
	SetAside []vdsmtasks.Aside `json:"setAside"`
	Domains  []checked         `json:"domains"` // with the findings that the tasks have to do with
}

type importedTask struct {
	vdsmtasks.Task
	Meaning string `json:"meaning"`
	Left    []left `json:"left"` // what is there of the volumes and images that it names
}

type left struct {
	Domain string `json:"domain"`
	domaincheck.Trace
}

// leftIn is a domain that tasks may have left something in.
type leftIn struct {
	options domaincheck.Options
	outside string // the directory of tasks, where the domain itself does not have it
	report  *domaincheck.Report
	agent   *agentView
	done    []repair
}

func (i *importCommand) Run(ctx context.Context, c *cli) error {
	if err := i.misused(c); err != nil {
		return err
	}
	dir, found, err := readVDSMTasks(i.Dir)
	if err != nil {
		return err
	}
	domains := i.domains(dir, found)
	if i.Repair && len(domains) == 0 {
		return misuse("%s is in no storage domain, so give --domain with --repair", dir)
	}
	for _, d := range domains {
		if d.report, d.agent, err = c.checkDomain(ctx, d.options, false); err != nil {
			return err
		}
	}
	tasks := named(found.Tasks, domains)
	for _, d := range domains {
		d.report = concerning(d.report, found.Tasks)
	}
	if !c.JSON {
		if err := c.importReport(dir, found, tasks, domains); err != nil {
			return err
		}
	}
	if i.Repair {
		if err := i.repair(ctx, c, found, domains); err != nil {
			return err
		}
	}
	out := imported{dir, tasks, found.Aside, []checked{}}
	for _, d := range domains {
		out.Domains = append(out.Domains, checked{d.report, d.agent.said(), d.done})
	}
	if err := c.show(out, func() error { return nil }); err != nil {
		return err
	}
	return uncleaned(found, domains)
}

func (i *importCommand) misused(c *cli) error {
	switch {
	case i.Yes && !i.Repair:
		return misuse("--yes goes with --repair; see '%s import-vdsm-tasks --help'", program)
	case i.Repair && c.JSON && !i.Yes:
		return misuse("--repair with --json cannot ask; give --yes too")
	}
	return localOnly(c)
}

// readVDSMTasks reads the tasks in a directory, and says where that is without symbolic links, as a pool's mastersd is one.
func readVDSMTasks(name string) (dir string, found vdsmtasks.Found, err error) {
	if dir, err = filepath.Abs(name); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return dir, found, misuse("%s cannot be looked at: %s", name, err)
	}
	if isDomain(dir) == nil {
		return dir, found, misuse("%s is a storage domain; the tasks of a master domain are in %s", dir, filepath.Join(dir, "master", "tasks"))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return dir, found, misuse("%s cannot be looked at: %s", dir, err)
	}
	defer root.Close()
	found, err = vdsmtasks.Read(root.FS(), ".")
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	if err != nil {
		err = fail(exitRefused, "the tasks in %s cannot be read: %s", dir, err)
	}
	return dir, found, err
}

// domains are those that are looked at. The one with the tasks comes last: its repair takes away what says that something in the others
// was never completed.
func (i *importCommand) domains(dir string, found vdsmtasks.Found) (out []*leftIn) {
	own := filepath.Dir(filepath.Dir(dir))
	if isDomain(own) != nil || dir != filepath.Join(own, "master", "tasks") {
		own = ""
	}
	for _, path := range i.Domain {
		twice := slices.ContainsFunc(out, func(d *leftIn) bool { return sameDir(path, d.options.Path) })
		if !twice && (own == "" || !sameDir(path, own)) {
			out = append(out, &leftIn{options: domaincheck.Options{Path: path, VDSMTasks: found.Tasks}, outside: dir})
		}
	}
	if own != "" {
		out = append(out, &leftIn{options: domaincheck.Options{Path: own}})
	}
	return out
}

// named says of each task what it has left in the domains.
func named(all []vdsmtasks.Task, domains []*leftIn) []importedTask {
	out := []importedTask{}
	for _, t := range all {
		one := importedTask{t, t.Meaning(), []left{}}
		for _, d := range domains {
			for _, trace := range d.report.Traces(t.IDs()) {
				one.Left = append(one.Left, left{d.report.UUID, trace})
			}
		}
		out = append(out, one)
	}
	return out
}

// concerning is the report with the findings that the tasks have to do with: the tasks themselves, and what is wrong with images and
// volumes which those name that did not succeed.
func concerning(r *domaincheck.Report, tasks []vdsmtasks.Task) *domaincheck.Report {
	var ids []string
	for _, t := range tasks {
		if !t.Success() {
			ids = append(ids, t.IDs()...)
		}
	}
	some := *r
	some.Findings = []domaincheck.Finding{}
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Path, "master/tasks/") || slices.Contains(ids, f.Image) || slices.Contains(ids, f.Volume) {
			some.Findings = append(some.Findings, f)
		}
	}
	return &some
}

func (i *importCommand) repair(ctx context.Context, c *cli, found vdsmtasks.Found, domains []*leftIn) error {
	answers := bufio.NewScanner(c.stdin)
	for _, d := range domains {
		if len(fixable(d.report)) == 0 {
			continue
		}
		again := func() (*domaincheck.Report, error) {
			r, _, err := c.checkDomain(ctx, d.options, false)
			if err != nil {
				return nil, err
			}
			return concerning(r, found.Tasks), nil
		}
		after, done, err := c.mend(ctx, d.report, d.agent, repairing{i.Yes, answers, d.outside, again})
		if err != nil {
			return err
		}
		d.report, d.done = after, done
		if !c.JSON {
			c.repaired(done, after)
		}
	}
	return nil
}

// uncleaned is the error of what is there to be cleaned up.
func uncleaned(found vdsmtasks.Found, domains []*leftIn) error {
	n := 0
	for _, d := range domains {
		if err := unrepaired(d.done); err != nil {
			return err
		}
		n += d.report.Count(domaincheck.Error) + d.report.Count(domaincheck.Warning)
	}
	switch all := len(found.Tasks) + len(found.Aside); {
	case n > 0:
		return fail(exitNoSuccess, "the tasks have left %s", count(n, "error or warning", "errors and warnings"))
	case len(domains) == 0 && all > 0:
		return fail(exitNoSuccess, "there are tasks, and the directory is in no storage domain; give --domain to see what they have left there")
	}
	return nil
}

func (c *cli) importReport(dir string, found vdsmtasks.Found, tasks []importedTask, domains []*leftIn) error {
	c.field("Directory", dir)
	c.field("Tasks", fmt.Sprint(len(tasks)))
	c.field("Set aside", fmt.Sprint(len(found.Aside)))
	for _, a := range found.Aside {
		c.printf("  %s  %s\n", clean(a.Path), clean(a.Reason))
	}
	for _, t := range tasks {
		c.printf("\n")
		c.importedTask(t, len(domains) > 0)
	}
	for _, d := range domains {
		c.printf("\n")
		c.domainHead(d.report, d.agent)
		if len(d.report.Findings) == 0 {
			c.printf("\nthe tasks have left nothing to clean up here\n")
			continue
		}
		if err := c.findings(d.report); err != nil {
			return err
		}
		command := program + " import-vdsm-tasks " + dir
		if d.outside != "" {
			command += " --domain " + d.report.Path
		}
		c.repairable(d.report, d.agent, command+" --repair")
	}
	return nil
}

// importedTask prints a task as VDSM has saved it, and what is there of what it names.
func (c *cli) importedTask(t importedTask, looked bool) {
	c.field("Task", t.ID)
	c.field("Verb", t.Verb)
	c.field("State", t.State+": "+t.Meaning)
	c.field("Saved", show.Time(t.Saved))
	c.field("Tag", t.Tag)
	if t.Dir != t.ID {
		c.field("Read from", t.Dir)
	}
	var ran, back, there []string
	for _, j := range t.Jobs {
		if j.Raw != "" {
			ran = append(ran, j.Name+": "+j.Raw)
			continue
		}
		ran = append(ran, fmt.Sprintf("%s(%s)", j.Name, strings.Join(j.Args, ", ")))
	}
	for _, r := range slices.Backward(t.Recoveries) {
		back = append(back, fmt.Sprintf("%s(%s)", r.Function, strings.Join(r.Params, ", ")))
	}
	for _, l := range t.Left {
		what := "image " + l.Image
		if l.Volume != "" {
			what = "volume " + l.Volume + " of " + what
		}
		there = append(there, what+" in domain "+l.Domain+": "+l.State)
	}
	if looked && len(there) == 0 {
		there = []string{"nothing that it names"}
	}
	c.items("Ran", ran)
	c.items("Would undo by", back)
	if t.Result != nil {
		c.field("Result", strings.TrimSpace(fmt.Sprintf("code %s, %s %s", t.Result.Code, t.Result.Message, t.Result.Result)))
	}
	c.items("There now", there)
}
