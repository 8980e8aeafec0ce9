// Command copybench compares copy.Run, with its slices and checkpoints, to one plain `qemu-img convert` of the same image:
// both around the page cache, out of order, in the same workers, with cold caches, and synced at the end. It makes its input
// under -dir, runs the two by turns, and prints for each pair of formats the median of the quotients of their times. With -limit
// it prints instead how fast a copy with a limit is. It needs root, to drop the caches. It is for people and `make bench`;
// nothing imports it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/qemuimg"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == copy.WorkerCommand {
		os.Exit(copy.WorkerMain(os.Args[2:]))
	}
	b := &bench{}
	flag.StringVar(&b.dir, "dir", "", "directory for the images; default: a temporary one")
	flag.Int64Var(&b.mib, "data", 2048, "MiB of data in an image of twice that size")
	flag.IntVar(&b.pairs, "pairs", 7, "how often each is measured")
	flag.BoolVar(&b.ordinary, "ordinary", false, "give both ordinary priority, not idle: for a machine on which others work")
	limit := flag.Int64("limit", 0, "MiB per second: only measure how well a copy keeps to that")
	formats := flag.String("formats", "raw:raw,raw:qcow2,qcow2:raw,qcow2:qcow2", "pairs of formats, source:destination")
	flag.Parse()
	b.limit = *limit << 20
	if err := b.run(strings.Split(*formats, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "copybench:", err)
		os.Exit(1)
	}
}

type bench struct {
	dir      string
	mib      int64
	pairs    int
	ordinary bool
	log      *os.File // where checkpoints go
	procs    *proc.Manager
	limit    int64 // bytes per second, 0 = none

	mu    sync.Mutex
	saved int
}

func (b *bench) run(formats []string) (err error) {
	dir, err := os.MkdirTemp(b.dir, "copybench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.dir = dir
	if b.procs, err = proc.New(proc.Options{Dir: filepath.Join(dir, "proc"), Name: filepath.Base(dir), Log: zerolog.Nop()}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.procs.Close()) }()
	if b.log, err = os.Create(filepath.Join(dir, "checkpoints")); err != nil {
		return err
	}
	defer b.log.Close()
	if err := b.makeSources(); err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if b.limit > 0 {
		return errors.Join(b.limited(out, formats), out.Flush())
	}
	fmt.Fprintln(out, "from\tto\tplain\tsliced\tcheckpoints\tratio\tlowest\thighest\tstop")
	for _, f := range formats {
		from, to, ok := strings.Cut(f, ":")
		if !ok {
			return fmt.Errorf("%q is no pair of formats", f)
		}
		if err := b.compare(out, from, to); err != nil {
			return err
		}
	}
	return out.Flush()
}

// makeSources makes the same content, data and holes by turns of 64 MiB, in both formats.
func (b *bench) makeSources() error {
	f, err := os.Create(b.path(qemuimg.Raw))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(2 * b.mib << 20); err != nil {
		return err
	}
	src, buf := rand.NewChaCha8([32]byte{1}), make([]byte, 1<<20)
	for i := range 2 * b.mib {
		if i/64%2 == 1 {
			continue
		}
		_, _ = src.Read(buf) // never fails
		if _, err := f.WriteAt(buf, i<<20); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-t", "none", "-T", "none", b.path(qemuimg.Raw), b.path(qemuimg.QCOW2))
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) compare(out *tabwriter.Writer, from, to string) error {
	var plain, sliced, ratios []float64
	for range b.pairs {
		p, err := b.plain(from, to)
		if err != nil {
			return err
		}
		s, err := b.sliced(from, to)
		if err != nil {
			return err
		}
		plain, sliced, ratios = append(plain, p.Seconds()), append(sliced, s.Seconds()), append(ratios, s.Seconds()/p.Seconds())
	}
	saved := b.saved
	stop, err := b.stop(from, to)
	if err != nil {
		return err
	}
	slices.Sort(ratios)
	fmt.Fprintf(out, "%s\t%s\t%.2f s\t%.2f s\t%d\t%.3f\t%.3f\t%.3f\t%d ms\n", from, to, median(plain), median(sliced), saved,
		median(ratios), ratios[0], ratios[len(ratios)-1], stop.Milliseconds())
	return nil
}

// limited tells how fast a copy with a limit is, as a part of the limit.
func (b *bench) limited(out *tabwriter.Writer, formats []string) error {
	fmt.Fprintln(out, "from\tto\tlimit\ttook\tcheckpoints\tof the limit")
	for _, f := range formats {
		from, to, ok := strings.Cut(f, ":")
		if !ok {
			return fmt.Errorf("%q is no pair of formats", f)
		}
		took, err := b.sliced(from, to)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\t%d MiB/s\t%.2f s\t%d\t%.3f\n", from, to, b.limit>>20, took.Seconds(), b.saved,
			float64(b.mib<<20)/took.Seconds()/float64(b.limit))
	}
	return nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// cold syncs and drops the caches, and then loads the programs again.
func (b *bench) cold() error {
	_ = os.Remove(b.path("copied"))
	if err := command("sync"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	return command("qemu-img", "--version")
}

func (b *bench) plain(from, to string) (time.Duration, error) {
	if err := b.cold(); err != nil {
		return 0, err
	}
	begin := time.Now()
	w, err := b.Start(context.Background(), proc.Spec{IdleIO: true, Argv: []string{"qemu-img", "convert", "-p", "-f", from, "-O", to,
		"-t", "none", "-T", "none", "-W", b.path(from), b.path("copied")}})
	if err != nil {
		return 0, err
	}
	if err := w.Wait(); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(b.path("copied"), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	err = f.Sync()
	return time.Since(begin), err
}

func (b *bench) spec(from, to string) copy.Spec {
	return copy.Spec{Source: copy.Source{Path: b.path(from), Format: from}, Capacity: 2 * b.mib << 20,
		Dest: copy.Dest{Path: b.path("copied"), Format: to, New: true}}
}

func (b *bench) sliced(from, to string) (time.Duration, error) {
	if err := b.cold(); err != nil {
		return 0, err
	}
	ctx := context.Background()
	b.saved = 0
	begin := time.Now()
	s := b.spec(from, to)
	if err := qemuimg.Create(ctx, b, qemuimg.CreateSpec{Path: s.Dest.Path, Format: to, Capacity: s.Capacity}); err != nil {
		return 0, err
	}
	err := copy.Run(ctx, b, s, nil)
	return time.Since(begin), err
}

// stop tells how long a copy takes to end when it is stopped after its second checkpoint.
func (b *bench) stop(from, to string) (time.Duration, error) {
	if err := b.cold(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := b.spec(from, to)
	if err := qemuimg.Create(ctx, b, qemuimg.CreateSpec{Path: s.Dest.Path, Format: to, Capacity: s.Capacity}); err != nil {
		return 0, err
	}
	st := &stopper{bench: b, cancel: cancel}
	if err := copy.Run(ctx, st, s, nil); !errors.Is(err, context.Canceled) {
		return 0, fmt.Errorf("a stopped copy ended with %w", err)
	}
	return time.Since(st.at), nil
}

// stopper cancels when there is progress after the second checkpoint.
type stopper struct {
	*bench
	cancel context.CancelFunc
	once   sync.Once
	at     time.Time
}

func (s *stopper) Progress(done, total int64) {
	if done > total/4 {
		s.once.Do(func() { s.at = time.Now(); s.cancel() })
	}
}

// Start, Checkpoint, Progress and Limit are copy.Env: a checkpoint is a synced write, as it is in the agent's store.
func (b *bench) Start(ctx context.Context, s proc.Spec) (*proc.Worker, error) {
	s.Task, s.IdleIO = "copybench", s.IdleIO && !b.ordinary
	w, err := b.procs.Start(s)
	if err == nil {
		context.AfterFunc(ctx, w.Terminate)
	}
	return w, err
}

func (b *bench) Checkpoint(state any) error {
	line, err := json.Marshal(state)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved++
	if _, err := b.log.Write(append(line, '\n')); err != nil {
		return err
	}
	return b.log.Sync()
}

func (b *bench) Progress(done, total int64) {}

func (b *bench) Limit() int64 { return b.limit }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
