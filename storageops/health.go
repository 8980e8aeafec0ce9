package storageops

import (
	"context"
	"encoding/json"
	"strconv"
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
	ctx, end := context.WithTimeout(ctx, healthWait)
	defer end()
	looks := map[string]chan Health{}
	for _, id := range st.registry.List() {
		looks[id] = st.lookAt(id)
	}
	out := map[string]Health{}
	for id, look := range looks {
		select {
		case h := <-look:
			look <- h // for others who wait for the same look
			out[id] = h
		case <-ctx.Done():
			out[id] = Health{Err: code.Errorf(code.DomainAccess, "storage domain %s does not answer", id), Delay: healthWait}
		}
	}
	return out
}

// lookAt begins a look at a domain, unless one goes on. Its answer is in the channel.
func (st *Storage) lookAt(id string) chan Health {
	st.looking.Lock()
	defer st.looking.Unlock()
	if look, busy := st.looks[id]; busy {
		return look
	}
	look := make(chan Health, 1)
	st.looks[id] = look
	go func() {
		begun := time.Now()
		h := st.health(id)
		h.Delay = time.Since(begun)
		st.looking.Lock()
		delete(st.looks, id)
		st.looking.Unlock()
		look <- h
	}()
	return look
}

func (st *Storage) health(id string) (h Health) {
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
