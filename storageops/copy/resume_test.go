package copy

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

var errStopped = errors.New("stopped by the test")

// many is a copy in several slices, in dir.
func (e *env) many(dir, from, to string, recreated *int) Spec {
	e.t.Helper()
	src := e.image(filepath.Join(dir, "source"), from, manyCapacity)
	manySlices(e.t, src)
	return e.spec(src, dir, to, manyCapacity, recreated)
}

// stopped runs until the test's condition ends ctx, and returns the state that is resumed from.
func (e *env) stopped(s Spec, last *State, arrange func(stop func())) *State {
	e.t.Helper()
	ctx, cancel := context.WithCancelCause(e.t.Context())
	defer cancel(nil)
	arrange(func() { cancel(errStopped) })
	err := Run(ctx, e, s, last)
	e.atCheckpoint, e.atProgress = nil, nil
	if err != nil && !errors.Is(err, errStopped) {
		e.t.Fatal(err)
	}
	e.MustBeGone()
	return e.last()
}

// The copy is ended, in both ways that the task engine knows, at each of its checkpoints, and goes on from there.
func TestResumeFromEveryCheckpoint(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		for how, end := range map[string]func(*proc.Worker){"SIGTERM": (*proc.Worker).Terminate, "SIGKILL": (*proc.Worker).Kill} {
			t.Run(how, func(t *testing.T) {
				for n := 1; ; n++ {
					e, recreated := newEnv(t), 0
					e.Stop = end
					s := e.many(qemuimgtest.RAM(t), from, to, &recreated)
					last := e.stopped(s, nil, func(stop func()) {
						e.atCheckpoint = func(at int) error {
							if at == n {
								stop()
							}
							return nil
						}
					})
					if last.Complete {
						if n < 5 {
							t.Fatalf("only %d checkpoints", n)
						}
						return
					}
					e.states = nil
					e.mustRun(s, last)
					if recreated != 0 {
						t.Fatal("the copy started over")
					}
					if first := e.states[0]; first.Next < last.Next {
						t.Fatalf("it went back from %d to %d", last.Next, first.Next)
					}
				}
			})
		}
	})
}

// The copy is ended in the middle of each of its slices, again and again, until it is done.
func TestResumeFromTheMiddleOfASlice(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e, recreated := newEnv(t), 0
		e.Stop = (*proc.Worker).Kill
		s := e.many(t.TempDir(), from, to, &recreated)
		var last *State
		for part := int64(1); part < 10; part++ {
			last = e.stopped(s, last, func(stop func()) {
				e.atProgress = func(done, total int64) {
					if done > total*part/10 {
						stop()
					}
				}
			})
		}
		e.mustRun(s, last)
		if recreated != 0 {
			t.Fatal("the copy started over")
		}
	})
}

// A cluster that leaks while a resumed copy writes, as it happens with QEMU, is given back at its end.
func TestAResumedCopyIsSwept(t *testing.T) {
	e, recreated := newEnv(t), 0
	s := e.many(qemuimgtest.RAM(t), qemuimg.Raw, qemuimg.QCOW2, &recreated)
	last := e.stopped(s, nil, func(stop func()) {
		e.atCheckpoint = func(n int) error {
			if n == 2 {
				stop()
			}
			return nil
		}
	})
	leaked := false
	e.atCheckpoint = func(int) error {
		if now := e.last(); !leaked && !now.Complete && now.Done == now.Total {
			leaked = true
			leak(t, s.Dest.Path)
		}
		return nil
	}
	e.mustRun(s, last)
	if !leaked || recreated != 0 {
		t.Fatalf("leaked %t, started over %d times", leaked, recreated)
	}
}

// leak makes the refcount of a cluster behind the end 1, with nothing that refers to it.
func leak(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := func(off int64) int64 {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		return int64(binary.BigEndian.Uint64(b))
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	const cluster = 64 << 10
	n := (st.Size() + cluster - 1) / cluster
	block := at(at(48)) // the first entry of the table whose offset is in the header
	if _, err := f.WriteAt([]byte{0, 1}, block+2*n); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate((n + 1) * cluster); err != nil {
		t.Fatal(err)
	}
}

// After a stop no worker is started any more, and a stop before the beginning starts none.
func TestAStoppedCopyStartsNothing(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e := newEnv(t)
		s := e.many(qemuimgtest.RAM(t), from, to, nil)
		started := 0
		e.stopped(s, nil, func(stop func()) {
			e.atCheckpoint = func(n int) error {
				if n == 3 {
					stop()
					started = len(e.Specs())
				}
				return nil
			}
		})
		// The slice after the running one may have been on its way when the stop came.
		if n := len(e.Specs()); n > started+1 {
			t.Errorf("%d workers were started after the stop", n-started)
		}
		n := len(e.Specs())
		e.stopped(s, e.last(), func(stop func()) { stop() })
		if len(e.Specs()) != n {
			t.Error("a worker was started although the task was stopped before")
		}
	})
}

func TestACheckpointThatFailsEndsTheCopy(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		for n := 1; n <= 4; n++ {
			e := newEnv(t)
			s := e.many(qemuimgtest.RAM(t), from, to, nil)
			full := errors.New("the store is full")
			e.atCheckpoint = func(at int) error {
				if at == n {
					return full
				}
				return nil
			}
			if err := Run(t.Context(), e, s, nil); !errors.Is(err, full) {
				t.Fatal(err)
			}
			e.MustBeGone()
			e.atCheckpoint = nil
			last := e.states[n-1] // it may be on storage, or the one before it
			if n > 1 {
				e.mustRun(s, &e.states[n-2])
				continue
			}
			e.mustRun(s, &last)
		}
	})
}

// The keeper, or a slice, is killed by somebody else: the copy fails, and nothing of it is left running.
func TestAKilledWorkerFailsTheCopy(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		for _, which := range []string{WorkerCommand, "convert"} {
			if from == qemuimg.Raw && to == qemuimg.Raw && which == "convert" {
				continue
			}
			t.Run(which, func(t *testing.T) {
				e := newEnv(t)
				s := e.many(qemuimgtest.RAM(t), from, to, nil)
				e.atCheckpoint = func(n int) error {
					for i, p := range e.Specs() {
						if n == 2 && p.Argv[1] == which {
							e.Workers()[i].Kill()
						}
					}
					return nil
				}
				if err := Run(t.Context(), e, s, nil); code.Of(err) != code.VolumeCopy {
					t.Fatal(err)
				}
				e.atCheckpoint = nil
				e.MustBeGone()
				e.mustRun(s, e.last())
			})
		}
	})
}

// A qcow2 destination that an unclean end left damaged is made anew. One that only lost clusters is not.
func TestADamagedDestinationStartsOver(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"truncated": func(t *testing.T, path string) {
			if err := os.Truncate(path, 3*mib); err != nil {
				t.Fatal(err)
			}
		},
		"not qcow2": func(t *testing.T, path string) {
			if err := os.WriteFile(path, make([]byte, mib), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"L2 entries of garbage": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0x80, 0, 0, 0x7f, 0, 0, 0, 0}, 4*65536); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, recreated := newEnv(t), 0
			s := e.many(qemuimgtest.RAM(t), qemuimg.Raw, qemuimg.QCOW2, &recreated)
			last := e.stopped(s, nil, func(stop func()) {
				e.atCheckpoint = func(n int) error {
					if n == 3 {
						stop()
					}
					return nil
				}
			})
			damage(t, s.Dest.Path)
			e.states = nil
			e.mustRun(s, last)
			if recreated != 1 {
				t.Fatalf("made anew %d times", recreated)
			}
			if !e.states[0].Over || e.states[1].Next != 0 {
				t.Fatalf("that it starts over was not recorded first: %+v", e.states[:2])
			}
		})
	}
}

// Whatever moment of starting over a crash hits, the copy does not go on in a destination that is not what it was.
func TestACrashWhileStartingOver(t *testing.T) {
	for _, crash := range []string{"before it is made anew", "after it was made anew"} {
		t.Run(crash, func(t *testing.T) {
			e, recreated := newEnv(t), 0
			s := e.many(qemuimgtest.RAM(t), qemuimg.QCOW2, qemuimg.QCOW2, &recreated)
			last := e.stopped(s, nil, func(stop func()) {
				e.atCheckpoint = func(n int) error {
					if n == 4 {
						stop()
					}
					return nil
				}
			})
			if err := os.Truncate(s.Dest.Path, mib); err != nil {
				t.Fatal(err)
			}
			died := errors.New("the agent died")
			remake := s.Recreate
			s.Recreate = func(ctx context.Context) error {
				if crash == "before it is made anew" {
					return died
				}
				return errors.Join(remake(ctx), died)
			}
			if err := Run(t.Context(), e, s, last); !errors.Is(err, died) {
				t.Fatal(err)
			}
			s.Recreate = remake
			e.mustRun(s, e.last())
		})
	}
}

func TestAChangedSource(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		change := func(s Spec) {
			later := time.Now().Add(time.Hour)
			if err := os.Chtimes(s.Source.Path, later, later); err != nil {
				t.Fatal(err)
			}
		}
		t.Run("between two runs", func(t *testing.T) {
			e, recreated := newEnv(t), 0
			s := e.many(qemuimgtest.RAM(t), from, to, &recreated)
			last := e.stopped(s, nil, func(stop func()) {
				e.atCheckpoint = func(n int) error {
					if n == 3 {
						stop()
					}
					return nil
				}
			})
			qemuimgtest.IO(t, s.source(), "write -q -P 200 0 4M", "write -q -z 8M 4M")
			change(s)
			e.mustRun(s, last)
			if recreated != 1 {
				t.Fatalf("made anew %d times", recreated)
			}
			change(s)
			s.Recreate = nil
			if err := Run(t.Context(), e, s, last); code.Of(err) != code.VolumeCopy {
				t.Fatal(err)
			}
		})
		t.Run("during a run", func(t *testing.T) {
			e, recreated := newEnv(t), 0
			s := e.many(qemuimgtest.RAM(t), from, to, &recreated)
			e.atCheckpoint = func(n int) error {
				if n == 3 {
					change(s)
				}
				return nil
			}
			err := Run(t.Context(), e, s, nil)
			if code.Of(err) != code.VolumeCopy || !strings.Contains(err.Error(), "changed while it was copied") {
				t.Fatal(err)
			}
			e.atCheckpoint = nil
			e.mustRun(s, e.last())
			if recreated != 1 {
				t.Fatalf("made anew %d times", recreated)
			}
		})
	})
}

func TestAFullFileSystem(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e := newEnv(t)
		dir, _ := qemuimgtest.Mount(t, "ext4", 40)
		src := e.image(filepath.Join(qemuimgtest.RAM(t), "source"), from, manyCapacity)
		manySlices(t, src)
		s := e.spec(src, dir, to, manyCapacity, nil)
		err := Run(t.Context(), e, s, nil)
		if code.Of(err) != code.NoSpaceLeftOnDomain {
			t.Fatalf("answered %v (%d)", err, code.Of(err))
		}
		e.MustBeGone()
		last := e.last()
		if last.Next == 0 {
			t.Fatal("nothing was checkpointed before the file system was full")
		}
		// Room is made: the destination goes to a larger file system, and the copy goes on.
		more := qemuimgtest.RAM(t)
		qemuimgtest.Command(t, "cp", "--sparse=always", s.Dest.Path, more)
		s.Dest.Path = filepath.Join(more, "copied")
		e.mustRun(s, last)
	})
}

// The power is cut after each checkpoint: what was not synced is lost, and the sync that is under way fails. Both the state
// that the copy itself recorded then, and the one before it (the agent died before it could), lead to a true copy.
func TestPowerCut(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		for _, fs := range []string{"ext4", "xfs"} {
			for _, saw := range []string{"the agent saw it", "the agent died too"} {
				t.Run(fs+", "+saw, func(t *testing.T) {
					for _, at := range []int{1, 2, 4} {
						e := newEnv(t)
						dir, again := qemuimgtest.Mount(t, fs, 400)
						src := e.image(filepath.Join(qemuimgtest.RAM(t), "source"), from, manyCapacity)
						manySlices(t, src)
						s := e.spec(src, dir, to, manyCapacity, nil)
						qemuimgtest.Command(t, "sync", "-f", dir) // as the creator of the destination did
						e.atCheckpoint = func(n int) error {
							if n == at {
								qemuimgtest.Command(t, "xfs_io", "-x", "-c", "shutdown", dir)
							}
							return nil
						}
						err := Run(t.Context(), e, s, nil)
						if err == nil {
							t.Fatal("a copy to a dead file system succeeded")
						}
						e.atCheckpoint = nil
						e.MustBeGone()
						good := slices.IndexFunc(e.states, func(s State) bool { return s.Over })
						if good < 0 {
							good = len(e.states)
						}
						if saw == "the agent died too" {
							e.states = e.states[:good]
						}
						again()
						e.mustRun(s, e.last())
					}
				})
			}
		}
	})
}

// A sync that fails is not asked again: the copy fails, and the next run starts over.
func TestAFailedSync(t *testing.T) {
	forEachPair(t, func(t *testing.T, from, to string) {
		e, recreated := newEnv(t), 0
		dir, again := qemuimgtest.Mount(t, "ext4", 400)
		src := e.image(filepath.Join(qemuimgtest.RAM(t), "source"), from, manyCapacity)
		manySlices(t, src)
		s := e.spec(src, dir, to, manyCapacity, &recreated)
		r := &run{env: e, spec: s}
		if err := r.openKeeper(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.state = State{Next: 5, Blank: true, Sources: r.keeper.hello.Sources}
		qemuimgtest.IO(t, s.dest(), "write -q -P 1 0 1M")
		qemuimgtest.Command(t, "xfs_io", "-x", "-c", "shutdown", dir)
		err := r.commit(State{Next: 6})
		r.keeper.kill()
		if err == nil {
			t.Fatal("the sync succeeded")
		}
		if n := len(e.states); n != 1 || !e.states[0].Over || e.states[0].Next != 5 {
			t.Fatalf("recorded were %+v", e.states)
		}
		again()
		qemuimgtest.Command(t, "touch", s.Dest.Path)
		e.mustRun(s, e.last())
		if recreated != 1 {
			t.Fatalf("made anew %d times", recreated)
		}
	})
}
