package main

import (
	"bufio"
	"context"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/storageops/domaincheck"
)

// repairing is how findings are repaired.
type repairing struct {
	yes       bool           // nobody is asked
	answers   *bufio.Scanner // of who is asked
	vdsmTasks string         // the directory of tasks of VDSM that are proof too; "" = only the domain's own
	again     func() (*domaincheck.Report, error)
}

// repair is one task that repairs, as JSON.
type repair struct {
	TaskID   string                `json:"taskID"`
	Result   string                `json:"result"` // success, or as of any task
	Message  string                `json:"message"`
	Findings []domaincheck.Finding `json:"findings"`
}

// repairBatch is how many findings one task repairs: it is small enough to be taken back in a few seconds.
const repairBatch = 100

// repairDomain shows what was found, repairs, and says what is left.
func (c *cli) repairDomain(ctx context.Context, r *domaincheck.Report, a *agentView, how repairing) error {
	if !c.JSON {
		if err := c.domainReport(r, a); err != nil {
			return err
		}
	}
	if len(fixable(r)) == 0 {
		if err := c.show(checked{r, a.said(), nil}, func() error { return nil }); err != nil {
			return err
		}
		return unsound(r)
	}
	after, done, err := c.mend(ctx, r, a, how)
	if err != nil {
		return err
	}
	if err := c.show(checked{after, a.said(), done}, func() error { c.repaired(done, after); return nil }); err != nil {
		return err
	}
	if err := unrepaired(done); err != nil {
		return err
	}
	return unsound(after)
}

// mend asks about each finding that can be repaired, lets the daemon do it, and checks again. A repair can bring more to light, such as a
// parent that has no child any more; that is asked about too, and nothing twice. It prints only the questions.
func (c *cli) mend(ctx context.Context, r *domaincheck.Report, a *agentView, how repairing) (after *domaincheck.Report, done []repair, err error) {
	if len(fixable(r)) > 0 && !a.serves {
		return nil, nil, fail(exitNoConnection, "repairs are tasks of the daemon, and none is running here that has this domain; start it, or connect the domain's directory to it")
	}
	var offered []domaincheck.Finding
	for after = r; ; {
		fresh := slices.DeleteFunc(fixable(after), func(f domaincheck.Finding) bool {
			return slices.ContainsFunc(offered, func(o domaincheck.Finding) bool { return o.Class == f.Class && o.Path == f.Path })
		})
		if len(fresh) == 0 {
			return after, done, nil
		}
		offered = append(offered, fresh...)
		if !how.yes {
			fresh = c.choose(fresh, how.answers)
		}
		for batch := range slices.Chunk(fresh, repairBatch) {
			one, err := c.repairOne(ctx, r.UUID, batch, how.vdsmTasks)
			if err != nil {
				return nil, done, err
			}
			done = append(done, one)
		}
		if after, err = how.again(); err != nil || unrepaired(done) != nil {
			return after, done, err
		}
	}
}

// unrepaired is the error of the first task that did not succeed.
func unrepaired(done []repair) error {
	for _, one := range done {
		if one.Result != resultSuccess {
			return unsuccessful(one.TaskID, one.Message)
		}
	}
	return nil
}

// choose asks about each finding. The end of the input is a no to all that is left.
func (c *cli) choose(all []domaincheck.Finding, in *bufio.Scanner) (chosen []domaincheck.Finding) {
	for i, f := range all {
		c.printf("\n%s %s: %s\n  %s\nrepair it? [y]es, [n]o, [a]ll that are left, [q]uit: ",
			c.style.Paint(severityColours[f.Severity], string(f.Class)), clean(f.Path), clean(f.Message), f.Remedy)
		if !in.Scan() {
			c.printf("\n")
			return chosen
		}
		switch strings.ToLower(strings.TrimSpace(in.Text())) {
		case "y", "yes":
			chosen = append(chosen, f)
		case "a", "all":
			return append(chosen, all[i:]...)
		case "q", "quit":
			return chosen
		}
	}
	return chosen
}

// repairOne lets one task repair some findings, and waits for it.
func (c *cli) repairOne(ctx context.Context, domain string, findings []domaincheck.Finding, vdsmTasks string) (repair, error) {
	type named struct {
		Class domaincheck.Class `json:"class"`
		Path  string            `json:"path"`
	}
	var which []named
	for _, f := range findings {
		which = append(which, named{f.Class, f.Path})
	}
	params := map[string]any{"storagedomainID": domain, "findings": which}
	if vdsmTasks != "" {
		params["vdsmTasks"] = vdsmTasks
	}
	var id string
	if err := c.daemon.call(ctx, "Domain.repair", params, &id); err != nil {
		return repair{}, err
	}
	status, err := c.await(ctx, id, 0, stays("the repair goes on", id))
	return repair{id, status.TaskResult, status.Message, findings}, err
}

// repaired says what was done, how it is taken back, and what is left.
func (c *cli) repaired(done []repair, after *domaincheck.Report) {
	for _, one := range done {
		if one.Result == resultSuccess {
			c.printf("task %s repaired %s; '%s revert %s' takes that back, '%s clear %s' makes it final\n", short(one.TaskID),
				count(len(one.Findings), "finding", "findings"), program, short(one.TaskID), program, short(one.TaskID))
		}
	}
	if len(done) == 0 {
		c.printf("nothing is repaired\n")
	}
	left := after.Count(domaincheck.Error) + after.Count(domaincheck.Warning)
	if left == 0 {
		c.printf("%s\n", c.style.Paint(show.Good, "everything else is as it should be"))
		return
	}
	c.printf("%s left\n", count(left, "finding is", "findings are"))
}
