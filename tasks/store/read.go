package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"vdsm-agent/internal/code"
)

const recordColumns = `id, version, verb, tag, flow, state, cleared, created, updated, body`

// reader is the connection that reads, with its statements. It is used under SQLite.mu.
type reader struct {
	conn *sqlite3.Conn

	begin, end, get, row, log, fences, count, oldest *sqlite3.Stmt
	live, history                                    walk

	all []*sqlite3.Stmt
}

func (s *SQLite) openReader() (*reader, error) {
	conn, err := s.connect(sqlite3.OPEN_READONLY, readerCache)
	if err != nil {
		return nil, err
	}
	r := &reader{conn: conn}
	for _, p := range []struct {
		st  **sqlite3.Stmt
		sql string
	}{
		{&r.begin, `BEGIN`},
		{&r.end, `ROLLBACK`},
		{&r.get, `SELECT ` + recordColumns + ` FROM task WHERE id = ?`},
		{&r.row, `SELECT ` + recordColumns + ` FROM task WHERE rowid = ?`},
		{&r.log, `SELECT task, at, who, what FROM log WHERE task = ? ORDER BY seq`},
		{&r.fences, `SELECT flow, at, "until", who FROM fence ORDER BY flow`},
		{&r.count, `SELECT count(*) FROM task INDEXED BY task_live WHERE cleared = 0 AND id NOT IN (SELECT id FROM aside)`},
		{&r.oldest, `SELECT updated, id FROM task INDEXED BY task_cleared
			WHERE cleared = 1 AND id NOT IN (SELECT id FROM aside) ORDER BY updated DESC, id DESC LIMIT 1 OFFSET ?`},
		{&r.live.rows, walkRows("created", "task_live", "cleared = 0", ">", "ASC")},
		{&r.live.keys, walkKeys("created", "task_live", "cleared = 0", ">", "ASC")},
		{&r.history.rows, walkRows("updated", "task_cleared", "cleared = 1", "<", "DESC")},
		{&r.history.keys, walkKeys("updated", "task_cleared", "cleared = 1", "<", "DESC")},
	} {
		st, err := prepare(conn, p.sql)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		*p.st = st
		r.all = append(r.all, st)
	}
	return r, nil
}

func (r *reader) close() error { return closeConn(r.conn, r.all...) }

// read calls f with the reader. f must not call back into the store.
func (s *SQLite) read(f func(*reader) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.r == nil {
		return code.Errorf(code.TaskPersist, "%s is being opened anew after an error of the storage; try again: %w",
			s.path, ErrUnavailable)
	}
	err := f(s.r)
	switch {
	case err == nil || errors.Is(err, ErrNotFound):
		return err
	case damaged(err):
		return code.Errorf(code.TaskPersist, "reading %s: %v; look with \"vdsm-agentctl store check\": %w", s.path, err, ErrCorrupt)
	}
	return code.Errorf(code.TaskPersist, "reading %s failed (%v); try again: %w", s.path, err, ErrUnavailable)
}

// Get is Store's.
func (s *SQLite) Get(id string) (rec Record, err error) {
	err = s.read(func(r *reader) error {
		found := false
		err := query(r.get, func() (err error) {
			found = true
			rec, err = record(r.get)
			return err
		}, id)
		if err == nil && !found {
			err = code.Errorf(code.UnknownTask, "task %s is not known: %w", id, ErrNotFound)
		}
		return err
	})
	return rec, err
}

// Log is Store's.
func (s *SQLite) Log(id string) (entries []Entry, err error) {
	err = s.read(func(r *reader) error {
		return query(r.log, func() error {
			entries = append(entries, Entry{Task: r.log.ColumnText(0), At: timeOf(r.log, 1), Who: r.log.ColumnText(2),
				What: r.log.ColumnText(3)})
			return nil
		}, id)
	})
	return entries, err
}

// Fences is Store's. They are in the order of their flows.
func (s *SQLite) Fences() (fences []Fence, err error) {
	err = s.read(func(r *reader) error {
		return query(r.fences, func() error {
			fences = append(fences, Fence{Flow: r.fences.ColumnText(0), At: timeOf(r.fences, 1),
				Until: timeOf(r.fences, 2), Who: r.fences.ColumnText(3)})
			return nil
		})
	})
	return fences, err
}

// errUnreadable: a value is not of the kind that the schema says; somebody else wrote it.
var errUnreadable = errors.New("the record cannot be read")

// record reads the columns recordColumns.
func record(st *sqlite3.Stmt) (Record, error) {
	want := [...]sqlite3.Datatype{sqlite3.TEXT, sqlite3.INTEGER, sqlite3.TEXT, sqlite3.TEXT, sqlite3.TEXT, sqlite3.TEXT,
		sqlite3.INTEGER, sqlite3.INTEGER, sqlite3.INTEGER, sqlite3.BLOB}
	for i, t := range want {
		if have := st.ColumnType(i); have != t {
			return Record{}, fmt.Errorf("its column %s is of type %v, not %v: %w", st.ColumnName(i), have, t, errUnreadable)
		}
	}
	if v := st.ColumnInt64(1); v < 1 {
		return Record{}, fmt.Errorf("its version is %d: %w", v, errUnreadable)
	}
	return Record{
		ID: st.ColumnText(0), Version: uint64(st.ColumnInt64(1)), Verb: st.ColumnText(2), Tag: st.ColumnText(3),
		Flow: st.ColumnText(4), State: st.ColumnText(5), Cleared: st.ColumnInt64(6) != 0,
		Created: timeOf(st, 7), Updated: timeOf(st, 8), Body: st.ColumnBlob(9, nil),
	}, nil
}

func timeOf(st *sqlite3.Stmt, col int) time.Time { return time.UnixMicro(st.ColumnInt64(col)).UTC() }
