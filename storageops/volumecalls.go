package storageops

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"

	"github.com/google/uuid"
)

// answerWithin is how long a verb that is answered at once may have a worker. Engines wait for three minutes.
const answerWithin = 2 * time.Minute

// errand is the work of a verb that is answered at once: its workers die with ctx, and it has no checkpoints and no limit.
type errand struct {
	ctx context.Context //nolint:containedctx // of one request
	id  string
}

func newErrand(ctx context.Context) (errand, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	return errand{ctx, uuid.NewString()}, cancel
}

func (e errand) TaskID() string        { return e.id }
func (e errand) Attach(w tasks.Worker) { context.AfterFunc(e.ctx, w.Kill) }
func (errand) Checkpoint(any) error    { return nil }
func (errand) Progress(int64, int64)   {}
func (errand) Limit() int64            { return 0 }
func (p volumeParams) volume() volumeRef {
	return volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}
}

// imageLock is the lock of what changes a volume's metadata at once.
func imageLock(raw json.RawMessage) ([]tasks.Lock, error) {
	var p struct {
		Domain param.UUID `json:"storagedomainID"`
		Image  param.UUID `json:"imageID"`
	}
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	return []tasks.Lock{domainShared(string(p.Domain)), imageExclusive(string(p.Domain), string(p.Image))}, nil
}

// changeMeta changes a volume's metadata by one write.
func (st *Storage) changeMeta(p volumeParams, change func(*domain.VolumeMeta)) error {
	if err := st.ofPool(p.Pool); err != nil {
		return err
	}
	d, err := st.registry.Get(string(p.Domain))
	if err != nil {
		return err
	}
	return d.UpdateVolumeMeta(string(p.Image), string(p.Volume), func(m *domain.VolumeMeta) error { change(m); return nil })
}

type describeVolumeParams struct {
	volumeParams
	Description string `json:"description"`
}

func (st *Storage) describeVolume(_ context.Context, raw json.RawMessage) (any, error) {
	var p describeVolumeParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	return nil, st.changeMeta(p.volumeParams, func(m *domain.VolumeMeta) { m.Description = p.Description })
}

type legalityParams struct {
	volumeParams
	Legality string `json:"legality" doc:"LEGAL or ILLEGAL"`
}

func (st *Storage) setLegality(_ context.Context, raw json.RawMessage) (any, error) {
	var p legalityParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	if p.Legality != domain.Legal && p.Legality != domain.Illegal {
		return nil, code.Errorf(code.InvalidParameter, "parameter \"legality\": %q is none of LEGAL, ILLEGAL", p.Legality)
	}
	return nil, st.changeMeta(p.volumeParams, func(m *domain.VolumeMeta) { m.Legality = p.Legality })
}

// refreshVolume has nothing to refresh where volumes are files; it says whether the volume is there.
func (st *Storage) refreshVolume(_ context.Context, raw json.RawMessage) (any, error) {
	_, _, _, err := st.look(raw)
	return nil, err
}

// measured is VDSM's answer, in bytes.
type measured struct {
	Required       int64 `json:"required"`
	FullyAllocated int64 `json:"fully-allocated"`
	Bitmaps        int64 `json:"bitmaps,omitempty"`
}

type measureParams struct {
	volumeParams
	Format param.Format `json:"dstVolFormat"`
	Chain  param.Bool   `json:"backing_chain" default:"true" doc:"measure the volume with its chain, as one that has none"`
	Base   param.UUID   `json:"baseID" default:"" doc:"count only what is above this volume of the chain"`
}

func (st *Storage) measureVolume(ctx context.Context, raw json.RawMessage) (any, error) {
	var p measureParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	w, cancel := newErrand(ctx)
	defer cancel()
	source, _, err := st.volumeSource(w.ctx, w, p.volume())
	if err != nil {
		return nil, err
	}
	img := source.image()
	switch {
	case !bool(p.Chain):
		img = img.Alone()
	case !p.Base.IsBlank():
		i := slices.IndexFunc(img.Backing, func(l qemuimg.Layer) bool { return path.Base(l.Path) == string(p.Base) })
		if i < 0 {
			return nil, code.Errorf(code.VolumeDoesNotExist, "volume %s is not below %s in its chain", p.Base, p.volume())
		}
		img.Backing = img.Backing[:i]
	}
	size, err := st.images.Measure(w.ctx, w, img, imageFormat(string(p.Format)))
	return measured(size), err
}

// imageInfo is VDSM's answer: what qemu-img says of the file.
type imageInfo struct {
	Format      string        `json:"format"`
	VirtualSize int64         `json:"virtualsize"`
	ClusterSize int64         `json:"clustersize,omitempty"`
	Backing     string        `json:"backingfile,omitempty"`
	Compat      string        `json:"compat,omitempty"`
	Bitmaps     []imageBitmap `json:"bitmaps,omitempty"`
}

type imageBitmap struct {
	Name        string   `json:"name"`
	Granularity int64    `json:"granularity"`
	Flags       []string `json:"flags"`
}

func (st *Storage) qemuInfo(ctx context.Context, raw json.RawMessage) (any, error) {
	var p volumeParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	link, err := st.link(p)
	if err != nil {
		return nil, err
	}
	img := qemuimg.Image{Path: link.Path, Format: imageFormat(link.Meta.Format), Shared: true} // also while a guest writes it
	w, cancel := newErrand(ctx)
	defer cancel()
	info, err := st.images.Info(w.ctx, w, img)
	if err != nil {
		return nil, err
	}
	out := imageInfo{Format: info.Format, VirtualSize: info.VirtualSize, ClusterSize: info.ClusterSize, Backing: info.Backing, Compat: info.Compat}
	for _, b := range info.Bitmaps {
		flags := []string{}
		if b.Enabled {
			flags = append(flags, "auto")
		}
		if b.InUse {
			flags = append(flags, "in-use")
		}
		out.Bitmaps = append(out.Bitmaps, imageBitmap{b.Name, b.Granularity, flags})
	}
	return out, nil
}

// verifyUntrusted proves that a volume's file, which a client may have filled, is what its metadata says (484).
func (st *Storage) verifyUntrusted(ctx context.Context, raw json.RawMessage) (any, error) {
	var p volumeParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	chain, err := d.Chain(string(p.Image), string(p.Volume))
	if err != nil {
		return nil, err
	}
	w, cancel := newErrand(ctx)
	defer cancel()
	m := chain[0].Meta
	info, err := st.images.Verify(w.ctx, w, qemuimg.Image{Path: chain[0].Path, Format: imageFormat(m.Format)}, expected(chain))
	if err == nil && info.VirtualSize != m.Capacity {
		err = code.Errorf(code.ImageVerification, "the volume's file has %d bytes for a guest, its metadata says %d", info.VirtualSize, m.Capacity)
	}
	return nil, err
}

// link is a volume with its file.
func (st *Storage) link(p volumeParams) (domain.ChainLink, error) {
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return domain.ChainLink{}, err
	}
	m, err := d.ReadVolume(string(p.Image), string(p.Volume))
	if err != nil {
		return domain.ChainLink{}, err
	}
	file, err := d.VolumePath(string(p.Image), string(p.Volume))
	return domain.ChainLink{Volume: string(p.Volume), Path: file, Meta: m}, err
}

type imageParams struct {
	Image  param.UUID `json:"imageID"`
	Pool   param.UUID `json:"storagepoolID" default:""`
	Domain param.UUID `json:"storagedomainID"`
}

func (st *Storage) imageVolumes(_ context.Context, raw json.RawMessage) (any, error) {
	var p imageParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	volumes, err := d.Volumes(string(p.Image))
	return orEmpty(volumes), err
}

type prepareParams struct {
	imageParams
	Leaf    param.UUID `json:"volumeID" default:"" doc:"the leaf; without it the image's only one"`
	Illegal param.Bool `json:"allowIllegal" default:"false"`
}

// prepared is the answer of Image.prepare.
type prepared struct {
	Path string `json:"path"`
}

// prepareImage says where a guest finds the image, once all of its chain is seen to be there and LEGAL. Files need nothing else.
func (st *Storage) prepareImage(_ context.Context, raw json.RawMessage) (any, error) {
	var p prepareParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	leaf := string(p.Leaf)
	if p.Leaf.IsBlank() {
		volumes, err := d.Volumes(string(p.Image))
		if err != nil {
			return nil, err
		}
		if leaf, err = leafOf(d, string(p.Image), volumes); err != nil {
			return nil, code.Errorf(code.Of(err), "%w; give volumeID", err)
		}
	}
	path, err := legalChain(d, string(p.Image), leaf, bool(p.Illegal))
	if err != nil {
		return nil, err
	}
	return prepared{path}, nil
}

// legalChain is the file of a leaf, once all of its chain is seen to be there, and LEGAL unless that does not matter.
func legalChain(d *domain.Domain, image, leaf string, illegal bool) (string, error) {
	chain, err := d.Chain(image, leaf)
	if err != nil {
		return "", err
	}
	for i, link := range chain {
		through := i > 0 && link.Meta.Merging // as the volume above always has read it
		if link.Meta.Legality == domain.Illegal && !through && !illegal {
			return "", code.Errorf(code.PrepareIllegalVolume, "volume %s of image %s is ILLEGAL: it was not completed, or is being deleted", link.Volume, image)
		}
	}
	return chain[0].Path, nil
}

// teardownImage has nothing to tear down where volumes are files.
func (st *Storage) teardownImage(_ context.Context, raw json.RawMessage) (any, error) {
	var p imageParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	_, err := st.registry.GetReadOnly(string(p.Domain))
	return nil, err
}

type reconcileParams struct {
	imageParams
	Leaf param.UUID `json:"leafVolID"`
}

// reconcileChain answers the chain as the files say it, base first. After a live merge whose end the agent did not see it can be
// another than the metadata says; it is the engine that then deletes what is in it no more.
func (st *Storage) reconcileChain(_ context.Context, raw json.RawMessage) (any, error) {
	var p reconcileParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	d, err := st.registry.GetReadOnly(string(p.Domain))
	if err != nil {
		return nil, err
	}
	chain, err := fileChain(d, string(p.Image), string(p.Leaf))
	if err != nil {
		return nil, err
	}
	slices.Reverse(chain)
	return chain, nil
}

// fileChain follows the backing files of a volume within its image, from the leaf down.
func fileChain(d *domain.Domain, image, leaf string) ([]string, error) {
	var chain []string
	for volume := leaf; volume != ""; {
		if slices.Contains(chain, volume) {
			return nil, code.Errorf(code.ImageIsNotLegalChain, "the files of image %s are a loop: %s comes twice", image, volume)
		}
		m, err := d.ReadVolume(image, volume)
		if err != nil {
			return nil, err
		}
		file, err := d.VolumePath(image, volume)
		if err != nil {
			return nil, err
		}
		chain = append(chain, volume)
		if m.Format != domain.FormatCOW {
			return chain, nil
		}
		backing, err := qemuimg.ReadBacking(file)
		if err != nil {
			return nil, err
		}
		volume = ""
		if backing != "" {
			if volume = path.Base(backing); !param.ValidUUID(volume) {
				return nil, code.Errorf(code.ImageVerification, "volume %s of image %s has the backing file %q, which is no volume of the domain", chain[len(chain)-1], image, backing)
			}
		}
	}
	return chain, nil
}
