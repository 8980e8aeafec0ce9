package copy

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

func TestBound(t *testing.T) {
	for _, c := range []struct{ limit, want int64 }{
		{0, 0}, {1, 4 * mib}, {400 << 10, 4 * mib}, {mib, 10 * mib}, {100 * mib, 1000 * mib}, {1 << 62, 10 << 40},
	} {
		if got := bound(c.limit, limitedTime); got != c.want {
			t.Errorf("with %d bytes per second a slice has %d bytes, not %d", c.limit, got, c.want)
		}
	}
}

// A pacer keeps its limit to a part of a second, whatever is asked for at a time, and follows another limit soon.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begin, looked := &pacer{}, time.Now(), 0
		still := func() { looked++ }
		took := func(want time.Duration) {
			t.Helper()
			if got := time.Since(begin); got < want-2*paceStep || got > want {
				t.Errorf("it took %s, not %s", got, want)
			}
			begin = time.Now()
		}
		p.take(1<<40, still)
		(*pacer)(nil).take(1<<40, still)
		took(0)
		p.limit.Store(mib)
		for range 10 {
			p.take(mib, still)
		}
		took(10 * time.Second)
		if looked < 40 {
			t.Errorf("it waited for ten seconds in %d parts", looked)
		}
		p.limit.Store(1)
		p.take(3, still)
		took(3 * time.Second)
		time.AfterFunc(20500*time.Millisecond, func() { p.limit.Store(mib) })
		p.take(10*mib, still)  // ten million seconds with the first limit
		took(31 * time.Second) // it waits for a whole byte
		p.limit.Store(1)
		time.AfterFunc(20500*time.Millisecond, func() { p.limit.Store(0) })
		p.take(mib, still)
		took(21 * time.Second)
		p.limit.Store(mib)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { p.take(mib, func() {}) })
		}
		all.Wait()
		took(8 * time.Second)
	})
}

// limitOnly is an Env that has nothing but a limit.
type limitOnly struct {
	Env
	env *env
}

func (l limitOnly) Limit() int64 { return l.env.Limit() }

// Between two slices of qemu-img the rest of the time passes that the first one has to take.
func TestTheTimeOfASlice(t *testing.T) {
	for name, c := range map[string]struct {
		last   spent
		change func(e *env, end, fail func())
		want   time.Duration
		fails  bool
	}{
		"no slice before":         {},
		"without a limit":         {last: spent{bytes: 100 * mib}},
		"with a limit":            {last: spent{bytes: 40 * mib, limit: mib}, want: 40 * time.Second},
		"with one that is raised": {last: spent{bytes: 40 * mib, limit: mib}, change: func(e *env, _, _ func()) { e.limit.Store(2 * mib) }, want: 20 * time.Second},
		"with one that is gone":   {last: spent{bytes: 40 * mib, limit: mib}, change: func(e *env, _, _ func()) { e.limit.Store(0) }, want: 6 * time.Second},
		"with one that is lower":  {last: spent{bytes: 40 * mib, limit: mib}, change: func(e *env, _, _ func()) { e.limit.Store(1) }, want: 40 * time.Second},
		"stopped":                 {last: spent{bytes: 40 * mib, limit: mib}, change: func(_ *env, end, _ func()) { end() }, want: 5500 * time.Millisecond, fails: true},
		"the sync failed":         {last: spent{bytes: 40 * mib, limit: mib}, change: func(_ *env, _, fail func()) { fail() }, want: 5500 * time.Millisecond, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &env{}
				e.limit.Store(mib)
				ctx, end := context.WithCancelCause(t.Context())
				broken, fail := context.WithCancelCause(t.Context())
				defer end(nil)
				defer fail(nil)
				if c.change != nil {
					time.AfterFunc(5500*time.Millisecond, func() { c.change(e, func() { end(errStopped) }, func() { fail(errStopped) }) })
				}
				c.last.began = time.Now()
				r := &run{env: limitOnly{env: e}}
				err := r.rest(ctx, broken, c.last)
				if took := time.Since(c.last.began); took != c.want || c.fails != errors.Is(err, errStopped) {
					t.Errorf("it took %s, not %s, and answered %v", took, c.want, err)
				}
			})
		})
	}
}

// limited makes slices as small as they can be, and a limit that is hardly felt.
func (e *env) limited(s Spec) (Spec, int64) {
	const limit = 400 * mib
	s.span = time.Millisecond
	e.limit.Store(limit)
	return s, limit
}

// rates are the limits that the slices of qemu-img were started with; "" = none.
func (e *env) rates() (all []string) {
	for _, p := range e.Specs() {
		if p.Argv[1] != "convert" {
			continue
		}
		rate := ""
		if i := slices.Index(p.Argv, "-r"); i > 0 {
			rate = p.Argv[i+1]
		}
		all = append(all, rate)
	}
	return all
}

// steps are how much data was copied from one checkpoint to the next.
func (e *env) steps() (all []int64) {
	for i := 1; i < len(e.states); i++ {
		all = append(all, e.states[i].Done-e.states[i-1].Done)
	}
	return all
}

func TestACopyWithALimit(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e := newEnv(t)
		s, limit := e.limited(e.many(qemuimgtest.RAM(t), from, to, nil))
		e.mustRun(s, nil)
		if n, most := len(e.states), slices.Max(e.steps()); n < 10 || most > 6*mib {
			t.Errorf("%d checkpoints, the largest slice has %d bytes", n, most)
		}
		rates := e.rates()
		if s.rawToRaw() != (len(rates) == 0) || slices.ContainsFunc(rates, func(r string) bool { return r != itoa(limit) }) {
			t.Errorf("the limits of the slices are %q", rates)
		}
	})
}

// A limit that is set, changed and taken away counts from the next slice on, also for the one that waits at its gate.
func TestALimitThatChanges(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e := newEnv(t)
		s := e.many(qemuimgtest.RAM(t), from, to, nil)
		if s.rawToRaw() {
			return // see TestOurWorkersFollowTheLimit
		}
		qemuimgtest.IO(t, s.source(), "write -q -P 5 0 80M")
		s.span = time.Millisecond
		e.atCheckpoint = func(n int) error {
			switch n {
			case 2: // of the first slice; the second is at work, and the third at its gate
				e.limit.Store(400 * mib)
			case 4:
				e.limit.Store(1 << 60) // more than qemu-img takes
			case 6:
				e.limit.Store(0)
			}
			return nil
		}
		e.mustRun(s, nil)
		rates := e.rates()
		for _, want := range []string{"", "419430400", "1000000000000000"} {
			if !slices.Contains(rates, want) {
				t.Errorf("no slice has the limit %q: %q", want, rates)
			}
		}
		if rates[len(rates)-1] != "" || rates[0] != "" {
			t.Errorf("the limits of the slices are %q", rates)
		}
		if steps := e.steps(); !slices.Contains(steps, 4*mib) || !slices.Contains(steps, 8*mib) {
			t.Errorf("the slices have %v bytes of data", steps)
		}
	})
}

// With 1 KiB per second these would take hours: they end because the worker is told that the limit has changed.
func TestOurWorkersFollowTheLimit(t *testing.T) {
	lift := func(e *env, to int64) {
		e.limit.Store(1 << 10)
		e.atProgress = func(int64, int64) { e.limit.Store(to) }
	}
	for _, to := range []int64{0, 1 << 30} {
		t.Run("copy "+itoa(to), func(t *testing.T) {
			e := newEnv(t)
			s := e.many(qemuimgtest.RAM(t), qemuimg.Raw, qemuimg.Raw, nil)
			s.span = time.Millisecond
			lift(e, to)
			e.mustRun(s, nil)
		})
		t.Run("zero "+itoa(to), func(t *testing.T) {
			e, path := newEnv(t), filepath.Join(qemuimgtest.RAM(t), "f")
			size := secret(t, path)
			lift(e, to)
			if err := Zero(t.Context(), e, path, nil); err != nil {
				t.Fatal(err)
			}
			mustBeZero(t, path, size)
		})
		t.Run("allocate "+itoa(to), func(t *testing.T) {
			e, path := newEnv(t), touch(t, filepath.Join(ramfs(t), "f"))
			lift(e, to)
			if err := Allocate(t.Context(), e, path, 0, 33*mib, nil); err != nil {
				t.Fatal(err)
			}
			mustBeZero(t, path, 33*mib)
		})
	}
}

// ramfs is a directory on a file system that can neither allocate nor do without the page cache.
func ramfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	qemuimgtest.Command(t, "mount", "-t", "ramfs", "none", dir)
	t.Cleanup(func() { qemuimgtest.Command(t, "umount", dir) })
	return dir
}

// What moves no data takes no notice of a limit: with 1 byte per second it would never end.
func TestWhatIsNotLimited(t *testing.T) {
	t.Run("clone", func(t *testing.T) {
		e := newEnv(t)
		e.limit.Store(1)
		dir, _ := qemuimgtest.Mount(t, "xfs", 1500)
		src := e.image(filepath.Join(dir, "source"), qemuimg.Raw, 300*mib)
		qemuimgtest.IO(t, src, "write -q -P 1 0 300M")
		e.mustRun(e.spec(src, dir, qemuimg.Raw, 300*mib, nil), nil)
		if n := len(e.states); n > 3 {
			t.Errorf("%d checkpoints", n)
		}
	})
	t.Run("allocate", func(t *testing.T) {
		e, path := newEnv(t), touch(t, filepath.Join(qemuimgtest.RAM(t), "f"))
		e.limit.Store(1)
		if err := Allocate(t.Context(), e, path, 0, 1<<30, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// The slices of our own workers are small when there is a limit.
func TestSlicesOfOurWorkers(t *testing.T) {
	for name, c := range map[string]struct {
		limit         int64
		zero, reserve int
	}{"no limit": {0, 2, 1}, "a limit": {1 << 40, 21, 20}} {
		t.Run(name, func(t *testing.T) {
			count := func(work func(p *pacer, out *answers) error) int {
				var text bytes.Buffer
				p := &pacer{}
				p.limit.Store(c.limit)
				if err := work(p, &answers{w: &text}); err != nil {
					t.Fatal(err)
				}
				return strings.Count(text.String(), lineReached)
			}
			dir := ramfs(t)
			path := filepath.Join(dir, "f")
			if err := os.WriteFile(path, bytes.Repeat([]byte("secret!!"), 80*mib/8), 0o600); err != nil {
				t.Fatal(err)
			}
			if n := count(func(p *pacer, out *answers) error { return zero(path, 0, 0, p, out) }); n != c.zero {
				t.Errorf("a wipe had %d slices, not %d", n, c.zero)
			}
			path = touch(t, filepath.Join(dir, "g"))
			if n := count(func(p *pacer, out *answers) error { return allocate(path, 0, 0, 80*mib-4096, p, out) }); n != c.reserve {
				t.Errorf("an allocation had %d slices, not %d", n, c.reserve)
			}
		})
	}
}

// A copy is paused again and again, with another limit each time: it never starts over, and never goes back behind its last
// checkpoint.
func TestPausesWithManyLimits(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e, recreated, rng := newEnv(t), 0, rand.New(rand.NewPCG(1, 2))
		s := e.many(qemuimgtest.RAM(t), from, to, &recreated)
		s.span = time.Millisecond
		var last *State
		pauses := 0
		for ; pauses < 30 && (last == nil || !last.Complete); pauses++ {
			e.limit.Store([]int64{0, 400 * mib, 5 << 30, 20 << 30}[rng.IntN(4)])
			at := 1 + rng.IntN(2)
			e.states = nil
			next := e.stopped(s, last, func(stop func()) {
				e.atCheckpoint = func(n int) error {
					if n == at {
						stop()
					}
					return nil
				}
			})
			if next == nil {
				continue
			}
			if last != nil && (next.Next < last.Next || next.Done < last.Done || next.Done > next.Total) {
				t.Fatalf("it went from %+v to %+v", last, next)
			}
			last = next
		}
		if pauses < 2 || recreated != 0 {
			t.Errorf("%d pauses, made anew %d times", pauses, recreated)
		}
		e.states = nil
		if err := Run(t.Context(), e, s, last); err != nil {
			t.Fatal(err)
		}
		e.mustBeCopied(s)
	})
}
