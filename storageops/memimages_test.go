package storageops

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
)

// parts is how many parts the data of an image has; each is one slice of a copy.
const parts = 4

// zeros is what a part holds that a guest has overwritten with zeros: they hide what is below.
const zeros = 10

// picture is the content of an image's file.
type picture struct {
	format, backing, backingFormat string
	capacity                       int64
	data                           [parts]byte // what each part holds; 0 = nothing
	room                           [parts]bool // is allocated
	bitmaps                        string      // names, each with a comma
	compat                         string      // "" = 1.1
}

// end is where a part ends in the virtual disk.
func (p picture) end(part int) int64 { return p.capacity * int64(part+1) / parts }

// memImages are the files of images in memory.
type memImages struct {
	*hand
	world *world
}

// memWorker stands for the processes of one operation. What they do is done by the goroutine that waits for them, but only
// while they live.
type memWorker struct {
	world *world
	task  string
	what  string
	gone  chan struct{}
	once  sync.Once
}

func (w *memWorker) Pids() []int           { return []int{4711} }
func (w *memWorker) Describe() []string    { return []string{w.what} }
func (w *memWorker) Terminate()            { w.end() }
func (w *memWorker) Kill()                 { w.end() }
func (w *memWorker) Gone() <-chan struct{} { return w.gone }
func (w *memWorker) end() {
	w.once.Do(func() {
		w.world.forget(w)
		close(w.gone)
	})
}

func (w *memWorker) ended() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// by starts a worker and lets f do what it does. It has the leases that its task has.
func (m memImages) by(ctx context.Context, w work, what string, f func(*hand) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	worker := &memWorker{world: m.world, task: w.TaskID(), what: what, gone: make(chan struct{})}
	if err := m.pass("start "+what, func(*disk) { m.world.remember(worker) }); err != nil {
		return err
	}
	w.Attach(worker)
	hand := *m.hand
	hand.worker = worker
	err := f(&hand)
	worker.end()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// see returns what is in an image's file.
func (m memImages) see(name string) (inode, picture, error) {
	ino, n := m.disk.lookup(name)
	if n == nil {
		return 0, picture{}, code.Errorf(code.ImageVerification, "%s cannot be opened", name)
	}
	p, ok := n.data.(picture)
	if !ok {
		return 0, picture{}, code.Errorf(code.ImageVerification, "%s is no image", name)
	}
	return ino, p, nil
}

func (m memImages) Importable(name string) error {
	if _, n := m.disk.lookup(name); n == nil {
		return code.Errorf(code.InvalidParameter, "the file to import cannot be read")
	}
	return nil
}

func (m memImages) Verify(_ context.Context, _ work, img qemuimg.Image, want qemuimg.Expect) (qemuimg.Info, error) {
	_, p, err := m.see(img.Path)
	if err == nil && (p.format != img.Format || p.backing != want.Backing) {
		err = code.Errorf(code.ImageVerification, "%s is a %s over %q, not a %s over %q", img.Path, p.format, p.backing, img.Format, want.Backing)
	}
	return qemuimg.Info{VirtualSize: p.capacity, Format: p.format, Backing: p.backing}, err
}

func (m memImages) Info(_ context.Context, _ work, img qemuimg.Image) (info qemuimg.Info, err error) {
	_, p, err := m.see(img.Path)
	info.Compat = cmp.Or(p.compat, qemuimg.Compat11)
	info.VirtualSize, info.Backing = p.capacity, p.backing
	name := ""
	for _, c := range p.bitmaps {
		if c != ',' {
			name += string(c)
			continue
		}
		info.Bitmaps = append(info.Bitmaps, qemuimg.Bitmap{Name: strings.TrimSuffix(name, "+"), Enabled: true})
		name = ""
	}
	return info, err
}

func (m memImages) Measure(_ context.Context, _ work, img qemuimg.Image, _ string) (qemuimg.Size, error) {
	_, p, err := m.see(img.Path)
	return qemuimg.Size{Required: p.capacity}, err
}

func (m memImages) Create(ctx context.Context, w work, c qemuimg.CreateSpec) error {
	return m.by(ctx, w, "qemu-img create", func(h *hand) error {
		dir, parent := h.disk.lookup(path.Dir(c.Path))
		if parent == nil {
			return code.Errorf(code.VolumeCreation, "there is no directory for %s", c.Path)
		}
		ino, old := h.disk.lookup(c.Path)
		h.leased(c.Path)
		fill := func(n *node) {
			n.data = picture{format: c.Format, capacity: c.Capacity, backing: c.Backing, backingFormat: c.BackingFormat}
		}
		return h.effect("make the file", func(d *disk) []change {
			if old != nil {
				return []change{d.fill(ino, fill)}
			}
			d.last++
			named, made := d.link(dir, path.Base(c.Path), d.last), d.last
			link := named.apply
			named.apply = func(s state) { // a new file has its first mode when it has its name, if it got no other before that was safe
				link(s)
				if n := s.at(made); n.mode == 0 {
					n.mode = 0o644
				}
			}
			return []change{named, d.fill(made, fill)}
		})
	})
}

func (m memImages) External(name string) (bool, error) {
	_, n := m.disk.lookup(name)
	return n != nil, nil
}

func (m memImages) CreateExternal(ctx context.Context, w work, c qemuimg.CreateSpec) error {
	if err := m.Create(ctx, w, c); err != nil {
		return err
	}
	if err := m.sync("the image", c.Path); err != nil {
		return err
	}
	return m.sync("its directory", path.Dir(c.Path))
}

// edit changes an image's file, unsynced.
func (h *hand) edit(what, name string, f func(p *picture)) error {
	ino, n := h.disk.lookup(name)
	if n == nil {
		return noFile(name)
	}
	h.leased(name)
	return h.effect(what, func(d *disk) []change {
		return []change{d.fill(ino, func(n *node) {
			p, ok := n.data.(picture)
			if ok {
				f(&p)
				n.data = p
			}
		})}
	})
}

func (m memImages) AddBitmap(ctx context.Context, w work, img qemuimg.Image, name string, _ int64) error {
	return m.by(ctx, w, "qemu-img bitmap", func(h *hand) error {
		if err := h.edit("add a bitmap", img.Path, func(p *picture) { p.bitmaps += name + "," }); err != nil {
			return err
		}
		return h.sync("the bitmap", img.Path)
	})
}

func (m memImages) RemoveBitmap(ctx context.Context, w work, img qemuimg.Image, name string) error {
	return m.by(ctx, w, "qemu-img bitmap", func(h *hand) error {
		_, p, err := m.see(img.Path)
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Split(p.bitmaps, ","), name) {
			return code.Errorf(code.Storage, "there is no bitmap %s", name)
		}
		err = h.edit("remove a bitmap", img.Path, func(p *picture) {
			p.bitmaps = strings.Join(slices.DeleteFunc(strings.SplitAfter(p.bitmaps, ","), func(b string) bool { return b == name+"," }), "")
		})
		if err != nil {
			return err
		}
		return h.sync("the bitmaps", img.Path)
	})
}

func (m memImages) MergeBitmap(ctx context.Context, w work, img qemuimg.Image, name string, source qemuimg.Image) error {
	return m.by(ctx, w, "qemu-img bitmap", func(h *hand) error {
		_, from, err := m.see(source.Path)
		if err != nil {
			return err
		}
		_, into, err := m.see(img.Path)
		if err != nil {
			return err
		}
		if !bitmapIn(from, name) || !bitmapIn(into, name) {
			return code.Errorf(code.Storage, "bitmap %s is not in both of %s and %s", name, source.Path, img.Path)
		}
		err = h.edit("merge a bitmap", img.Path, func(p *picture) {
			p.bitmaps = strings.Replace(strings.Replace(p.bitmaps, name+"+,", name+",", 1), name+",", name+"+,", 1)
		})
		if err != nil {
			return err
		}
		return h.sync("the bitmap", img.Path)
	})
}

// bitmapIn says whether an image has a bitmap. One that another was merged into has a + behind its name.
func bitmapIn(p picture, name string) bool {
	return strings.Contains(p.bitmaps, name+",") || strings.Contains(p.bitmaps, name+"+,")
}

func (m memImages) Rebase(ctx context.Context, w work, img qemuimg.Image, backing, format string) error {
	return m.by(ctx, w, "qemu-img rebase", func(h *hand) error {
		return h.edit("write the header", img.Path, func(p *picture) { p.backing, p.backingFormat = backing, format })
	})
}

func (m memImages) Commit(ctx context.Context, w work, img qemuimg.Image) error {
	_, top, err := m.see(img.Path)
	if err != nil {
		return err
	}
	return m.by(ctx, w, "qemu-img commit", func(h *hand) error {
		for part, value := range top.data {
			if value == 0 {
				continue
			}
			if m.world.full(part) {
				return code.Errorf(code.NoSpaceLeftOnDomain, "the file system is full")
			}
			err := h.edit("commit "+strconv.Itoa(part), img.Backing[0].Path, func(p *picture) { p.data[part] = value })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (m memImages) Amend(ctx context.Context, w work, img qemuimg.Image, compat string) error {
	return m.by(ctx, w, "qemu-img amend", func(h *hand) error {
		if err := h.edit("amend", img.Path, func(p *picture) { p.compat = compat }); err != nil {
			return err
		}
		return h.sync("the amended image", img.Path)
	})
}

// fill does part after part, each with a sync and a checkpoint.
func (m memImages) fill(ctx context.Context, w work, what, name string, capacity int64, last *copy.FillState, f func(p *picture, part int)) error {
	return m.by(ctx, w, what, func(h *hand) error {
		for part := 1; part < parts; part += 2 {
			end := capacity * int64(part+1) / parts
			if last != nil && end <= last.Next {
				continue
			}
			err := h.edit(what+" "+strconv.Itoa(part), name, func(p *picture) { f(p, part-1); f(p, part) })
			if err != nil {
				return err
			}
			if err := h.sync(what+" "+strconv.Itoa(part), name); err != nil {
				return err
			}
			if err := w.Checkpoint(copy.FillState{Next: end, Done: end}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m memImages) Allocate(ctx context.Context, w work, img qemuimg.Image, capacity int64, last *copy.FillState) error {
	return m.fill(ctx, w, "allocate", img.Path, capacity, last, func(p *picture, part int) {
		p.room[part] = true
		p.capacity = max(p.capacity, capacity*int64(part+1)/parts)
	})
}

func (m memImages) Grow(ctx context.Context, w work, img qemuimg.Image, capacity int64) error {
	return m.resize(ctx, w, img, "grow", capacity)
}

func (m memImages) Shrink(ctx context.Context, w work, img qemuimg.Image, capacity int64) error {
	return m.resize(ctx, w, img, "shrink", capacity)
}

func (m memImages) resize(ctx context.Context, w work, img qemuimg.Image, what string, capacity int64) error {
	return m.by(ctx, w, "qemu-img resize", func(h *hand) error {
		return h.edit(what+" the image", img.Path, func(p *picture) { p.capacity = capacity })
	})
}

func (m memImages) Zero(ctx context.Context, w work, name string, last *copy.FillState) error {
	return m.fill(ctx, w, "wipe", name, 1<<20, last, func(p *picture, part int) { p.data[part] = 0 })
}

// Sparsify frees the parts that hold zeros, which stay written.
func (m memImages) Sparsify(ctx context.Context, w work, img qemuimg.Image, last *copy.FillState) error {
	_, p, err := m.see(img.Path)
	if err != nil {
		return err
	}
	if last == nil {
		last = &copy.FillState{}
		if err := w.Checkpoint(*last); err != nil {
			return err
		}
	}
	return m.by(ctx, w, "qemu-nbd", func(*hand) error {
		return m.fill(ctx, w, "free", img.Path, p.capacity, last, func(p *picture, part int) {
			if p.data[part] == zeros {
				p.room[part] = false
			}
		})
	})
}

func (m memImages) Leasable() error { return nil }

func (m memImages) FormatLease(ctx context.Context, w work, a domain.Area) error {
	return m.by(ctx, w, "sanlock direct init", func(h *hand) error {
		ino, n := h.disk.lookup(a.Path)
		if n == nil {
			return noFile(a.Path)
		}
		return h.effect("format the lease", func(d *disk) []change {
			return []change{d.fill(ino, func(n *node) { n.data = a.Lockspace + ":" + a.Resource })}
		})
	})
}

// Copy is copy.Run.
func (m memImages) Copy(ctx context.Context, w work, spec copy.Spec, last *copy.State) error {
	if last != nil && last.Complete {
		return nil
	}
	data, sources, err := m.read(spec)
	if err != nil {
		return err
	}
	return m.by(ctx, w, "the copy", func(h *hand) error {
		if last != nil && !last.Over && slices.Equal(last.Sources, sources) {
			return m.slices(h, w, spec, data, *last)
		}
		blank, over := spec.Dest.New, last != nil
		if last == nil && !blank {
			_, p, err := m.see(spec.Dest.Path)
			if err != nil {
				return err
			}
			blank = p.data == [parts]byte{}
			over = !blank && len(spec.Source.Backing) > 0 && len(spec.Dest.Backing) > 0
		}
		if over {
			if err := w.Checkpoint(copy.State{Over: true}); err != nil {
				return err
			}
			if err := spec.Recreate(ctx); err != nil {
				return err
			}
			blank = true
		}
		state := copy.State{Blank: blank, Sources: sources}
		if err := w.Checkpoint(state); err != nil {
			return err
		}
		return m.slices(h, w, spec, data, state)
	})
}

func (m memImages) slices(h *hand, w work, spec copy.Spec, data [parts]byte, state copy.State) error {
	whole := picture{capacity: spec.Capacity}
	for part, value := range data {
		if value == 0 && state.Blank || whole.end(part) <= state.Next {
			continue
		}
		if m.world.full(part) {
			return code.Errorf(code.NoSpaceLeftOnDomain, "the file system is full")
		}
		what := "slice " + strconv.Itoa(part)
		err := h.edit("write "+what, spec.Dest.Path, func(p *picture) { p.data[part], p.room[part] = value, true })
		if err != nil {
			return err
		}
		if err := h.sync(what, spec.Dest.Path); err != nil {
			return err
		}
		state.Next, state.Done = whole.end(part), state.Done+whole.capacity/parts
		w.Progress(state.Done, whole.capacity)
		if err := w.Checkpoint(state); err != nil {
			return err
		}
	}
	if spec.Bitmaps {
		if err := m.copyBitmaps(h, spec); err != nil {
			return err
		}
	}
	state.Complete = true
	return w.Checkpoint(state)
}

// copyBitmaps adds each bitmap of the source anew, empty, and then fills it: an empty one has a question mark.
func (m memImages) copyBitmaps(h *hand, spec copy.Spec) error {
	_, from, err := m.see(spec.Source.Path)
	if err != nil {
		return err
	}
	_, to, err := m.see(spec.Dest.Path)
	if err != nil {
		return err
	}
	change := func(what, old, name string) error {
		err := h.edit(what, spec.Dest.Path, func(p *picture) {
			p.bitmaps = name + strings.ReplaceAll(p.bitmaps, old, "")
		})
		if err != nil {
			return err
		}
		return h.sync(what, spec.Dest.Path)
	}
	for name := range strings.SplitAfterSeq(from.bitmaps, ",") {
		if name == "" {
			continue
		}
		empty := "?" + name
		if strings.Contains(to.bitmaps, name) {
			if err := change("remove a bitmap", strings.Repeat("?", strings.Count(to.bitmaps, empty))+name, ""); err != nil {
				return err
			}
		}
		if err := change("add a bitmap", empty, empty); err != nil {
			return err
		}
		if err := change("merge a bitmap", empty, name); err != nil {
			return err
		}
	}
	return nil
}

// read returns what the destination is to hold, and how the sources are now.
func (m memImages) read(spec copy.Spec) (data [parts]byte, sources []copy.Fingerprint, err error) {
	layers := append([]copy.Layer{{Path: spec.Source.Path, Format: spec.Source.Format}}, spec.Source.Backing...)
	for i, l := range layers {
		_, p, err := m.see(l.Path)
		if err != nil {
			return data, nil, err
		}
		_, n := m.disk.lookup(l.Path)
		sources = append(sources, copy.Fingerprint{Size: p.capacity, Mtime: n.mtime})
		if i > 0 && len(spec.Dest.Backing) > 0 {
			continue // only what the overlay holds itself
		}
		for part, value := range p.data {
			if data[part] == 0 {
				data[part] = value
			}
		}
	}
	return data, sources, nil
}

var (
	_ images        = memImages{}
	_ domains       = memDomains{}
	_ storageDomain = memDomain{}
	_ trash         = memTrash{}
)
