package copy

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How a worker of ours moves data.
const (
	chunk     = 1 << 20  // one request: a stop waits for those under way, milliseconds
	underWay  = 8        // requests at the same time
	blockSize = 4096     // what O_DIRECT wants offsets, lengths and buffers to be multiples of
	tellEach  = 16 << 20 // bytes between two lines about the progress
)

// answers writes lines; after an error it writes nothing more and keeps the error.
type answers struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (a *answers) line(words ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		_, a.err = fmt.Fprintln(a.w, words...)
	}
}

func (a *answers) json(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs always marshal
	}
	a.line(string(b))
}

// mover does pieces of work with several under way, cuts them into slices, and says of each slice that it was reached
// once all before it is on stable storage. The sync of a slice goes on while the next one is being written.
// Its methods are called by one goroutine; after an error they do nothing, and end tells it.
type mover struct {
	settle func() error // puts on stable storage what was done before
	out    *answers
	limit  int64  // bytes of data in a slice
	pace   *pacer // nil: the work moves no data
	pieces chan task
	cuts   chan *stretch
	cur    *stretch
	given  int64 // bytes of data handed to do, in all
	inCur  int64 // of these, in cur

	movers, syncer sync.WaitGroup

	mu     sync.Mutex
	moved  int64
	told   int64
	toldAt time.Time
	err    error
}

// task is one piece: do is called with an aligned buffer of chunk bytes.
type task struct {
	do    func(buf []byte) error
	bytes int64
	in    *stretch
}

// stretch is a slice that is being written.
type stretch struct {
	wg         sync.WaitGroup
	next, done int64
}

func newMover(settle func() error, out *answers, pace *pacer, done, total, limit int64) (*mover, error) {
	out.line(lineTotal, total)
	m := &mover{
		settle: settle, out: out, pace: pace, limit: limit, pieces: make(chan task), cuts: make(chan *stretch), cur: &stretch{},
		given: done, moved: done, told: done,
	}
	for range underWay {
		buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			close(m.pieces)
			return nil, err
		}
		m.movers.Go(func() { m.move(buf) })
	}
	m.syncer.Go(m.sync)
	return m, nil
}

func (m *mover) move(buf []byte) {
	for p := range m.pieces {
		if m.failed() == nil {
			m.note(p.do(buf), p.bytes)
		}
		p.in.wg.Done()
	}
}

func (m *mover) sync() {
	for s := range m.cuts {
		s.wg.Wait()
		if m.failed() != nil {
			continue
		}
		if err := m.settle(); err != nil {
			m.note(err, 0)
			continue
		}
		m.out.line(lineReached, s.next, s.done)
	}
}

func (m *mover) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *mover) note(err error, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	if m.moved += bytes; m.moved-m.told >= tellEach {
		m.announce()
	}
}

// wait waits until n more bytes may be moved.
func (m *mover) wait(n int64) { m.pace.take(n, m.still) }

// still says from time to time that a limited worker is at work, and so gives the agent an occasion to change the limit.
func (m *mover) still() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && time.Since(m.toldAt) >= lookAgain {
		m.announce()
	}
}

// announce tells the progress. The caller holds mu.
func (m *mover) announce() {
	m.told, m.toldAt = m.moved, time.Now()
	m.out.line(lineProgress, m.moved)
}

// do hands over a piece that ends before next and has bytes of data. It waits while all hands are busy, and for the limit.
func (m *mover) do(next, bytes int64, do func(buf []byte) error) error {
	if err := m.failed(); err != nil {
		return err
	}
	m.wait(bytes)
	m.cur.wg.Add(1)
	m.pieces <- task{do, bytes, m.cur}
	m.given += bytes
	if m.inCur += bytes; m.inCur >= m.pace.bound(m.limit) {
		m.cut(next)
	}
	return nil
}

// cut ends the slice at next. At most two slices are not synced at any time.
func (m *mover) cut(next int64) {
	m.cur.next, m.cur.done = next, m.given
	m.cuts <- m.cur
	m.cur, m.inCur = &stretch{}, 0
}

// end waits for all work and returns the first error. What was written after the last cut is not synced.
func (m *mover) end() error {
	close(m.pieces)
	m.movers.Wait()
	close(m.cuts)
	m.syncer.Wait()
	return m.failed()
}
