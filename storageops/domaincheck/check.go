package domaincheck

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/vdsmtasks"
)

// Owner is a user and a group; -1 = any.
type Owner = domain.Owner

// Options of a check. The zero value is a check without a daemon and without qemu-img.
type Options struct {
	Path  string    // of the domain's directory, for sentences and for qemu-img
	Owner *Owner    // that everything must have; nil = what dom_md/metadata has
	Now   time.Time // zero = now

	// Busy says which task is at work with an image: what is found there is no problem. Nil = none is known of.
	Busy func(image string) (task string)
	// Known says whether the running agent knows a task that has something in the trash; nil = no agent was asked.
	Known func(task string) bool
	// VDSMTasks are tasks that VDSM has left elsewhere, on its master domain; those on this one are found.
	VDSMTasks []vdsmtasks.Task

	// Starter starts qemu-img to check every qcow2 image; nil = none does.
	Starter qemuimg.Starter
	// Progress is told before each image that qemu-img looks at; may be nil.
	Progress func(done, total int)
}

// Check looks through the domain in fsys. It ends early only with ctx, and then with its cause; all else that goes wrong is a finding.
func Check(ctx context.Context, fsys fs.FS, o Options) (*Report, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	s := &scan{fsys: fsys, o: o, images: map[string]*image{}, report: &Report{Path: o.Path, Deep: o.Starter != nil, Findings: []Finding{}}}
	s.report.scan = s
	s.domain()
	s.vdsmTasks()
	for _, name := range s.list(imagesDir) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.inImages(name)
	}
	s.compareImages()
	s.agentFiles()
	if err := s.deep(ctx); err != nil {
		return nil, err
	}
	s.countAndMark()
	s.report.sort()
	return s.report, nil
}

// Names in a domain.
const (
	imagesDir    = "images"
	mdDir        = "dom_md"
	metadataFile = "dom_md/metadata"
	tasksDir     = "master/tasks"
	agentDir     = ".vdsm-agent"
	trashDir     = ".vdsm-agent/trash"
)

// scan is one check.
type scan struct {
	fsys   fs.FS
	o      Options
	report *Report
	meta   *domain.DomainMeta // nil = could not be read
	owner  *Owner
	images map[string]*image
	making map[vdsmtasks.Place]string // what unfinished tasks of VDSM were making, with the task
}

// image is an image's directory.
type image struct {
	id      string
	volumes map[string]*volume
	others  int // names in it that are no volume's
}

// volume is what the files of one name in an image's directory are.
type volume struct {
	image, id         string
	data, meta, lease *file
	text              []byte
	m                 *domain.VolumeMeta // nil = none, or damaged
	header            *qemuimg.Header    // of a sound qcow2 image
	inUse             bool
	clean             bool // its file is what the metadata says, so that qemu-img may look at it
	shares            bool // a hard link of a template of another image
}

func (v *volume) path() string { return path.Join(imagesDir, v.image, v.id) }

// add makes a finding; format is its sentence.
func (s *scan) add(class Class, name, format string, args ...any) *Finding {
	k := byClass[class]
	s.report.Findings = append(s.report.Findings, Finding{
		Class: class, Severity: k.Severity, Path: name, Message: fmt.Sprintf(format, args...), Remedy: k.Remedy,
	})
	return &s.report.Findings[len(s.report.Findings)-1]
}

// of says which volume the finding is about.
func (f *Finding) of(v *volume) *Finding {
	f.Image, f.Volume = v.image, v.id
	return f
}

// repair offers a fix.
func (f *Finding) repair(fix Fix) {
	fix.Action = byClass[f.Class].Repair
	f.Fix, f.Repair = &fix, fix.Action
}

// countAndMark counts volumes, and withdraws repairs where a task or a program is at work.
func (s *scan) countAndMark() {
	s.report.Images = len(s.images)
	for _, img := range s.images {
		for _, v := range img.volumes {
			if v.meta != nil && !v.shares {
				s.report.Volumes++
			}
		}
	}
	for i := range s.report.Findings {
		f := &s.report.Findings[i]
		if img := s.images[f.Image]; img != nil && f.Fix != nil && img.busyWith(f.Volume) {
			f.Fix, f.Repair = nil, ""
		}
		if s.o.Busy == nil || f.Image == "" {
			continue
		}
		if task := s.o.Busy(f.Image); task != "" {
			f.Task, f.Severity, f.Fix, f.Repair = task, Note, nil, ""
			f.Remedy = "Nothing: a task is at work with this image. Check again when it has ended."
		}
	}
}

// busyWith says whether a program has the volume open, or, with "", any volume of the image.
func (i *image) busyWith(vol string) bool {
	for _, v := range i.volumes {
		if v.inUse && (vol == "" || vol == v.id) {
			return true
		}
	}
	return false
}

// domain looks at dom_md.
func (s *scan) domain() {
	md := s.look(metadataFile)
	switch {
	case md == nil:
		s.add("domain-metadata", metadataFile, "dom_md/metadata is missing.")
	case !md.mode.IsRegular():
		s.add("not-a-file", metadataFile, "dom_md/metadata is %s.", describe(md.mode))
	default:
		s.owner = &Owner{UID: int(md.uid), GID: int(md.gid)}
		s.domainMeta()
	}
	if s.o.Owner != nil {
		s.owner = s.o.Owner
	}
	for _, want := range []struct {
		name string
		dir  bool
		size int64
	}{{mdDir, true, 0}, {imagesDir, true, 0}, {"dom_md/ids", false, 0}, {"dom_md/leases", false, 0}, {"dom_md/inbox", false, 16 << 20}, {"dom_md/outbox", false, 16 << 20}} {
		f := s.look(want.name)
		switch {
		case f == nil:
			s.add("domain-file", want.name, "%s is missing.", want.name)
		case f.mode.IsDir() != want.dir || !want.dir && !f.mode.IsRegular():
			s.add("domain-file", want.name, "%s is %s.", want.name, describe(f.mode))
		case f.size < want.size && !want.dir:
			s.add("domain-file", want.name, "%s has %d bytes and needs %d.", want.name, f.size, want.size)
		case want.dir:
			s.permissions(f, dirMode)
		default:
			s.permissions(f, dataMode)
		}
	}
	if s.owner != nil && md != nil {
		s.permissions(md, metaMode)
	}
}

// hasLeases says whether volumes of this domain have lease files; known is false where its type is not known.
func (s *scan) hasLeases() (has, known bool) {
	if s.meta == nil {
		return false, false
	}
	return slices.Contains([]string{"NFS", "POSIXFS", "GLUSTERFS"}, s.meta.Type) && s.meta.Version >= 4, true
}

// vdsmTasks looks for what VDSM was doing.
func (s *scan) vdsmTasks() {
	all := slices.Clone(s.o.VDSMTasks)
	if f := s.look(tasksDir); f != nil && f.mode.IsDir() {
		found, err := vdsmtasks.Read(s.fsys, tasksDir)
		if err != nil {
			s.unreadable(tasksDir, err)
		}
		for _, t := range found.Tasks {
			dir := path.Join(tasksDir, t.Dir)
			f := s.add("vdsm-task", dir, "VDSM's task %s (%s, %s): %s.", t.ID, t.Verb, t.State, t.Meaning())
			if s.flat(dir) {
				f.repair(Fix{Path: dir})
			}
		}
		for _, a := range found.Aside {
			name := path.Join(tasksDir, a.Path)
			f := s.add("stray-file", name, "%s cannot be read as a task of VDSM: %s.", name, a.Reason)
			if path.Dir(a.Path) == "." && s.movable(name) { // what is in a task's directory goes with it
				f.repair(Fix{Path: name})
			}
		}
		all = append(all, found.Tasks...)
	}
	s.making = map[vdsmtasks.Place]string{}
	for _, t := range all {
		for _, p := range t.Made() {
			s.making[p] = t.ID
		}
	}
}

// maker is the task of VDSM that was making the volume, "" if none says so.
func (s *scan) maker(v *volume) string {
	if s.meta == nil {
		return ""
	}
	if task := s.making[vdsmtasks.Place{Domain: s.meta.UUID, Image: v.image, Volume: v.id}]; task != "" {
		return task
	}
	return s.making[vdsmtasks.Place{Domain: s.meta.UUID, Volume: v.id}]
}

// movable says whether a name is a file that no program has locked, or a flat directory.
func (s *scan) movable(name string) bool {
	f := s.look(name)
	switch {
	case f == nil:
		return false
	case f.mode.IsDir():
		return s.flat(name)
	}
	return f.mode.IsRegular() && !s.locked(name)
}

// flat says whether a directory holds nothing but regular files, so that it can be moved to the trash.
func (s *scan) flat(dir string) bool {
	for _, name := range s.list(dir) {
		if f := s.look(path.Join(dir, name)); f == nil || !f.mode.IsRegular() {
			return false
		}
	}
	return true
}

func isUUID(s string) bool { return param.ValidUUID(s) }

func describe(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsDir():
		return "a directory"
	case m.IsRegular():
		return "a file"
	}
	return "a special file"
}
