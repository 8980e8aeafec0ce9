package storageops

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"

	"github.com/google/uuid"
)

// importParams are those of Volume.import, which is ours.
type importParams struct {
	Domain     param.UUID       `json:"storagedomainID"`
	Image      param.UUID       `json:"imageID" default:"" doc:"id of the new image; made up if it is not given"`
	Volume     param.UUID       `json:"volumeID" default:"" doc:"id of the new volume; made up if it is not given"`
	Path       string           `json:"path" doc:"absolute path of the file to import"`
	SrcFormat  param.Format     `json:"format" doc:"what the file is; it is never guessed"`
	Format     param.Format     `json:"volFormat" default:"" doc:"of the new volume; that of the file if it is not given"`
	Allocation param.Allocation `json:"preallocate" default:"SPARSE"`
	Desc       string           `json:"desc" default:""`
}

// complete fills in what was not given. Ids are made of the task's, so they are the same after a restart.
func (p *importParams) complete(task string) {
	madeUp := func(what string) param.UUID {
		return param.UUID(uuid.NewSHA1(uuid.NameSpaceOID, []byte(task+"/"+what)).String())
	}
	if p.Image.IsBlank() {
		p.Image = madeUp("image")
	}
	if p.Volume.IsBlank() {
		p.Volume = madeUp("volume")
	}
	if p.Format == "" {
		p.Format = p.SrcFormat
	}
}

func (st *Storage) importVolume() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Copy a file of this host to a new volume; the file is not trusted.",
		Name: "Volume.import", Params: importParams{}, Ours: true, Forward: true, Class: tasks.ClassCopy,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "destination gone", Revert: "to the trash", Bound: 10 * time.Second,
		},
		Plan: st.planImport,
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[importParams](raw, param.Strict)
			if err != nil {
				return err
			}
			if err := st.images.Importable(p.Path); err != nil {
				return err
			}
			d, err := st.writable(string(p.Domain))
			if err != nil {
				return err
			}
			if err := st.leasable(d); err != nil || p.Image.IsBlank() || p.Volume.IsBlank() {
				return err
			}
			return vacant(d, volumeRef{string(p.Domain), string(p.Image), string(p.Volume)})
		},
	}
}

func (p importParams) check() error {
	if !filepath.IsAbs(p.Path) {
		return code.Errorf(code.InvalidParameter, "parameter \"path\": %q is not an absolute path", p.Path)
	}
	return nil
}

func (st *Storage) planImport(id string, raw json.RawMessage) (*tasks.Plan, error) {
	p, err := decode[importParams](raw, param.Strict)
	if err != nil {
		return nil, err
	}
	p.complete(id)
	t := &target{
		st: st, task: id, volumeRef: volumeRef{string(p.Domain), string(p.Image), string(p.Volume)}, format: string(p.Format),
		allocation: string(p.Allocation), desc: p.Desc,
	}
	return &tasks.Plan{
		Tag:     tasks.TagLocal,
		Locks:   []tasks.Lock{tasks.TaskLock(id), domainShared(t.Domain), imageExclusive(t.Domain, t.Image)},
		Success: fmt.Sprintf("imported as %s", t.volumeRef),
		Steps: slices.Concat(
			[]tasks.Step{st.importCheck(t, p), t.imageStep()}, t.fileSteps(),
			[]tasks.Step{t.metadataStep(domain.Illegal), t.dataStep(), t.legalStep(domain.Leaf)},
		),
		Fingerprint: t.fingerprint, Unused: t.unused, Deferred: t.reclaim,
	}, nil
}

// importCheck looks at a file that nobody vouches for: given format, no other file named in it, structures sound.
func (st *Storage) importCheck(t *target, p importParams) tasks.Step {
	verify := func(ctx context.Context, s *tasks.Scope) (qemuimg.Info, error) {
		return st.images.Verify(ctx, s, qemuimg.Image{Path: p.Path, Format: imageFormat(string(p.SrcFormat))}, qemuimg.Expect{})
	}
	return tasks.Step{
		Name: stepCheck, Verify: true,
		Plan: func(ctx context.Context, s *tasks.Scope) (any, error) {
			d, err := st.writable(t.Domain)
			if err != nil {
				return nil, err
			}
			if err := vacant(d, t.volumeRef); err != nil {
				return nil, err
			}
			info, err := verify(ctx, s)
			if err != nil {
				return nil, err
			}
			if info.VirtualSize > param.MaxSize {
				return nil, code.Errorf(code.ImageVerification, "%s says that it has %s; a volume has at most %s", p.Path,
					binarySize(info.VirtualSize), binarySize(param.MaxSize))
			}
			m := made{
				Capacity: qemuimg.RoundCapacity(info.VirtualSize), Parent: domain.BlankUUID, DiskType: "DATA",
				Source: &from{Path: p.Path, Format: imageFormat(string(p.SrcFormat))},
			}
			if m.Capacity != info.VirtualSize {
				s.Log().Info().Int64("size", info.VirtualSize).Int64("capacity", m.Capacity).Msg("the size is rounded up to a multiple of 4096")
			}
			return m, st.measure(ctx, s, d, t, &m)
		},
		Do: func(ctx context.Context, s *tasks.Scope) error { // again at each resume
			if err := st.reach(ctx, s, t.Domain); err != nil {
				return err
			}
			_, err := verify(ctx, s)
			return err
		},
	}
}
