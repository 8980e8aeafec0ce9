package storageops

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// admitWithin is how long a submit waits for what can be refused at once.
const admitWithin = 2 * time.Second

// atOnce lets nobody who submits wait for a file system that hangs. What was looked at is then not known: the submit is refused, and
// can be repeated.
func atOnce(v *tasks.Verb) {
	admit := v.Admit
	v.Admit = func(ctx context.Context, raw json.RawMessage) error {
		answered := make(chan error, 1)
		go func() { answered <- admit(ctx, raw) }()
		late := time.NewTimer(admitWithin)
		defer late.Stop()
		select {
		case err := <-answered:
			return err
		case <-late.C:
			return code.Errorf(code.DomainAccess, "the storage does not answer, so %s cannot be begun now; look after its server or disk, and submit again", v.Name)
		}
	}
}

// Health is how a domain answers when it is looked at.
type Health struct {
	Version int
	Err     error         // nil = it can be used
	Delay   time.Duration // that its answer took
}

// healthWait is how long all domains together are waited for.
const healthWait = 2 * time.Second

// Health looks at every domain, at all of them at once and for healthWait at most: one whose file system hangs is an error, and hinders
// neither the others nor whoever asks. It is looked at again only when the look before has ended.
func (st *Storage) Health(ctx context.Context) map[string]Health {
	return st.healths.all(ctx, st.registry.List(), st.health, func(id string) Health {
		return Health{Err: code.Errorf(code.DomainAccess, "storage domain %s does not answer", id), Delay: healthWait}
	})
}

// looks are those at domains that have not ended.
type looks[T any] struct {
	mu   sync.Mutex // guards busy
	busy map[string]chan T
}

// all looks at all domains at once; silent stands for one that does not answer in time.
func (l *looks[T]) all(ctx context.Context, ids []string, look, silent func(id string) T) map[string]T {
	ctx, end := context.WithTimeout(ctx, healthWait)
	defer end()
	begun := map[string]chan T{}
	for _, id := range ids {
		begun[id] = l.begin(id, look)
	}
	out := map[string]T{}
	for id, one := range begun {
		select {
		case seen := <-one:
			one <- seen // for others who wait for the same look
			out[id] = seen
		case <-ctx.Done():
			out[id] = silent(id)
		}
	}
	return out
}

// begin begins a look at a domain, unless one goes on. Its answer is in the channel.
func (l *looks[T]) begin(id string, look func(id string) T) chan T {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one, busy := l.busy[id]; busy {
		return one
	}
	one := make(chan T, 1)
	if l.busy == nil {
		l.busy = map[string]chan T{}
	}
	l.busy[id] = one
	go func() {
		seen := look(id)
		l.mu.Lock()
		delete(l.busy, id)
		l.mu.Unlock()
		one <- seen
	}()
	return one
}

func (st *Storage) health(id string) (h Health) {
	begun := time.Now()
	defer func() { h.Delay = time.Since(begun) }()
	d, err := st.registry.GetReadOnly(id)
	if err != nil {
		return Health{Err: err}
	}
	info, err := d.Info()
	if err != nil {
		return Health{Err: err}
	}
	if h.Version, err = strconv.Atoi(info.Version); err != nil {
		return Health{Err: err}
	}
	h.Err = d.Writable()
	return h
}
