package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
)

// defaultBusy is how long a change waits for a lock of another program. Task.stop must be answered well within the 10
// s that most verbs allow for the whole cancel.
const defaultBusy = 5 * time.Second

// quickCheckUpTo is the size of a file, in bytes, up to which Open reads all of it to find damage, which takes up to
// 150 ms on a busy host. The damage of a larger file shows when the pages are read: Live sets such records aside,
// Check finds all.
const quickCheckUpTo = 8 << 20

// Caches in KiB. The writer needs the inner pages of three trees, a reader those of one.
const (
	writerCache = 512
	readerCache = 256
)

// Options are what Open may be told.
type Options struct {
	Log  zerolog.Logger
	Busy time.Duration // wait for locks of other programs, 0 = 5 s
	// Observer is told how the writer does; nil = nobody is.
	Observer Observer

	disk       disk     // nil = the operating system
	steps      []string // nil = the schema of this program
	checkpoint int      // pages, 0 = checkpointPages
	prune      int      // records in a step of Prune, 0 = pruneRecords
}

// SQLite is the Store in a SQLite file in WAL mode.
//
// One goroutine, run, owns the connection that writes. It takes whatever changes wait when it becomes free, writes
// them as one transaction, each in a savepoint of its own, and answers after the COMMIT, which syncs the log
// (synchronous=FULL). Reads use a connection of their own under mu and see every change that was answered.
//
// The low-level API of the SQLite module is used, not database/sql. Memory is the same (7 MiB for two connections and
// their caches) and a read takes 12 µs instead of 15, which is no reason; but the state of the transaction after an
// error decides here between "no" and "unknown", and database/sql hides it, as it hides when a connection is closed
// and opened.
//
// Trust. If a COMMIT or a checkpoint fails, what the file holds from then on is not what the kernel says it holds:
// pages whose write failed are marked clean. All that was answered was synced by an earlier COMMIT that succeeded, so
// it is all there, and the index of the log, which is in memory that the open connections share, still ends before
// the changes that failed. Therefore that view, and not a reopened file, is copied to a new file, and the new file
// takes the place of the old (see recover.go).
type SQLite struct {
	path       string
	log        zerolog.Logger
	observer   Observer
	busy       time.Duration
	disk       disk
	steps      []string
	checkpoint int // length of the log at which it is moved into the file, in pages
	prune      int // records in a step of Prune

	lock     *os.File
	requests chan *request
	closing  chan struct{}
	stopped  chan struct{} // run has ended
	close    func() error

	// Owned by run.
	w       *writer          // nil while the file cannot be opened
	broken  bool             // the file is not trusted; all changes are refused
	retry   <-chan time.Time // when to try again to mend that
	backoff time.Duration    // of the next retry

	mu     sync.Mutex // held for one statement, or for one page of a walk
	r      *reader    // nil as w
	closed bool
}

var _ Store = (*SQLite)(nil)

// Open opens the store at path and creates it if there is none (mode 0600; its directory must exist and its entry is
// on stable storage when Open returns). A file that a crash left is recovered, an older schema is brought up to date.
//
// Errors: ErrNewer and ErrCorrupt, with the file unchanged; ErrInUse; those of the file system. Damage is looked for
// in the header, and in the whole file up to quickCheckUpTo.
func Open(path string, o Options) (*SQLite, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s := &SQLite{
		path: path, log: o.Log.With().Str("store", path).Logger(), busy: o.Busy, disk: o.disk, steps: o.steps,
		checkpoint: o.checkpoint, prune: o.prune, requests: make(chan *request), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if s.observer = o.Observer; s.observer == nil {
		s.observer = nobody{}
	}
	if s.busy == 0 {
		s.busy = defaultBusy
	}
	if s.disk == nil {
		s.disk = osDisk{}
	}
	if s.steps == nil {
		s.steps = steps
	}
	if s.checkpoint == 0 {
		s.checkpoint = checkpointPages
	}
	if s.prune == 0 {
		s.prune = pruneRecords
	}
	if err := examine(current(path), len(s.steps)); err != nil {
		return nil, err
	}
	if s.lock, err = lock(path); err != nil {
		return nil, err
	}
	if err := s.openFile(); err != nil {
		s.lock.Close()
		return nil, s.openError(err)
	}
	s.close = sync.OnceValue(s.shut)
	go s.run()
	return s, nil
}

// openError makes the sentence for an error of Open.
func (s *SQLite) openError(err error) error {
	if errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
		return err
	}
	if damaged(err) {
		return corrupt(s.path, err.Error())
	}
	return code.Errorf(code.TaskPersist, "the task store %s cannot be opened: %w", s.path, err)
}

// openFile finishes what a crash interrupted and opens both connections. On an error none is open.
func (s *SQLite) openFile() (err error) {
	if err := s.finishSwap(); err != nil {
		return err
	}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		if err := s.disk.create(s.path); err != nil {
			return err
		}
	}
	// SQLite would make it with the mode that the umask leaves.
	if err := s.disk.create(s.path + "-shm"); err != nil {
		return err
	}
	// Also for files that were there: the process that made or renamed them may have died before this.
	if err := s.disk.sync(filepath.Dir(s.path)); err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return err
	}
	conn, err := s.connect(sqlite3.OPEN_READWRITE, writerCache)
	if err != nil {
		return err
	}
	if err := s.prepareFile(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	w, err := newWriter(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	r, err := s.openReader()
	if err != nil {
		return errors.Join(err, w.close())
	}
	s.w = w
	s.mu.Lock()
	s.r = r
	s.mu.Unlock()
	return nil
}

// prepareFile makes sure that the file behind conn is a sound store in WAL mode with the schema of this program.
func (s *SQLite) prepareFile(conn *sqlite3.Conn) error {
	have, err := schemaOf(conn)
	if err != nil {
		return err
	}
	if have > len(s.steps) {
		return newer(s.path, have, len(s.steps))
	}
	if st, err := os.Stat(s.path); err != nil {
		return err
	} else if st.Size() <= quickCheckUpTo {
		if problems, err := checkPages(conn, "quick_check(1)"); err != nil {
			return err
		} else if len(problems) > 0 && unread(problems[0]) {
			return fmt.Errorf("reading it failed: %s", problems[0])
		} else if len(problems) > 0 {
			return corrupt(s.path, problems[0])
		}
	}
	var mode string
	err = queryAll(conn, "PRAGMA journal_mode = WAL", func(st *sqlite3.Stmt) error { mode = st.ColumnText(0); return nil })
	if err == nil && mode != "wal" {
		err = fmt.Errorf("its journal mode stays %q; does another program have it open?", mode)
	}
	if err == nil {
		err = conn.Exec(`PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 4194304`)
	}
	if err == nil {
		err = migrate(conn, s.steps)
	}
	return err
}

func (s *SQLite) connect(mode sqlite3.OpenFlag, cache int) (*sqlite3.Conn, error) {
	return connect(s.path, s.disk.params(), mode, cache, lockWaiter(s.log, s.busy))
}

// Commit is Store's. A change that Validate refuses answers that error.
func (s *SQLite) Commit(c Change) error {
	if err := Validate(c); err != nil {
		return err
	}
	return s.send(size(c), func(w *writer) error { return w.apply(c) })
}

// SetAside is Store's. The record stays where it is and an entry in the table aside hides it from Live, because a
// damaged page may let no record be moved, and so that an administrator brings it back by removing the entry.
func (s *SQLite) SetAside(id, reason string) error {
	return s.send(len(id)+len(reason), func(w *writer) error { return execute(w.aside, id, reason, time.Now()) })
}

// send has the writer apply one request and waits for the answer.
func (s *SQLite) send(size int, apply func(*writer) error) error {
	r := &request{apply: apply, size: size, done: make(chan error, 1)}
	select {
	case <-s.closing: // first, or a request could still be taken after Close
		return ErrClosed
	default:
	}
	select {
	case s.requests <- r:
		return <-r.done
	case <-s.closing:
		return ErrClosed
	}
}

// Close is Store's. The log is moved into the file, so that the file alone is the whole store. It answers the error of
// that, after which nothing is lost (the log stays); a second Close answers the same.
func (s *SQLite) Close() error { return s.close() }

func (s *SQLite) shut() error {
	close(s.closing)
	<-s.stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var err error
	if s.r != nil {
		err = s.r.close()
		s.r = nil
	}
	if s.w != nil && !s.broken {
		_, _, cerr := s.w.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
		if cerr == nil {
			_, cerr = s.w.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, false) // removes the empty log
		}
		if errors.Is(cerr, sqlite3.BUSY) {
			cerr = nil // somebody reads; the next Open does it
		}
		err = errors.Join(err, cerr)
	}
	if s.w != nil {
		err = errors.Join(err, s.w.close())
	}
	return errors.Join(err, s.lock.Close())
}
