package storageops

import (
	"context"
	"encoding/json"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/param"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
)

// cloneParams are those of Image.cloneStructure.
type cloneParams struct {
	Image     param.UUID `json:"imageID" doc:"image whose chain is made again, without its data"`
	Pool      param.UUID `json:"storagepoolID" doc:"pool; zeros mark the task as local"`
	Domain    param.UUID `json:"storagedomainID"`
	DstDomain param.UUID `json:"dstSdUUID"`
}

func (p cloneParams) check() error { return otherDomain(p.Domain, p.DstDomain) }

func (p cloneParams) chain(st *Storage, task string) *chain {
	return &chain{st: st, task: task, image: string(p.Image), source: string(p.Domain), dest: string(p.DstDomain)}
}

func (st *Storage) cloneStructure() *tasks.Verb {
	return &tasks.Verb{
		Role: access.Operate, Doc: "Make the chain of an image in another domain, empty.",
		Name: "Image.cloneStructure", Word: "cloneImageStructure", Params: cloneParams{}, Forward: true, Class: tasks.ClassLight,
		Contract: tasks.Contract{
			CancellableUntil: "finished", Undo: "chain removed", Revert: "chain to the trash", Bound: 10 * time.Second,
		},
		Plan: func(id string, raw json.RawMessage) (*tasks.Plan, error) {
			p, err := decode[cloneParams](raw, param.Lenient)
			if err != nil {
				return nil, err
			}
			c := p.chain(st, id)
			return &tasks.Plan{
				Tag: tag(p.Pool), Locks: c.locks(imageShared(c.source, c.image)),
				Steps: []tasks.Step{
					c.checkStep(false, func() error { return nil }), c.replaceStep(), c.imageStep(), c.shareStep(), c.filesStep(), c.allocateStep(),
					c.metadataStep(domain.Legal),
				},
				Fingerprint: c.fingerprint, Unused: c.unused,
				Deferred: func(s *tasks.Scope, end tasks.End) *tasks.Submission { return c.reclaim(s, end, false) },
			}, nil
		},
		Admit: func(_ context.Context, raw json.RawMessage) error {
			p, err := decode[cloneParams](raw, param.Lenient)
			if err != nil {
				return err
			}
			return p.chain(st, "").admit()
		},
	}
}
