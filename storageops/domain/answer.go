package domain

import (
	"slices"
	"sync"
	"time"

	"vdsm-agent/internal/code"
)

// patience is how long a root may take to answer before nobody waits for it any more.
const patience = 2 * time.Second

// answers lets nobody wait long for a root whose file system hangs, as NFS does while its server is away: each look at a root is made
// by a goroutine of its own, which may hang as long as the kernel likes. While one hangs no other is begun, so that a root that is
// asked every second for a day costs one thread.
type answers struct {
	mu   sync.Mutex
	hung map[string]*silence // by root
}

// silence is a look that has not come back in time.
type silence struct {
	since time.Time
	over  chan struct{} // closed when it has
}

// NoAnswerError says that the file system of a root hangs. It carries 379.
type NoAnswerError struct {
	sentence *code.Error
	over     <-chan struct{}
}

func (e *NoAnswerError) Error() string { return e.sentence.Error() }

// Unwrap lets its code be found.
func (e *NoAnswerError) Unwrap() error { return e.sentence }

// Over is closed when the file system has answered again.
func (e *NoAnswerError) Over() <-chan struct{} { return e.over }

func (s *silence) err(root string) error {
	return &NoAnswerError{
		code.Errorf(code.DomainAccess, "the file system of %s has not answered since %s; look after its server or disk, everything else goes on meanwhile",
			root, s.since.UTC().Format(time.RFC3339)),
		s.over,
	}
}

// ask answers what look does, or a *NoAnswerError when that takes too long, or hung before and still does. What look answers too
// late is dropped.
func ask[T any](a *answers, root string, look func() (T, error)) (T, error) {
	var none T
	a.mu.Lock()
	s := a.hung[root]
	a.mu.Unlock()
	if s != nil {
		return none, s.err(root)
	}
	type answer struct {
		v   T
		err error
	}
	own := &silence{since: time.Now(), over: make(chan struct{})}
	answered := make(chan answer, 1)
	go func() {
		v, err := look()
		answered <- answer{v, err}
		a.end(root, own)
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case got := <-answered:
		return got.v, got.err
	case <-late.C:
	}
	if s = a.begin(root, own); s == nil {
		got := <-answered // just now
		return got.v, got.err
	}
	return none, s.err(root)
}

// begin notes that a look hangs; nil if it has ended meanwhile. Of several at once the first one stands for all.
func (a *answers) begin(root string, s *silence) *silence {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-s.over:
		return nil
	default:
	}
	if first := a.hung[root]; first != nil {
		return first
	}
	if a.hung == nil {
		a.hung = map[string]*silence{}
	}
	a.hung[root] = s
	return s
}

func (a *answers) end(root string, s *silence) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(s.over)
	if a.hung[root] == s {
		delete(a.hung, root)
	}
}

// each asks all roots at once; the answers are in the order of the roots.
func each[T any](a *answers, roots []string, look func(root string) (T, error)) []found[T] {
	out := make([]found[T], len(roots))
	var all sync.WaitGroup
	for i, root := range roots {
		all.Go(func() {
			v, err := ask(a, root, func() (T, error) { return look(root) })
			out[i] = found[T]{root, v, err}
		})
	}
	all.Wait()
	return out
}

// found is what a root has answered.
type found[T any] struct {
	root  string
	value T
	err   error
}

// seen remembers which domains a root had when it answered last.
type seen struct {
	mu sync.Mutex
	in map[string][]string
}

// note takes what was found in a root.
func (s *seen) note(root string, ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in = map[string][]string{}
	}
	s.in[root] = ids
}

// add takes one domain that was opened in a root.
func (s *seen) add(root, id string) {
	if last := s.last(root); !slices.Contains(last, id) {
		s.note(root, append(last, id))
	}
}

func (s *seen) last(root string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.in[root])
}

// keyed is a lock for each key.
type keyed struct {
	mu   sync.Mutex
	held map[string]*hold
}

type hold struct {
	mu    sync.Mutex
	users int
}

// lock waits until nobody else has the key, and returns what gives it back.
func (k *keyed) lock(key string) func() {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*hold{}
	}
	h := k.held[key]
	if h == nil {
		h = &hold{}
		k.held[key] = h
	}
	h.users++
	k.mu.Unlock()
	h.mu.Lock()
	return func() {
		h.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(k.held, key)
		}
	}
}
