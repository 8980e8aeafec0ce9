package storageops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/tasks"
)

// command is a job that changes the file of a qcow2 volume by qemu-img, and then its generation. From its start on it is completed,
// whatever happens, unless qemu-img refuses it: one that was ended in the middle leaves bitmaps that cannot be used any more.
type command struct {
	*job
	failed code.Code // when qemu-img refuses
	// possible refuses what can be seen to be in vain.
	possible func(info qemuimg.Info) error
	run      func(ctx context.Context, w work, img qemuimg.Image) error
	// there says whether it has been done.
	there func(info qemuimg.Info) bool
	done  string // what has been done then
}

// stepCommand is the name of the step.
const stepCommand = "command"

// commandVerb is the verb of such jobs. Their parameters have vol_info.
func commandVerb[P interface {
	check() error
	volume() divInfo
}](st *Storage, name, doc string, of func(P) command) *tasks.Verb {
	var none P
	return st.jobVerb(&tasks.Verb{
		Role: access.Operate, Name: name, Doc: doc, Params: none, Forward: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{CancellableUntil: "started", PointOfNoReturn: stepCommand, Undo: "not started", Bound: 10 * time.Second},
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[P](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			c := of(p)
			c.job = st.jobOn(p.volume())
			return &tasks.Plan{
				Tag: tasks.TagSDM, Locks: c.locks(), Success: c.done, Steps: []tasks.Step{c.checkStep(c.look), c.commandStep(), c.generationStep(c.done)},
			}, nil
		},
	}, func(raw json.RawMessage) (divInfo, error) {
		p, err := decode[P](raw, param.Lenient)
		return p.volume(), err
	})
}

// commandPlan is what the check finds.
type commandPlan struct {
	jobPlan
	Image from `json:"image"`
}

func (c command) look(ctx context.Context, s *tasks.Scope, _ storageDomain, m domain.VolumeMeta) (any, error) {
	if m.Format != domain.FormatCOW {
		return nil, code.Errorf(code.Unsupported, "%s is %s; this can only be done with a volume of format COW", c.volumeRef, m.Format)
	}
	source, m, err := c.st.volumeSource(ctx, s, c.volumeRef)
	if err != nil {
		return nil, err
	}
	info, err := c.st.images.Info(ctx, s, source.image().Alone())
	if err == nil {
		err = c.possible(info)
	}
	return commandPlan{jobPlanOf(m), source}, err
}

func (c command) commandStep() tasks.Step {
	return tasks.Step{
		Name: stepCommand, PointOfNoReturn: true,
		Do: func(ctx context.Context, s *tasks.Scope) error {
			p, err := planned[commandPlan](s)
			if err != nil {
				return err
			}
			return c.leased(ctx, s, func(storageDomain) error {
				if err := c.still(p.jobPlan); err != nil {
					return err
				}
				return c.runOnce(ctx, s, p.Image.image())
			})
		},
		Check: func(ctx context.Context, s *tasks.Scope) (bool, error) {
			p, err := planned[commandPlan](s)
			if err != nil {
				return false, err
			}
			return c.isThere(ctx, s, p.Image.image())
		},
		Refused: func(err error) bool {
			return refusesJob(err) || code.Of(err) == code.AcquireLock || refusedByProgram(err)
		},
	}
}

// runOnce runs the command, and does not take its word for it: qemu-img writes bitmaps when it closes the image, and does not say
// when that fails.
func (c command) runOnce(ctx context.Context, w work, img qemuimg.Image) error {
	if err := c.run(ctx, w, img); err != nil {
		if code.Of(err) == code.Storage {
			err = code.Errorf(c.failed, "%w", err)
		}
		return err
	}
	there, err := c.isThere(ctx, w, img)
	if err == nil && !there {
		err = code.Errorf(c.failed, "qemu-img has ended without an error, and yet of %s it cannot be seen that %s", img.Path, c.done)
	}
	return err
}

func (c command) isThere(ctx context.Context, w work, img qemuimg.Image) (bool, error) {
	info, err := c.st.images.Info(ctx, w, img.Alone())
	return err == nil && c.there(info), err
}

// refusedByProgram says whether a program has ended by itself and said no. That of a full file system may be asked again.
func refusedByProgram(err error) bool {
	var exit *proc.ExitError
	return errors.As(err, &exit) && exit.Signal == 0 && code.Of(err) != code.NoSpaceLeftOnDomain
}

// onVolume are the parameters of a job that needs no others.
type onVolume struct {
	Volume divInfo `json:"vol_info" doc:"the volume, and the generation that it must have"`
}

func (p onVolume) volume() divInfo { return p.Volume }

func (p onVolume) check() error {
	if err := p.Volume.check(); err != nil {
		return code.Errorf(code.InvalidParameter, "parameter \"vol_info\": %w", err)
	}
	return nil
}

// bitmapParams are those of SDM.add_bitmap and SDM.remove_bitmap.
type bitmapParams struct {
	onVolume
	Bitmap string `json:"bitmap" doc:"its name"`
}

// maxBitmapName is the longest name in bytes that QEMU takes.
const maxBitmapName = 1023

func (p bitmapParams) check() error {
	if p.Bitmap == "" || len(p.Bitmap) > maxBitmapName {
		return code.Errorf(code.InvalidParameter, "parameter \"bitmap\": the name of a bitmap has 1 to %d bytes", maxBitmapName)
	}
	return p.onVolume.check()
}

func hasBitmap(info qemuimg.Info, name string) bool {
	return slices.ContainsFunc(info.Bitmaps, func(b qemuimg.Bitmap) bool { return b.Name == name })
}

func (st *Storage) addBitmap() *tasks.Verb {
	return commandVerb(st, "SDM.add_bitmap", "Add a bitmap to a volume, which records from then on what is written, as a job.", func(p bitmapParams) command {
		return command{
			failed: code.AddBitmap, done: fmt.Sprintf("bitmap %s was added", p.Bitmap),
			possible: func(info qemuimg.Info) error {
				switch {
				case hasBitmap(info, p.Bitmap):
					return code.Errorf(code.AddBitmap, "volume %s has a bitmap %s already; choose another name or remove it", p.Volume.Volume, p.Bitmap)
				case info.Compat == qemuimg.Compat010:
					return code.Errorf(code.Unsupported, "volume %s is of the version %s of its format, which has no bitmaps; amend it to %s", p.Volume.Volume, info.Compat, qemuimg.Compat11)
				}
				return nil
			},
			run: func(ctx context.Context, w work, img qemuimg.Image) error {
				return st.images.AddBitmap(ctx, w, img, p.Bitmap, 0)
			},
			there: func(info qemuimg.Info) bool {
				return slices.ContainsFunc(info.Bitmaps, func(b qemuimg.Bitmap) bool { return b.Name == p.Bitmap && !b.InUse })
			},
		}
	})
}

func (st *Storage) removeBitmap() *tasks.Verb {
	return commandVerb(st, "SDM.remove_bitmap", "Remove a bitmap of a volume, as a job.", func(p bitmapParams) command {
		return command{
			failed: code.RemoveBitmap, done: fmt.Sprintf("bitmap %s was removed", p.Bitmap),
			possible: func(info qemuimg.Info) error {
				if !hasBitmap(info, p.Bitmap) {
					return code.Errorf(code.RemoveBitmap, "volume %s has no bitmap %s", p.Volume.Volume, p.Bitmap)
				}
				return nil
			},
			run: func(ctx context.Context, w work, img qemuimg.Image) error {
				return st.images.RemoveBitmap(ctx, w, img, p.Bitmap)
			},
			there: func(info qemuimg.Info) bool { return !hasBitmap(info, p.Bitmap) },
		}
	})
}

func (st *Storage) clearBitmaps() *tasks.Verb {
	return commandVerb(st, "SDM.clear_bitmaps", "Remove all bitmaps of a volume, also those that cannot be used any more, as a job.", func(onVolume) command {
		return command{
			failed: code.RemoveBitmap, done: "all bitmaps were removed",
			possible: func(qemuimg.Info) error { return nil },
			run: func(ctx context.Context, w work, img qemuimg.Image) error {
				info, err := st.images.Info(ctx, w, img.Alone())
				if err != nil {
					return err
				}
				for _, b := range info.Bitmaps {
					if err := st.images.RemoveBitmap(ctx, w, img, b.Name); err != nil {
						return err
					}
				}
				return nil
			},
			there: func(info qemuimg.Info) bool { return len(info.Bitmaps) == 0 },
		}
	})
}

// amendParams are those of SDM.amend_volume.
type amendParams struct {
	onVolume
	Attr qcow2Attr `json:"qcow2_attr" doc:"the version that its format shall have"`
}

// qcow2Attr is VDSM's.
type qcow2Attr struct {
	Compat string `json:"compat"` // VDSM's schema spells the old one 0.1, its code 0.10
}

func (a qcow2Attr) compat() string {
	if a.Compat == "0.1" {
		return qemuimg.Compat010
	}
	return a.Compat
}

func (p amendParams) check() error {
	if c := p.Attr.compat(); c != qemuimg.Compat010 && c != qemuimg.Compat11 {
		return code.Errorf(code.InvalidParameter, "parameter \"qcow2_attr\": compat %q is none of 0.10, 1.1", p.Attr.Compat)
	}
	return p.onVolume.check()
}

func (st *Storage) amendVolume() *tasks.Verb {
	return commandVerb(st, "SDM.amend_volume", "Change the version of a COW volume's format, as a job.", func(p amendParams) command {
		compat := p.Attr.compat()
		return command{
			failed: code.Storage, done: "the format is of version " + compat,
			possible: func(info qemuimg.Info) error {
				if compat == qemuimg.Compat010 && len(info.Bitmaps) > 0 {
					return code.Errorf(code.Unsupported, "volume %s has bitmaps, which version %s of its format has not; clear them first", p.Volume.Volume, compat)
				}
				return nil
			},
			run: func(ctx context.Context, w work, img qemuimg.Image) error {
				return st.images.Amend(ctx, w, img, compat)
			},
			there: func(info qemuimg.Info) bool { return info.Compat == compat },
		}
	})
}
