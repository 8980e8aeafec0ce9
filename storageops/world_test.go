package storageops

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest/prove"

	"github.com/rs/zerolog"
)

const (
	sdID    = "11111111-2222-4333-8444-555555555555"
	imgA    = "aaaaaaaa-0000-4000-8000-000000000001" // volRaw ← volTop
	imgB    = "aaaaaaaa-0000-4000-8000-000000000002" // volOld
	imgTmpl = "aaaaaaaa-0000-4000-8000-000000000003" // volTmpl
	imgNew  = "aaaaaaaa-0000-4000-8000-000000000009" // not there
	volRaw  = "bbbbbbbb-0000-4000-8000-000000000001"
	volTop  = "bbbbbbbb-0000-4000-8000-000000000002"
	volTmpl = "bbbbbbbb-0000-4000-8000-000000000003"
	volNew  = "bbbbbbbb-0000-4000-8000-000000000004" // not there
	volOld  = "bbbbbbbb-0000-4000-8000-000000000005"

	oldTask   = "cccccccc-0000-4000-8000-000000000009" // has something in the trash already
	proofTask = "cccccccc-0000-4000-8000-000000000001"
	outside   = "/outside/outside, with = and spaces.qcow2"
)

// world is a domain or two in memory, with the verbs over them. It implements prove.World.
type world struct {
	disk *disk

	mu      sync.Mutex
	workers []*memWorker
	leases  []*memLease
	wrong   []string // what was written without a lease
	fullAt  int      // the part of a copy at which there is no room; 0 = there is always room
	shared  bool     // the domains are shared by hosts: their volumes have leases
}

// Verbs makes the verbs anew for each task: a task has one goroutine, so what it is doing can be noted for its hand.
func (w *world) Verbs(gate prove.Gate) []*tasks.Verb {
	verbs := w.storage(&hand{disk: w.disk, gate: gate}).Verbs()
	for i, v := range verbs {
		wrapped := *v
		wrapped.Plan = func(id string, params json.RawMessage) (*tasks.Plan, error) {
			h := &hand{disk: w.disk, gate: gate}
			plan, err := w.storage(h).Verbs()[i].Plan(id, params)
			if err == nil {
				noteScope(plan.Steps, h)
			}
			return plan, err
		}
		verbs[i] = &wrapped
	}
	return verbs
}

func (w *world) storage(h *hand) *Storage {
	return &Storage{
		domains: memDomains{h, w}, images: memImages{h, w}, leases: memLeases{h, w}, trashFor: time.Hour, log: zerolog.Nop(),
	}
}

// noteScope lets the hand know the step that is at work.
func noteScope(steps []tasks.Step, h *hand) {
	for i, s := range steps {
		note := func(f func(context.Context, *tasks.Scope) error) func(context.Context, *tasks.Scope) error {
			if f == nil {
				return nil
			}
			return func(ctx context.Context, scope *tasks.Scope) error {
				h.scope = scope
				return f(ctx, scope)
			}
		}
		steps[i].Do, steps[i].Undo = note(s.Do), note(s.Undo)
	}
}

// Seen lists every file with its mode, and what is in it; times are left out.
func (w *world) Seen() string {
	var out []string
	w.see("/", func(name string, ino inode, n *node) {
		line, ours := inTrash(name)
		if n.names != nil && ours {
			return // an entry is what is in it
		}
		switch data := n.data.(type) {
		case domain.VolumeMeta:
			if data.Merging {
				data.Legality += " merging"
			}
			line = fmt.Sprintf("%s %s %s cap=%d %s %s %s %s seq=%d gen=%d %q", line, data.Legality, data.VolType, data.Capacity, data.Type,
				data.Format, data.PUUID, data.Image, data.Sequence, data.Generation, data.Description)
		case picture:
			line = fmt.Sprintf("%s %v", line, data)
		case []byte:
			line = fmt.Sprintf("%s %q", line, data)
		case string: // a lease
			line += " " + data
		case domain.Manifest:
			line = fmt.Sprintf("%s %d items", line, len(data.Items))
		}
		line = fmt.Sprintf("%s %s links=%d", line, n.mode, w.links(ino))
		if ours {
			line = "trash " + regexp.MustCompile(` links=\d+$`).ReplaceAllString(line, "")
		}
		out = append(out, line)
	})
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// links counts the names of a file, but those in a trash.
func (w *world) links(ino inode) (count int) {
	w.see("/", func(name string, other inode, _ *node) {
		if _, ours := inTrash(name); other == ino && !ours {
			count++
		}
	})
	return count
}

// inTrash leaves the trash's own name out of that of something in it.
func inTrash(name string) (line string, ours bool) {
	id, rest, found := strings.Cut(name[1:], "/trash/")
	if !found || strings.Contains(id, "/") {
		return name, false
	}
	return path.Join(id, rest), true
}

// Published are the volumes that are LEGAL, with what a guest reads of their own: that is what says that they are whole.
func (w *world) Published() []string {
	var out []string
	w.see("/", func(name string, _ inode, n *node) {
		m, ok := n.data.(domain.VolumeMeta)
		if _, ours := inTrash(name); ours {
			return
		}
		if !ok || m.Legality != domain.Legal {
			return
		}
		// Metadata alone is no volume: a crash between the two names of one that is moved may leave it, until the task goes on.
		if _, data := w.disk.lookup(strings.TrimSuffix(name, metaSuffix)); data != nil {
			out = append(out, fmt.Sprintf("%s is LEGAL and holds %s", name, readable(m, data.data)))
		}
	})
	return out
}

// readable is what a guest reads of a volume's file alone. How long the file is makes no difference, unless it is too short.
func readable(m domain.VolumeMeta, data any) string {
	p, ok := data.(picture)
	switch {
	case !ok:
		return fmt.Sprint(data)
	case p.capacity < m.Capacity:
		return fmt.Sprintf("%s %s, cut short", p.backing, fmt.Sprint(p.data))
	}
	return fmt.Sprintf("%s %s", p.backing, fmt.Sprint(p.data))
}

func (w *world) see(dir string, f func(name string, ino inode, n *node)) {
	for _, child := range w.disk.list(dir) {
		name := path.Join(dir, child)
		ino, n := w.disk.lookup(name)
		if n == nil {
			continue
		}
		f(name, ino, n)
		if n.names != nil {
			w.see(name, f)
		}
	}
}

// Unsynced counts the changes that a crash may keep or lose.
func (w *world) Unsynced() int {
	w.disk.mu.Lock()
	defer w.disk.mu.Unlock()
	return len(w.disk.open)
}

// Crash leaves the disk only.
func (w *world) Crash(keep func() bool) prove.World {
	return &world{disk: w.disk.crash(keep), shared: w.shared, fullAt: w.fullAt}
}

// Alive names the task's workers and leases, and what workers should not have done.
func (w *world) Alive(task string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.wrong)
	for _, l := range w.leases {
		if l.task == task {
			out = append(out, "the lease of "+l.volumeRef.String())
		}
	}
	for _, k := range w.workers {
		if k.task == task {
			out = append(out, k.what)
		}
	}
	return out
}

func (w *world) remember(k *memWorker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.workers = append(w.workers, k)
	for _, l := range w.leases {
		if l.task == k.task {
			l.workers = append(l.workers, k)
		}
	}
}

func (w *world) forget(k *memWorker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	is := func(other *memWorker) bool { return other == k }
	w.workers = slices.DeleteFunc(w.workers, is)
	for _, l := range w.leases {
		l.workers = slices.DeleteFunc(l.workers, is)
	}
	w.dropLeases()
}

func (w *world) full(part int) bool { return w.fullAt > 0 && part >= w.fullAt }

// open is a gate that lets everything pass.
func open(*tasks.Scope, string) error { return nil }

// furnished is the disk before most cases: a chain of two, a template, a volume of its own, a file outside, and an old entry
// in the trash.
var furnished = sync.OnceValue(func() *disk { return furnishWith(false) })

// furnishedShared is the same of a domain that hosts share.
var furnishedShared = sync.OnceValue(func() *disk { return furnishWith(true) })

func furnishWith(shared bool) *disk {
	w := &world{disk: newDisk(), shared: shared}
	h := &hand{disk: w.disk, gate: open}
	if _, err := h.mkdir("", path.Dir(outside), 0o755); err != nil {
		panic(err)
	}
	if err := h.replace("", outside, picture{format: "qcow2", capacity: 10 << 20, data: [parts]byte{0, 7, 7, 0}}); err != nil {
		panic(err)
	}
	w.addDomain(sdID, firstVolumes)
	d := memDomain{h, w, sdID}
	if err := d.Trash().Put(domain.Entry{Task: oldTask, Label: labelDeleted, Image: imgNew}); err != nil {
		panic(err)
	}
	return w.disk
}

// addDomain makes a domain with volumes in it.
func (w *world) addDomain(id string, volumes []furniture) memDomain {
	d := memDomain{&hand{disk: w.disk, gate: open}, w, id}
	for _, dir := range []string{"/" + id, d.imagesDir(), memTrash{d}.trashDir()} {
		if _, err := d.mkdir("", dir, 0o755); err != nil {
			panic(err)
		}
	}
	return w.addVolumes(id, volumes)
}

// addVolumes puts volumes into a domain.
func (w *world) addVolumes(id string, volumes []furniture) memDomain {
	d := memDomain{&hand{disk: w.disk, gate: open}, w, id}
	furnish(volumes, func(_, vol string, v domain.VolumeMeta, p picture) {
		v.Domain = id
		d.given(vol, v, p)
	})
	return d
}

// furniture is a volume that is there at first.
type furniture struct {
	img, vol, parent, format, volType string
	data                              [parts]byte
	bitmaps                           string
}

var firstVolumes = []furniture{
	{imgA, volRaw, domain.BlankUUID, domain.FormatRaw, domain.Internal, [parts]byte{1, 1, 0, 1}, ""},
	{imgA, volTop, volRaw, domain.FormatCOW, domain.Leaf, [parts]byte{0, 2, 2, 0}, ""},
	{imgTmpl, volTmpl, domain.BlankUUID, domain.FormatCOW, domain.Shared, [parts]byte{3, 0, 3, 0}, ""},
	{imgB, volOld, domain.BlankUUID, domain.FormatCOW, domain.Leaf, [parts]byte{5, 0, 0, 5}, ""},
	{imgNew, volNew, domain.BlankUUID, domain.FormatCOW, domain.Leaf, [parts]byte{9, 0, 0, 0}, ""}, // goes to the trash
}

// furnish gives the volumes to put, base first.
func furnish(volumes []furniture, put func(img, vol string, v domain.VolumeMeta, p picture)) {
	formats := map[string]string{}
	for _, x := range volumes {
		formats[x.vol] = imageFormat(x.format)
		p := picture{format: imageFormat(x.format), capacity: 12 << 20, data: x.data, bitmaps: x.bitmaps}
		if x.parent != domain.BlankUUID {
			p.backing, p.backingFormat = x.parent, formats[x.parent]
		}
		put(x.img, x.vol, domain.VolumeMeta{
			Capacity: p.capacity, CTime: time.Unix(1700000000, 0).UTC(), DiskType: "DATA", Domain: sdID, Format: x.format, Image: x.img,
			Legality: domain.Legal, PUUID: x.parent, Type: domain.Sparse, VolType: x.volType,
		}, p)
	}
}

// newWorld makes the world that most cases begin with.
func newWorld() prove.World { return &world{disk: furnished().clone()} }

// sharedWorld is newWorld with a domain that hosts share: its volumes have leases.
func sharedWorld() prove.World { return &world{disk: furnishedShared().clone(), shared: true} }

// derivedWorld has an image that is derived from the template too.
func derivedWorld() prove.World {
	w := newWorld().(*world)
	d := memDomain{&hand{disk: w.disk, gate: open}, w, sdID}
	if _, err := d.CreateImageDir(imgNew); err != nil {
		panic(err)
	}
	if err := d.ShareTemplate(imgTmpl, volTmpl, imgNew); err != nil {
		panic(err)
	}
	return w
}

// markedWorld has bitmaps in a volume.
func markedWorld() prove.World {
	w := newWorld().(*world)
	d := memDomain{&hand{disk: w.disk, gate: open}, w, sdID}
	_, old := w.disk.lookup(d.file(imgB, volOld))
	p := old.data.(picture)
	p.bitmaps = "a,b,"
	if err := d.replace("", d.file(imgB, volOld), p); err != nil {
		panic(err)
	}
	return w
}

// given puts a volume in place.
func (m memDomain) given(vol string, v domain.VolumeMeta, p picture) {
	_, err := m.CreateImageDir(v.Image)
	for _, do := range []func() error{
		func() error { return m.replace("", m.file(v.Image, vol), p) },
		func() error {
			if !m.world.shared {
				return nil
			}
			return m.replace("", m.file(v.Image, vol)+leaseSuffix, sdID+":"+vol)
		},
		func() error { return m.SetMode(v.Image, vol) },
		func() error { return m.WriteVolumeMeta(v.Image, vol, v) },
	} {
		if err == nil {
			err = do()
		}
	}
	if err != nil {
		panic(err)
	}
}

// newWorldWith is newWorld with more in it.
func newWorldWith(add func(d memDomain)) func() prove.World {
	return func() prove.World {
		w := newWorld().(*world)
		add(memDomain{&hand{disk: w.disk, gate: open}, w, sdID})
		return &world{disk: w.disk.clone()}
	}
}
