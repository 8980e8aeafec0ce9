package storageops

import (
	"cmp"
	"context"
	"encoding/json"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
)

// Options are what the storage verbs need of the agent.
type Options struct {
	Domains *domain.Registry
	Workers *proc.Manager
	// MountWait is how long a mount or its end is waited for; 0 = a minute.
	MountWait time.Duration
	// TrashFor is how long an uncleared delete can be taken back, as its manifest says.
	TrashFor time.Duration
	Log      zerolog.Logger
}

// Storage is the set of storage verbs over the domains of this host. Those that run as tasks reach them through domains and
// images only, which say what a crash can leave of each effect; those that are answered at once look at the registry.
type Storage struct {
	registry *domain.Registry
	domains  domains
	images   images
	leases   Leaser
	mounts   *mounts
	limits   domainLimits
	pools    pools
	trashFor time.Duration
	log      zerolog.Logger

	healths looks[Health]
	rooms   looks[Room]
}

// New makes the verbs. It does nothing yet.
func New(o Options) *Storage {
	leases := &localLeases{domains: registry{o.Domains}, held: map[string][]*heldLease{}}
	return &Storage{
		registry: o.Domains, domains: registry{o.Domains}, images: imageFiles{o.Workers, leases}, leases: leases, trashFor: o.TrashFor, log: o.Log,
		mounts: &mounts{
			registry: o.Domains, workers: o.Workers, wait: cmp.Or(o.MountWait, defaultMountWait),
			users: map[string]map[string]bool{}, busy: map[string]<-chan struct{}{},
		},
	}
}

// Verbs are those that run as tasks.
func (st *Storage) Verbs() []*tasks.Verb {
	all := []*tasks.Verb{
		st.createVolume(), st.copyVolume(), st.importVolume(), st.deleteVolume(), st.deleteImage(), st.emptyTrash(), st.startSPM(),
		st.moveImage(), st.cloneStructure(), st.syncData(), st.repairDomain(),
		st.updateVolume(), st.amendVolume(), st.addBitmap(), st.removeBitmap(), st.clearBitmaps(), st.copyJob(),
		st.extendVolume(), st.deleteVolumes(), st.prepareMerge(), st.finalizeMerge(), st.mergeVolumes(), st.sparsifyVolume(),
	}
	for _, v := range all {
		st.inPool(v)
		atOnce(v)
	}
	return all
}

// decode reads a verb's parameters and refuses what can never work.
func decode[P interface{ check() error }](raw json.RawMessage, strict param.Strictness) (p P, err error) {
	if err := param.Decode(raw, &p, strict); err != nil {
		return p, err
	}
	return p, p.check()
}

// volumeRef names a volume, or without one a whole image.
type volumeRef struct {
	Domain, Image, Volume string
}

func (v volumeRef) String() string {
	if v.Volume == "" {
		return "image " + v.Image + " (domain " + v.Domain + ")"
	}
	return "volume " + v.Volume + " (image " + v.Image + ", domain " + v.Domain + ")"
}

// tag is that of a table-1 task: spm if an engine submits it with a pool, else local.
func tag(pool param.UUID) string {
	if pool.IsBlank() {
		return tasks.TagLocal
	}
	return tasks.TagSPM
}

func domainShared(id string) tasks.Lock { return tasks.Lock{Key: "domain/" + id} }

func domainExclusive(id string) tasks.Lock { return tasks.Lock{Key: "domain/" + id, Exclusive: true} }

func imageExclusive(domain, image string) tasks.Lock {
	return tasks.Lock{Key: "image/" + domain + "/" + image, Exclusive: true}
}

func imageShared(domain, image string) tasks.Lock {
	return tasks.Lock{Key: "image/" + domain + "/" + image}
}

// readable returns the domain and the metadata of a volume in it.
func (st *Storage) readable(v volumeRef) (storageDomain, domain.VolumeMeta, error) {
	d, err := st.domains.Get(v.Domain)
	if err != nil {
		return nil, domain.VolumeMeta{}, err
	}
	m, err := d.ReadVolume(v.Image, v.Volume)
	return d, m, err
}

// writable returns the domain if something can be written in it.
func (st *Storage) writable(id string) (storageDomain, error) { return writableNow(st.domains.Get(id)) }

func writableNow(d storageDomain, err error) (storageDomain, error) {
	if err != nil {
		return nil, err
	}
	return d, d.Writable()
}

// Claim claims every known domain. A worker of a former run that is still dying may hold a claim, so it is asked for again until
// ctx ends; a domain that cannot be claimed by then is logged, and its tasks wait for it.
func (st *Storage) Claim(ctx context.Context) {
	var all sync.WaitGroup
	for _, id := range st.domains.List() {
		all.Go(func() {
			if err := st.retry(ctx, func() error { _, err := st.domains.GetNow(id); return err }); err != nil {
				st.log.Error().Err(err).Str("domain", id).Msg("a storage domain cannot be used now")
			}
		})
	}
	all.Wait()
}

// reach returns when a task that was interrupted may go on in a domain. A restart is not a cancel: what is not mounted or not
// claimed yet is waited for, until ctx ends.
func (st *Storage) reach(ctx context.Context, s *tasks.Scope, id string) error {
	first := true
	return st.retry(ctx, func() error {
		_, err := writableNow(st.domains.GetNow(id))
		if err != nil {
			s.Note("waiting for its storage domain: " + err.Error())
			if first {
				s.Log().Warn().Err(err).Msg("the task waits for its storage domain")
			}
			first = false
		}
		return err
	})
}

// retry calls f until it does not answer that a domain cannot be reached or claimed, or ctx ends; then the answer is f's
// last.
func (st *Storage) retry(ctx context.Context, f func() error) error {
	const most = 5 * time.Second
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, most) {
		err := f()
		switch code.Of(err) {
		case code.AcquireLock, code.DomainAccess, code.DomainDoesNotExist:
		default:
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}

// absent says whether the error means that the volume or its whole image is not there.
func absent(err error) bool {
	c := code.Of(err)
	return c == code.VolumeDoesNotExist || c == code.ImageDoesNotExist
}
