package storageops

import (
	"context"
	"encoding/json"
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// The names of steps over all volumes of a chain.
const (
	stepCopy  = "copy-data"
	stepLegal = "legal"
)

// chain is an image whose volumes a task makes, or fills, in another domain, each as itself. Which volumes there are is found out
// by the check step: so every step is about all of them, base first.
type chain struct {
	st       *Storage
	task     string
	image    string
	source   string // the domain that it is read from
	dest     string
	force    bool // what is in its place goes to the trash, also if it is LEGAL
	postZero bool // what the task puts into the trash is wiped before it is unlinked
}

// link is one volume of the plan.
type link struct {
	made
	Volume     string `json:"volume"`
	Format     string `json:"format"`
	Allocation string `json:"allocation"`
	Desc       string `json:"desc"`
	Sequence   int64  `json:"sequence"`
	VolType    string `json:"volType"` // when all is done

	// Was is what the metadata said of a volume that is there already.
	Was *linkWas `json:"was,omitempty"`
}

// linkWas is what a task finds of a volume that it fills.
type linkWas struct {
	Legality   string `json:"legality"`
	VolType    string `json:"volType"`
	Generation int    `json:"generation"`
}

// links is the plan of a chain's check step.
type links struct {
	Volumes  []link     `json:"volumes"`            // the image's own, base first
	Template *volumeRef `json:"template,omitempty"` // what the base is built on, in the destination
	Replaces bool       `json:"replaces,omitempty"` // an image is in its place and goes to the trash first
}

func (c *chain) destImage() volumeRef   { return volumeRef{Domain: c.dest, Image: c.image} }
func (c *chain) sourceImage() volumeRef { return volumeRef{Domain: c.source, Image: c.image} }

// locks are those of a task; source is that of the image that it reads.
func (c *chain) locks(source tasks.Lock) []tasks.Lock {
	return []tasks.Lock{
		tasks.TaskLock(c.task), domainShared(c.source), domainShared(c.dest), source, imageExclusive(c.dest, c.image),
	}
}

// planned reads what the check step found out.
func (c *chain) planned(s *tasks.Scope) (p links, err error) {
	found, err := s.PlanOf(stepCheck, &p)
	if err == nil && !found {
		err = code.Errorf(code.InternalError, "the check step has not run")
	}
	return p, err
}

// target is the ith volume of the plan as what makes a single one.
func (c *chain) target(p links, i int) *target {
	l := p.Volumes[i]
	return &target{
		st: c.st, task: c.task, volumeRef: volumeRef{c.dest, c.image, l.Volume}, format: l.Format, allocation: l.Allocation, desc: l.Desc,
		sequence: l.Sequence, internal: i < len(p.Volumes)-1, from: c.source, postZero: c.postZero, bitmaps: true, old: l.Was != nil,
		whole: p.data(),
	}
}

// data is how many bytes the volumes hold, about.
func (p links) data() (sum int64) {
	for _, l := range p.Volumes {
		sum += l.Measured
	}
	return sum
}

// each does the same to all volumes of the plan, base first.
func (c *chain) each(s *tasks.Scope, do func(t *target, l link) error) error {
	p, err := c.planned(s)
	if err != nil {
		return err
	}
	for i, l := range p.Volumes {
		if err := do(c.target(p, i), l); err != nil {
			return err
		}
	}
	return nil
}

// admit is what can be seen at once.
func (c *chain) admit() error {
	d, err := c.st.domains.Get(c.source)
	if err != nil {
		return err
	}
	if _, err := d.ImagePath(c.image); err != nil {
		return err
	}
	dest, err := c.st.writable(c.dest)
	if err != nil {
		return err
	}
	return c.st.leasable(dest)
}

// read proves that the image is one sound chain of LEGAL volumes, and returns it, base first, and the template's volume on which
// it is built, if there is one. which leaves out the volumes that the task does not touch: others may be writing them.
func (c *chain) read(ctx context.Context, w work, which param.SyncType) (own []link, template *domain.ChainLink, err error) {
	d, err := c.st.domains.Get(c.source)
	if err != nil {
		return nil, nil, err
	}
	all, err := wholeChain(d, c.image)
	if err != nil {
		return nil, nil, err
	}
	if which == param.SyncInternal {
		if all = all[1:]; len(all) == 0 || all[0].Meta.Image != c.image {
			return nil, nil, code.Errorf(code.ImageIsNotLegalChain, "%s has no internal volumes", c.sourceImage())
		}
	}
	for _, l := range all {
		if l.Meta.Legality == domain.Illegal {
			return nil, nil, code.Errorf(code.PrepareIllegalVolume, "%s is ILLEGAL: it was not completed or is being deleted; its image cannot be copied",
				volumeRef{c.source, c.image, l.Volume})
		}
	}
	layers, err := c.st.soundLayers(ctx, w, d, c.image, all)
	if err != nil {
		return nil, nil, err
	}
	for i, l := range all {
		if l.Meta.Image != c.image {
			if i < len(all)-1 || l.Meta.VolType != domain.Shared {
				return nil, nil, code.Errorf(code.ImageIsNotLegalChain, "volume %s in image %s says that it is of image %s and is no template", l.Volume, c.image, l.Meta.Image)
			}
			template = &all[i]
			break
		}
		if which == param.SyncLeaf && i > 0 {
			break
		}
		source := sourceOf(layers[i:])
		next := link{
			made:   made{Capacity: l.Meta.Capacity, Parent: domain.BlankUUID, DiskType: l.Meta.DiskType, Source: &source},
			Volume: l.Volume, Format: l.Meta.Format, Allocation: l.Meta.Type, Desc: l.Meta.Description, Sequence: l.Meta.Sequence,
			VolType: l.Meta.VolType,
		}
		if l.Meta.HasParent() {
			next.Parent, next.ParentFormat = l.Meta.PUUID, imageFormat(all[i+1].Meta.Format)
		}
		if err := c.st.sizeUp(ctx, w, &next.made); err != nil {
			return nil, nil, err
		}
		own = append(own, next)
	}
	slices.Reverse(own)
	return own, template, nil
}

// checkStep looks at the source and at the place for the copy, under the locks and without effects. data says that the volumes get their
// data too; more refuses what else cannot be done.
func (c *chain) checkStep(data bool, more func() error) tasks.Step {
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := c.st.writable(c.dest)
			if err != nil {
				return nil, err
			}
			var p links
			if p.Replaces, err = c.replaces(d); err != nil {
				return nil, err
			}
			own, template, err := c.read(ctx, s, param.SyncAll)
			if err != nil {
				return nil, err
			}
			p.Volumes = own
			if err := c.findTemplate(d, &p, template); err != nil {
				return nil, err
			}
			if err := more(); err != nil {
				return nil, err
			}
			var needs int64
			for _, l := range p.Volumes {
				holds := l.Measured
				if !data {
					holds = 0
				}
				needs += l.needs(l.Allocation, holds)
			}
			return p, enoughRoom(d, needs)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { return c.lookAgain(ctx, s, param.SyncAll) },
	}
}

// lookAgain is asked at each resume. Once all is copied the source is needed no more, and may be on its way to the trash.
func (c *chain) lookAgain(ctx context.Context, s *tasks.Scope, which param.SyncType) error {
	for _, id := range []string{c.source, c.dest} {
		if err := c.st.reach(ctx, s, id); err != nil {
			return err
		}
	}
	if s.Started(stepLegal) {
		return nil
	}
	_, _, err := c.read(ctx, s, which)
	return err
}

// findTemplate finds what the base is built on in the destination, where it must be already.
func (c *chain) findTemplate(d storageDomain, p *links, source *domain.ChainLink) error {
	if source == nil {
		return nil
	}
	ref := volumeRef{c.dest, source.Meta.Image, source.Volume}
	m, err := d.ReadVolume(ref.Image, ref.Volume)
	switch {
	case absent(err):
		return code.Errorf(code.ImageDoesNotExist, "image %s is derived from a template that is not in the destination: there is no %s; copy that there first", c.image, ref)
	case err != nil:
		return err
	case m.VolType != domain.Shared || m.Legality != domain.Legal || m.Capacity != source.Meta.Capacity:
		return code.Errorf(code.TemplateOnTarget, "%s is not the template that image %s is derived from: it is %s, %s and has %d bytes, not %d",
			ref, c.image, m.Legality, m.VolType, m.Capacity, source.Meta.Capacity)
	}
	p.Template, p.Volumes[0].ParentFormat = &ref, imageFormat(m.Format)
	return nil
}

// replaces says whether an image is in the place and goes to the trash first: with force, or when it has no whole volume, as a failed
// copy leaves it. Another one is refused (212), and so is a template that others are derived from (223).
func (c *chain) replaces(d storageDomain) (bool, error) {
	volumes, err := d.Volumes(c.image)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, v := range volumes {
		m, err := d.ReadVolume(c.image, v)
		switch {
		case c.force:
		case err != nil:
			return false, err
		case m.Image == c.image && m.Legality != domain.Illegal:
			return false, code.Errorf(code.VolumeAlreadyExists, "%s exists already; delete it or give force to replace it", volumeRef{c.dest, c.image, v})
		}
	}
	return true, notDerivedFrom(d, c.image, volumes)
}

// imageStep makes the image's directory, which was not there or is in the trash now. Its undo moves that to the trash with all that the
// task has put into it, by one rename.
func (c *chain) imageStep() tasks.Step {
	return tasks.Step{
		Name: stepImage, Undone: c.destImage().String() + " removed",
		Do: func(context.Context, *tasks.Scope) error {
			d, err := c.st.domains.Get(c.dest)
			if err == nil {
				_, err = d.CreateImageDir(c.image)
			}
			return err
		},
		Undo: func(context.Context, *tasks.Scope) error {
			d, err := c.st.domains.Get(c.dest)
			if err != nil {
				return err
			}
			err = d.Trash().Put(domain.Entry{Task: c.task, Label: labelMade, Image: c.image})
			if absent(err) {
				return nil // it was not made yet
			}
			return err
		},
	}
}

// shareStep links the template into the image.
func (c *chain) shareStep() tasks.Step {
	return tasks.Step{
		Name: "share-template",
		Do: func(_ context.Context, s *tasks.Scope) error {
			p, err := c.planned(s)
			if err != nil || p.Template == nil {
				return err
			}
			d, err := c.st.domains.Get(c.dest)
			if err != nil {
				return err
			}
			return d.ShareTemplate(p.Template.Image, p.Template.Volume, c.image)
		},
	}
}

// filesStep makes the files, empty.
func (c *chain) filesStep() tasks.Step {
	return tasks.Step{
		Name: "volumes",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			return c.each(s, func(t *target, l link) error {
				return c.st.holding(t.volumeRef, func(ctx context.Context, s *tasks.Scope) error { return t.makeFile(ctx, s, l.made) })(ctx, s)
			})
		},
	}
}

// allocateStep reserves the room of the preallocated ones.
func (c *chain) allocateStep() tasks.Step {
	return tasks.Step{
		Name: "allocate", Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := c.planned(s)
			if err != nil {
				return err
			}
			return inOrder(s, len(p.Volumes), nil, func(w work, i int, last *copy.FillState) error {
				t := c.target(p, i)
				if t.allocation != domain.Preallocated {
					return nil
				}
				return c.st.holding(t.volumeRef, func(ctx context.Context, _ *tasks.Scope) error { return t.allocate(ctx, w, p.Volumes[i].made, last) })(ctx, s)
			})
		},
	}
}

// metadataStep makes the volumes visible.
func (c *chain) metadataStep(legality string) tasks.Step {
	return tasks.Step{
		Name: "metadata",
		Do: func(ctx context.Context, s *tasks.Scope) error {
			return c.each(s, func(t *target, l link) error { return t.writeMeta(ctx, s, l.made, legality) })
		},
	}
}

// dataStep copies the volumes one after the other, each in slices. A checkpoint says which and how far.
func (c *chain) dataStep() tasks.Step {
	return tasks.Step{
		Name: stepCopy, Slices: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := c.planned(s)
			if err != nil {
				return err
			}
			weigh := func(i int) int64 { return p.Volumes[i].Measured }
			return inOrder(s, len(p.Volumes), weigh, func(w work, i int, last *copy.State) error {
				t, l := c.target(p, i), p.Volumes[i]
				switch {
				case last != nil:
					s.Log().Info().Str("volume", t.Volume).Int64("done", last.Done).Int64("total", last.Total).Msg("the copy goes on from its checkpoint")
				case l.Was != nil && l.Was.Legality == domain.Illegal:
					last = &copy.State{Over: true} // what it holds cannot be relied on
				}
				return c.st.holding(t.volumeRef, func(ctx context.Context, _ *tasks.Scope) error {
					return t.copyData(ctx, fenced{w, func() error { return l.still(t) }}, l.made, last)
				})(ctx, s)
			})
		},
		Check: func(_ context.Context, s *tasks.Scope) (bool, error) {
			p, err := c.planned(s)
			if err != nil {
				return false, err
			}
			var last part[copy.State]
			found, err := s.LastCheckpoint(&last)
			return found && last.Item == len(p.Volumes)-1 && last.State.Complete, err
		},
	}
}

// still refuses a volume that somebody else has claimed, as its metadata is now.
func (l link) still(t *target) error {
	d, err := t.domain()
	if err != nil {
		return err
	}
	m, err := d.ReadVolume(t.Image, t.Volume)
	if err != nil {
		return err
	}
	return l.unfenced(t.volumeRef, m)
}

// unfenced refuses a volume whose generation has moved (911).
func (l link) unfenced(v volumeRef, m domain.VolumeMeta) error {
	want := 0
	if l.Was != nil {
		want = l.Was.Generation
	}
	if m.Generation != want {
		return code.Errorf(code.GenerationMismatch, "%s has generation %d now, not %d: another host has taken it over", v, m.Generation, want)
	}
	return nil
}

// legalStep publishes the volumes, base first: all of them are whole.
func (c *chain) legalStep() tasks.Step {
	return tasks.Step{
		Name: stepLegal,
		Do: func(_ context.Context, s *tasks.Scope) error {
			return c.mark(s, true, func(l link) (string, string) { return domain.Legal, l.VolType })
		},
	}
}

// mark sets legality and place in the chain of the volumes; if they are published, only of those that are still the task's own.
func (c *chain) mark(s *tasks.Scope, publish bool, to func(l link) (legality, volType string)) error {
	return c.each(s, func(t *target, l link) error {
		d, err := t.domain()
		if err != nil {
			return err
		}
		return d.UpdateVolumeMeta(t.Image, t.Volume, func(m *domain.VolumeMeta) error {
			m.Legality, m.VolType = to(l)
			if publish {
				return l.unfenced(t.volumeRef, *m)
			}
			return nil
		})
	})
}

// fingerprint is what the volumes look like when the task finishes.
func (c *chain) fingerprint(_ context.Context, s *tasks.Scope) (any, error) {
	p, err := c.planned(s)
	if err != nil {
		return nil, err
	}
	d, err := c.st.domains.Get(c.dest)
	if err != nil {
		return nil, err
	}
	prints := chainPrint{map[string]domain.Fingerprint{}}
	for _, l := range p.Volumes {
		if prints.Volumes[l.Volume], err = d.Fingerprint(c.image, l.Volume); err != nil {
			return nil, err
		}
	}
	return prints, nil
}

// chainPrint is what an image looked like.
type chainPrint struct {
	Volumes map[string]domain.Fingerprint `json:"volumes"`
}

// unused refuses a revert if the image may have been used: more volumes than the task has made, a derived image, or any change of their
// files.
func (c *chain) unused(_ context.Context, s *tasks.Scope, raw json.RawMessage) error {
	var then chainPrint
	if err := json.Unmarshal(raw, &then); err != nil {
		return code.Errorf(code.TaskState, "what the image looked like cannot be read, so it cannot be shown to be unused: %w", err)
	}
	p, err := c.planned(s)
	if err != nil {
		return err
	}
	d, err := c.st.writable(c.dest)
	if err != nil {
		return err
	}
	volumes, err := d.Volumes(c.image)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if _, ours := then.Volumes[v]; !ours && (p.Template == nil || v != p.Template.Volume) {
			return code.Errorf(code.TaskState, "%s was made since the task finished, so the image is in use", volumeRef{c.dest, c.image, v})
		}
	}
	if err := notDerivedFrom(d, c.image, volumes); err != nil {
		return code.Errorf(code.TaskState, "%w", err)
	}
	for _, l := range p.Volumes {
		now, err := d.Fingerprint(c.image, l.Volume)
		if err != nil {
			return err
		}
		if what := then.Volumes[l.Volume].Differs(now); what != "" {
			return code.Errorf(code.TaskState, "%s was changed since the task finished (%s), so it may be in use", volumeRef{c.dest, c.image, l.Volume}, what)
		}
	}
	return nil
}

// wholeChain is all of an image's volumes in the order of their chain, leaf first, down to the template's. An image that is
// anything else than one chain is refused (262).
func wholeChain(d storageDomain, image string) ([]domain.ChainLink, error) {
	volumes, err := d.Volumes(image)
	if err != nil {
		return nil, err
	}
	leaf, err := leafOf(d, image, volumes)
	if err != nil {
		return nil, err
	}
	chain, err := d.Chain(image, leaf)
	if err == nil && len(chain) != len(volumes) {
		err = code.Errorf(code.ImageIsNotLegalChain, "image %s has %d volumes and the chain of its leaf %s has %d", image, len(volumes), leaf, len(chain))
	}
	return chain, err
}

// leafOf is the one of an image's volumes that no other is built on.
func leafOf(d interface {
	ReadVolume(image, volume string) (domain.VolumeMeta, error)
}, image string, volumes []string) (string, error) {
	leaves := slices.Clone(volumes)
	for _, v := range volumes {
		m, err := d.ReadVolume(image, v)
		if err != nil {
			return "", err
		}
		leaves = slices.DeleteFunc(leaves, func(l string) bool { return l == m.PUUID })
	}
	switch len(leaves) {
	case 1:
		return leaves[0], nil
	case 0:
		return "", code.Errorf(code.ImageIsNotLegalChain, "image %s has no leaf", image)
	}
	return "", code.Errorf(code.ImageIsNotLegalChain, "image %s has more than one leaf, such as %s and %s", image, leaves[0], leaves[1])
}
