package storageops

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/domaincheck"
	"vdsm-agent/storageops/vdsmtasks"
	"vdsm-agent/tasks"
)

// maxRepairs is how many findings one task repairs: an undo of all of them keeps the verb's bound.
const maxRepairs = 100

type repairParams struct {
	Domain   param.UUID  `json:"storagedomainID"`
	Findings []namedFind `json:"findings" doc:"what of the findings of 'vdsm-agentctl domain check' is repaired, each {class, path}; 100 at most"`
	// Tasks of the domain itself are looked at anyway; a pool's are on its master domain.
	VDSMTasks string `json:"vdsmTasks" default:"" doc:"a directory with tasks that VDSM has left, such as MASTER-DOMAIN/master/tasks, as proof of what was never completed"`
}

// namedFind names a finding.
type namedFind struct {
	Class domaincheck.Class `json:"class"`
	Path  string            `json:"path"`
}

func (n namedFind) String() string { return string(n.Class) + " " + n.Path }

func (p repairParams) check() error {
	switch {
	case p.Domain.IsBlank():
		return code.Errorf(code.InvalidParameter, "parameter \"storagedomainID\" must name a domain")
	case len(p.Findings) == 0 || len(p.Findings) > maxRepairs:
		return code.Errorf(code.InvalidParameter, "parameter \"findings\" must name 1 to %d findings, not %d", maxRepairs, len(p.Findings))
	case p.VDSMTasks != "" && !filepath.IsAbs(p.VDSMTasks):
		return code.Errorf(code.InvalidParameter, "parameter \"vdsmTasks\" must be an absolute path, not %q", p.VDSMTasks)
	}
	for i, f := range p.Findings {
		k := slices.IndexFunc(domaincheck.Kinds, func(k domaincheck.Kind) bool { return k.Class == f.Class })
		switch {
		case k < 0:
			return code.Errorf(code.InvalidParameter, "there is no class %q of findings", f.Class)
		case domaincheck.Kinds[k].Repair == "":
			return code.Errorf(code.InvalidParameter, "findings of class %q cannot be repaired by a task: %s", f.Class, domaincheck.Kinds[k].Remedy)
		case path.Clean(f.Path) != f.Path || path.IsAbs(f.Path) || strings.HasPrefix(f.Path, ".."):
			return code.Errorf(code.InvalidParameter, "%q is no path in a domain", f.Path)
		case slices.Contains(p.Findings[:i], f):
			return code.Errorf(code.InvalidParameter, "the finding %s is named twice", f)
		}
	}
	return nil
}

// repair is one task of Domain.repair.
type repair struct {
	st   *Storage
	task string
	repairParams
}

// repairDomain mends what a check of the domain has found and what is safe to mend. It never goes by what the client says is wrong:
// under its locks it looks itself.
func (st *Storage) repairDomain() *tasks.Verb {
	const undo = "everything as before: back from the trash; metadata, links, modes and owners as they were"
	return &tasks.Verb{
		Role: access.Operate, Doc: "Repair what a check of a domain has found, where that is safe and can be taken back.",
		Name: "Domain.repair", Params: repairParams{}, Ours: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{CancellableUntil: "finished", Undo: undo, Revert: undo + ", unless it was changed since", Bound: 5 * time.Second},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[repairParams](raw, param.Strict)
			if err != nil {
				return nil, err
			}
			return (&repair{st, id, p}).plan(), nil
		},
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[repairParams](raw, param.Strict)
			if err != nil {
				return err
			}
			_, err = st.writable(string(p.Domain))
			return err
		},
	}
}

func (x *repair) plan() *tasks.Plan {
	locks := []tasks.Lock{tasks.TaskLock(x.task), domainShared(string(x.Domain))}
	for _, f := range x.Findings {
		image := imageOf("", f.Path)
		if lock := imageExclusive(string(x.Domain), image); image != "" && !slices.Contains(locks, lock) {
			locks = append(locks, lock)
		}
	}
	return &tasks.Plan{
		Tag: tasks.TagLocal, Locks: locks,
		Steps:   []tasks.Step{x.checkStep(), x.permissionsStep(), x.linkStep(), x.rewriteStep(), x.trashStep()},
		Success: fmt.Sprintf("%d findings are repaired", len(x.Findings)),
		// What it has left is in its plan already.
		Fingerprint: func(context.Context, *tasks.Scope) (any, error) { return struct{}{}, nil },
		Unused:      x.unused,
		Deferred: func(s *tasks.Scope, end tasks.End) *tasks.Submission {
			if p, err := x.found(s); end != tasks.EndCleared || s.State() != tasks.Finished || err != nil || len(p.Trash) == 0 {
				return nil
			}
			return reclaimTask(string(x.Domain), x.task, false)
		},
	}
}

// imageOf is the image that is named, or in which the path is; "" = none.
func imageOf(image, name string) string {
	dirs := strings.Split(name, "/")
	if image == "" && dirs[0] == "images" && len(dirs) > 1 && param.ValidUUID(dirs[1]) {
		return dirs[1]
	}
	return image
}

// repairs is what the check step found out: all that is done, and all that its undo needs.
type repairs struct {
	Permissions []permissionsFix `json:"permissions,omitempty"`
	Links       []linkFix        `json:"links,omitempty"`
	Rewrites    []rewriteFix     `json:"rewrites,omitempty"`
	Trash       []domain.Entry   `json:"trash,omitempty"`
	Empty       []string         `json:"empty,omitempty"` // images that go too if nothing is in them then
}

type permissionsFix struct {
	Path   string             `json:"path"`
	Before domain.Permissions `json:"before"`
	After  domain.Permissions `json:"after"`
}

type linkFix struct {
	Template string       `json:"template"`
	Image    string       `json:"image"`
	Volume   string       `json:"volume"`
	Before   domain.Share `json:"before"`
}

type rewriteFix struct {
	Image  string `json:"image"`
	Volume string `json:"volume"`
	Before []byte `json:"before"`
	After  []byte `json:"after"`
}

// checkStep looks at the domain again, and refuses what it does not find, or would not offer, itself.
func (x *repair) checkStep() tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, _ *tasks.Scope) (any, error) {
			d, err := x.st.writable(string(x.Domain))
			if err != nil {
				return nil, err
			}
			report, err := x.examine(ctx, d)
			if err != nil {
				return nil, err
			}
			return x.repairs(d, report)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return x.st.reach(ctx, s, string(x.Domain)) },
	}
}

// examine checks the domain, with the tasks of VDSM that the client has named.
func (x *repair) examine(ctx context.Context, d storageDomain) (*domaincheck.Report, error) {
	var o domaincheck.Options
	if x.VDSMTasks != "" {
		root, err := os.OpenRoot(x.VDSMTasks)
		if err != nil {
			return nil, code.Errorf(code.InvalidParameter, "the tasks of VDSM cannot be read: %w", err)
		}
		defer root.Close()
		left, err := vdsmtasks.Read(root.FS(), ".")
		if err != nil {
			return nil, code.Errorf(code.InvalidParameter, "the tasks of VDSM cannot be read: %w", err)
		}
		o.VDSMTasks = left.Tasks
	}
	return d.Examine(ctx, o)
}

// repairs finds out what is done about what was asked for.
func (x *repair) repairs(d storageDomain, report *domaincheck.Report) (p repairs, err error) {
	for _, want := range x.Findings {
		f := report.Find(want.Class, want.Path)
		switch {
		case f == nil:
			return p, code.Errorf(code.TaskState, "%s is not found (any more); check the domain again", want)
		case f.Fix == nil:
			return p, code.Errorf(code.TaskState, "%s cannot be repaired safely as things are: %s", want, f.Message)
		}
		if err := p.add(d, f, x.task); err != nil {
			return p, err
		}
	}
	// The removal of an empty directory takes what VDSM has left half written with it, which could not come back.
	for _, e := range p.Trash {
		image := imageOf(e.Image, e.Path)
		left := func(f domaincheck.Finding) bool {
			return f.Class == "leftover" && f.Image == image && !slices.Contains(x.Findings, namedFind{f.Class, f.Path})
		}
		if image != "" && !slices.Contains(p.Empty, image) && !slices.ContainsFunc(report.Findings, left) {
			p.Empty = append(p.Empty, image)
		}
	}
	return p, nil
}

// add adds how a finding is repaired. Several of one file become one change.
func (p *repairs) add(d storageDomain, f *domaincheck.Finding, task string) error {
	switch fix := f.Fix; fix.Action {
	case domaincheck.Permissions:
		return p.addPermissions(d, fix)
	case domaincheck.Link:
		before, err := d.Share(fix.Template, fix.Volume, fix.Image)
		p.Links = append(p.Links, linkFix{fix.Template, fix.Image, fix.Volume, before})
		return err
	case domaincheck.Rewrite:
		return p.addRewrite(d, fix)
	case domaincheck.Trash:
		p.Trash = append(p.Trash, domain.Entry{Task: task, Label: f.Path, Image: fix.Image, Volume: fix.Volume, Path: fix.Path})
	}
	return nil
}

func (p *repairs) addPermissions(d storageDomain, fix *domaincheck.Fix) error {
	i := slices.IndexFunc(p.Permissions, func(o permissionsFix) bool { return o.Path == fix.Path })
	if i < 0 {
		before, err := d.Permissions(fix.Path)
		if err != nil {
			return err
		}
		i, p.Permissions = len(p.Permissions), append(p.Permissions, permissionsFix{fix.Path, before, before})
	}
	one := &p.Permissions[i]
	if fix.Mode != one.Before.Mode {
		one.After.Mode = fix.Mode
	}
	if fix.UID != one.Before.UID || fix.GID != one.Before.GID {
		one.After.UID, one.After.GID = fix.UID, fix.GID
	}
	return nil
}

func (p *repairs) addRewrite(d storageDomain, fix *domaincheck.Fix) error {
	i := slices.IndexFunc(p.Rewrites, func(o rewriteFix) bool { return o.Image == fix.Image && o.Volume == fix.Volume })
	if i < 0 {
		before, err := d.MetaText(fix.Image, fix.Volume)
		if err != nil {
			return err
		}
		i, p.Rewrites = len(p.Rewrites), append(p.Rewrites, rewriteFix{fix.Image, fix.Volume, before, before})
	}
	m, err := domain.ParseVolumeMeta(p.Rewrites[i].After)
	if err != nil {
		return err
	}
	fix.Change(&m)
	p.Rewrites[i].After, err = m.Encode()
	return err
}

// found is what the check step found out.
func (x *repair) found(s *tasks.Scope) (p repairs, err error) {
	there, err := s.PlanOf(stepCheck, &p)
	if err == nil && !there {
		err = code.Errorf(code.InternalError, "the check step has not run")
	}
	return p, err
}

// unused refuses a revert where something is not as the repair has left it.
func (x *repair) unused(_ context.Context, s *tasks.Scope, _ json.RawMessage) error {
	p, err := x.found(s)
	if err != nil {
		return err
	}
	d, err := x.st.writable(string(x.Domain))
	if err != nil {
		return err
	}
	changed := func(what string) error {
		return code.Errorf(code.TaskState, "%s was changed since, so the repair cannot be taken back", what)
	}
	if len(p.Trash) > 0 {
		if _, err := d.Trash().Manifest(x.task); err != nil {
			return code.Errorf(code.TaskState, "what was moved is not in the trash any more: %w", err)
		}
	}
	for _, r := range p.Rewrites {
		text, err := d.MetaText(r.Image, r.Volume)
		if absent(err) && len(p.Trash) > 0 {
			continue // it went to the trash after that
		}
		if err != nil || !bytes.Equal(text, r.After) {
			return changed("the metadata of volume " + r.Volume)
		}
	}
	for _, one := range p.Links {
		now, err := d.Share(one.Template, one.Volume, one.Image)
		if absent(err) && len(p.Trash) > 0 {
			continue
		}
		if err != nil || !now.Linked {
			return changed("the link of template " + one.Volume + " in image " + one.Image)
		}
	}
	for _, one := range p.Permissions {
		now, err := d.Permissions(one.Path)
		if absent(err) && len(p.Trash) > 0 {
			continue
		}
		if err != nil || now != one.After {
			return changed(one.Path)
		}
	}
	return nil
}
