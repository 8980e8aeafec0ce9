package copy

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/qemuimg"
)

// coroutines is how many requests qemu-img has under way. With QEMU's default of 8 the start and the end of each slice, when
// the queue is not full, are felt: at 16 the cost of 20 slices halves.
const coroutines = 16

// copySlices copies by qemu-img, slice by slice. While one slice is copied the sync and the checkpoint of the one before it
// are under way, and the process of the one after it is started and waits; see sliceWorker. That one was cut and started with
// the limit of then: if it has changed when its turn comes, it is ended and another one is started.
func (r *run) copySlices(ctx context.Context) error {
	plan, err := MakePlan(ctx, r.env, r.spec, r.state.Blank)
	if err != nil {
		return err
	}
	r.state.Total = plan.Data
	if plan.Virtual > (r.spec.Capacity+511)&^511 {
		return r.tooSmall(plan.Virtual)
	}
	r.state.Done, _ = plan.upTo(r.state.Next)
	r.env.Progress(r.state.Done, plan.Data)
	if err := r.copyEach(ctx, plan); err != nil {
		return err
	}
	return r.zeroTail(ctx, plan.Virtual)
}

func (r *run) copyEach(ctx context.Context, plan Plan) (err error) {
	// broken ends when the sync fails: the slice that is being copied is in vain. It is not a child of ctx: when ctx ends the
	// task engine ends the workers.
	broken, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	defer fail(nil)
	synced := make(chan struct{})
	close(synced)
	var next *sliceWorker
	defer func() {
		next.kill()
		<-synced
		if cause := context.Cause(broken); cause != nil {
			err = cause
		}
	}()
	reached, last := r.state, spent{}
	if next, err = r.start(ctx, broken, plan, reached.Next); err != nil {
		return err
	}
	for next != nil {
		if err := r.rest(ctx, broken, last); err != nil {
			return err
		}
		if r.env.Limit() != next.limit { // it was started with another limit, and is cut for that
			next.kill()
			if next, err = r.start(ctx, broken, plan, reached.Next); err != nil {
				return err
			}
		}
		cur := next
		last = spent{time.Now(), cur.cost, cur.limit}
		cur.open()
		if next, err = r.start(ctx, broken, plan, cur.End); err != nil {
			cur.kill()
			return err
		}
		if err := cur.wait(); err != nil {
			return err
		}
		<-synced
		if broken.Err() != nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		reached.Next = cur.End
		reached.Done, _ = plan.upTo(cur.End)
		done, state := make(chan struct{}), reached
		synced = done
		go func() {
			defer close(done)
			if err := r.commit(state); err != nil {
				fail(err)
			}
		}()
	}
	<-synced
	if broken.Err() == nil {
		r.state = reached
	}
	return nil
}

func (r *run) tooSmall(size int64) error {
	return code.Errorf(code.InvalidParameter, "%s has room for %d bytes and %s has %d; give a larger capacity",
		r.spec.Dest.Path, r.spec.Capacity, r.spec.Source.Path, size)
}

// zeroTail writes zeros behind the source's end into a destination that is longer and may hold something there.
func (r *run) zeroTail(ctx context.Context, virtual int64) error {
	if r.spec.Capacity <= virtual || r.state.Blank && len(r.spec.Dest.Backing) == 0 {
		return nil
	}
	// Whole sectors: the rest of a raw destination's last one is cut off at the end.
	tail := Slice{Start: virtual, End: (r.spec.Capacity + 511) &^ 511}
	source := qemuimg.Node{"driver": "null-co", "size": tail.End - tail.Start, "read-zeroes": true}
	w, err := r.startConvert(ctx, context.WithoutCancel(ctx), source, r.window(r.destNode(), tail, true), 0, nil)
	if err != nil {
		return err
	}
	w.open()
	return w.wait()
}

// window is the stretch of node that a slice is. The last one has no size: it reaches the end, whose offset need not be the
// multiple of 512 that QEMU wants of a size.
func (r *run) window(node qemuimg.Node, s Slice, last bool) qemuimg.Node {
	w := qemuimg.Node{"driver": "raw", "offset": s.Start, "file": node}
	if !last {
		w["size"] = s.End - s.Start
	}
	if r.spec.Dest.Preallocated {
		w["discard"] = "ignore"
	}
	return w
}

// destNode is the destination; one whose blocks stay allocated is never told to drop any.
func (r *run) destNode() qemuimg.Node {
	n := r.spec.dest().Node()
	if r.spec.Dest.Preallocated {
		n["discard"] = "ignore"
		n["file"].(qemuimg.Node)["discard"] = "ignore"
	}
	return n
}

// start starts qemu-img for the slice that follows one that ends at from; see sliceWorker. nil: there is none.
func (r *run) start(ctx, broken context.Context, plan Plan, from int64) (*sliceWorker, error) {
	limit := r.env.Limit()
	s, more := plan.next(from, bound(limit, r.spec.limitedTime()))
	if !more {
		return nil, nil
	}
	before, _ := plan.upTo(s.Start)
	last := s.End >= plan.Virtual
	progress := &qemuimg.Percent{Report: func(part float64) {
		r.env.Progress(before+int64(part*float64(s.Data)), plan.Data)
	}}
	w, err := r.startConvert(ctx, broken, r.window(r.spec.source().Node(), s, last), r.window(r.destNode(), s, last), limit, progress)
	if w != nil {
		w.Slice, w.limit = s, limit
	}
	return w, err
}

func (r *run) startConvert(ctx, broken context.Context, from, to qemuimg.Node, limit int64, p *qemuimg.Percent) (*sliceWorker, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	wait, gate, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	sourceCache, destCache := r.keeper.cacheModes()
	argv := []string{qemuimg.Program, "convert",
		"--object", "secret,id=gate,file=/proc/self/fd/3", // the first of Files
		"-n", "-p", "-W", "-m", strconv.Itoa(coroutines), "-T", sourceCache, "-t", destCache, "-O", "raw"}
	switch b := r.spec.Dest.Backing; {
	case len(b) > 0:
		argv = append(argv, "-B", b[0].Path, "-F", b[0].Format) // only what the source holds itself
	case r.state.Blank:
		argv = append(argv, "--target-is-zero")
	}
	if limit > 0 {
		argv = append(argv, "-r", strconv.FormatInt(min(limit, qemuimg.MaxRate), 10))
	}
	spec := proc.Spec{Argv: append(argv, from.Argument(), to.Argument()), Files: []*os.File{wait}, IdleIO: true}
	if p != nil {
		spec.Stdout = p
	}
	w, err := r.env.Start(ctx, spec)
	if err != nil {
		gate.Close()
		return nil, err
	}
	s := &sliceWorker{w: w, ctx: ctx, gate: gate}
	s.detach = context.AfterFunc(broken, w.Kill)
	return s, nil
}

// sliceWorker is a qemu-img that was started early and stands at its gate: it has loaded its libraries and reads a
// secret, which nobody uses, from a pipe before it opens any image. So its start costs no time between two slices, and
// never do two of them have the destination open.
//
// If the agent dies the gate opens too. That does no harm: the worker then copies its slice until its parent-death signal
// comes, at once; QEMU's own image lock keeps it out while the one before it is alive; and nothing goes on before all
// workers of a former run are gone.
type sliceWorker struct {
	Slice
	limit  int64
	w      *proc.Worker
	ctx    context.Context
	gate   *os.File
	once   sync.Once
	detach func() bool
}

// open lets it begin.
func (s *sliceWorker) open() {
	s.once.Do(func() {
		_, _ = s.gate.WriteString("open") // if it is gone, wait tells why
		s.gate.Close()
	})
}

// wait waits until it is gone.
func (s *sliceWorker) wait() error {
	err := s.w.Wait()
	s.detach()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return err
}

// kill ends it and waits until it is gone; only then the gate is let go. A nil worker can be killed.
func (s *sliceWorker) kill() {
	if s == nil {
		return
	}
	s.w.Kill()
	_ = s.w.Wait() // killed: how it ended is known
	s.detach()
	s.once.Do(func() { s.gate.Close() })
}

var errUsage = errors.New("wrong arguments")

func badAnswer(line string) error {
	return code.Errorf(code.InternalError, "a worker answered %q, which is not understood", line)
}
