package store

import (
	"errors"
	"time"

	"github.com/ncruces/go-sqlite3"

	"vdsm-agent/internal/code"
)

// A group is what waits when the writer becomes free, up to these bounds: they limit the memory of the connection, and
// what one failed COMMIT makes unknown.
const (
	groupChanges = 256
	groupBytes   = 1 << 20
)

// checkpointPages is the length of the log, in pages of 4 KiB, at which it is moved into the file, and again after
// each as many: SQLite starts the log anew only when nobody reads its end.
const checkpointPages = 1000

// reportLogPages is the length of the log at which an administrator is told that something keeps it from being moved.
const reportLogPages = 16_000

// request is one change on its way to the writer.
type request struct {
	apply func(*writer) error
	size  int // bytes, about
	done  chan error
}

// writer is the connection that writes, with its statements. Only run uses it.
type writer struct {
	conn *sqlite3.Conn

	begin, commit, rollback, savepoint, release, rollbackTo *sqlite3.Stmt
	insert, update, entry, fence, unfence, aside            *sqlite3.Stmt
	old, drop, dropLog                                      *sqlite3.Stmt

	all      []*sqlite3.Stmt
	logPages int // length of the log after the last COMMIT
	moved    int // length of the log at the last checkpoint of it, 0 since it was started anew
}

func newWriter(conn *sqlite3.Conn) (*writer, error) {
	w := &writer{conn: conn}
	for _, s := range []struct {
		st  **sqlite3.Stmt
		sql string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.commit, `COMMIT`},
		{&w.rollback, `ROLLBACK`},
		{&w.savepoint, `SAVEPOINT one`},
		{&w.release, `RELEASE one`},
		{&w.rollbackTo, `ROLLBACK TO one`},
		{&w.insert, `INSERT INTO task (id, version, verb, tag, flow, state, cleared, created, updated, body)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`},
		{&w.update, `UPDATE task SET version = ?2, verb = ?3, tag = ?4, flow = ?5, state = ?6, cleared = ?7,
			created = ?8, updated = ?9, body = ?10 WHERE id = ?1 AND version = ?2 - 1`},
		{&w.entry, `INSERT INTO log (task, at, who, what) VALUES (?, ?, ?, ?)`},
		{&w.fence, `REPLACE INTO fence (flow, at, "until", who) VALUES (?, ?, ?, ?)`},
		{&w.unfence, `DELETE FROM fence WHERE flow = ?`},
		{&w.aside, `REPLACE INTO aside (id, reason, at) SELECT id, ?2, ?3 FROM task WHERE id = ?1`},
		{&w.old, `SELECT updated, id, rowid FROM task INDEXED BY task_cleared
			WHERE cleared = 1 AND (updated, id) > (?, ?) AND (updated, id) <= (?, ?) AND id NOT IN (SELECT id FROM aside)
			ORDER BY updated, id LIMIT ?`},
		{&w.drop, `DELETE FROM task WHERE rowid = ? AND id = ? AND cleared = 1 RETURNING length(body)`},
		{&w.dropLog, `DELETE FROM log WHERE task = ?`},
	} {
		st, err := prepare(conn, s.sql)
		if err != nil {
			return nil, errors.Join(err, closeConn(conn, w.all...))
		}
		*s.st = st
		w.all = append(w.all, st)
	}
	conn.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error { w.logPages = pages; return nil })
	return w, nil
}

func (w *writer) close() error { return closeConn(w.conn, w.all...) }

// run is the writer goroutine.
func (s *SQLite) run() {
	defer close(s.stopped)
	for {
		select {
		case r := <-s.requests:
			s.write(s.gather(r))
		case <-s.retry:
			s.recover()
		case <-s.closing:
			return
		}
	}
}

// gather adds to first what else waits.
func (s *SQLite) gather(first *request) []*request {
	group, size := []*request{first}, first.size
	for len(group) < groupChanges && size < groupBytes {
		select {
		case r := <-s.requests:
			group, size = append(group, r), size+r.size
		default:
			return group
		}
	}
	return group
}

// write writes a group in one transaction and answers each of it.
//
// Before the COMMIT every failure is a "no": no transaction without its last page counts. The pages are written to
// the log first, so that a full disk is met here. A failure of the COMMIT itself is an "unknown" for all that it
// held. That, or a failed sync at any time, ends the trust in the file.
func (s *SQLite) write(group []*request) {
	begun := time.Now()
	answers := make([]error, len(group))
	refuse := func(err error) { // nothing of the group is written: a conflict was one with a change that is not there either
		for i := range answers {
			answers[i] = err
		}
	}
	var lost error
	switch {
	case s.broken:
		refuse(code.Errorf(code.TaskPersist, "%s is being written anew after an error of the storage; try again: %w",
			s.path, ErrUnavailable))
	default:
		lost = s.transaction(group, answers, refuse)
	}
	s.told(begun, answers)
	for i, r := range group {
		r.done <- answers[i]
	}
	if lost == nil && !s.broken {
		lost = s.moveLog()
	}
	if lost != nil {
		s.distrust(lost)
	}
}

// told tells the observer what became of a transaction that began then. A conflict is an answer like any other.
func (s *SQLite) told(begun time.Time, answers []error) {
	good := 0
	for _, err := range answers {
		switch {
		case err == nil:
			good++
		case !errors.Is(err, ErrConflict):
			s.observer.Failed()
			return
		}
	}
	if good > 0 {
		s.observer.Synced(time.Since(begun), good)
	}
}

// transaction fills the answers in. An error means that the file is not to be trusted any more.
func (s *SQLite) transaction(group []*request, answers []error, refuse func(error)) error {
	w := s.w
	if err := w.begin.Exec(); err != nil {
		s.log.Error().Err(err).Int("changes", len(group)).Msg("the store could not begin a transaction")
		refuse(unavailable(s.path, err))
		return failedSync(err)
	}
	apply := w.separately
	if len(group) == 1 { // a failure takes the whole transaction back
		apply = func(change func(*writer) error) error { return change(w) }
	}
	good := 0
	for i, r := range group {
		err := apply(r.apply)
		if w.conn.GetAutocommit() { // SQLite gave up the transaction with the statement
			s.log.Error().Err(err).Int("changes", len(group)).Msg("the store could not record a change")
			refuse(unavailable(s.path, err))
			return failedSync(err)
		}
		switch {
		case err == nil:
			good++
		case !errors.Is(err, ErrConflict):
			s.log.Error().Err(err).Msg("the store could not record a change")
			err = unavailable(s.path, err)
		}
		answers[i] = err
	}
	if good == 0 {
		return w.rollback.Exec()
	}
	if err := w.conn.CacheFlush(); err != nil {
		s.log.Error().Err(err).Int("changes", len(group)).Msg("the store could not write a transaction")
		refuse(unavailable(s.path, err))
		if !w.conn.GetAutocommit() {
			return errors.Join(failedSync(err), w.rollback.Exec())
		}
		return failedSync(err)
	}
	err := w.commit.Exec()
	if err == nil {
		return nil
	}
	for i, answer := range answers {
		switch {
		case answer == nil:
			answers[i] = code.Errorf(code.TaskPersist, "%s failed while the change was being put on stable storage (%v); "+
				"ask for the task's state before trying again: %w", s.path, err, ErrUnknown)
		case errors.Is(answer, ErrConflict): // perhaps with a change that is now unknown
			answers[i] = unavailable(s.path, err)
		}
	}
	return err
}

// separately applies one change so that it leaves nothing behind if it fails.
func (w *writer) separately(apply func(*writer) error) error {
	if err := w.savepoint.Exec(); err != nil {
		return err
	}
	err := apply(w)
	if err != nil && !w.conn.GetAutocommit() {
		if e := w.rollbackTo.Exec(); e != nil {
			return errors.Join(err, e, w.rollback.Exec()) // the caller sees that the transaction is gone
		}
	}
	if !w.conn.GetAutocommit() {
		if e := w.release.Exec(); e != nil {
			return errors.Join(err, e, w.rollback.Exec())
		}
	}
	return err
}

// apply writes one change.
func (w *writer) apply(c Change) error {
	for _, r := range c.Put {
		st := w.update
		if r.Version == 1 {
			st = w.insert
		}
		err := execute(st, r.ID, int64(r.Version), r.Verb, r.Tag, r.Flow, r.State, r.Cleared, r.Created, r.Updated, r.Body)
		if err != nil {
			return err
		}
		if w.conn.Changes() == 0 {
			return code.Errorf(code.TaskPersist, "version %d of task %s does not follow the one that is stored: %w",
				r.Version, r.ID, ErrConflict)
		}
	}
	for _, e := range c.Log {
		if err := execute(w.entry, e.Task, e.At, e.Who, e.What); err != nil {
			return err
		}
	}
	for _, f := range c.Fence {
		if err := execute(w.fence, f.Flow, f.At, f.Until, f.Who); err != nil {
			return err
		}
	}
	for _, flow := range c.Unfence {
		if err := execute(w.unfence, flow); err != nil {
			return err
		}
	}
	return nil
}

// moveLog moves the log into the file if it is long enough, without waiting for readers. An error means that the file
// is not to be trusted any more; a lack of space only delays it, as nothing that is in the log was touched.
func (s *SQLite) moveLog() error {
	w := s.w
	if w.logPages < w.moved {
		w.moved = 0
	}
	if w.logPages < w.moved+s.checkpoint {
		return nil
	}
	if w.logPages >= reportLogPages {
		s.log.Warn().Int("pages", w.logPages).Msg("the log of the store grows: another program keeps a read transaction open")
	}
	w.moved = w.logPages
	_, _, err := w.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
	if errors.Is(err, sqlite3.BUSY) {
		return nil
	}
	if full(err) {
		s.log.Error().Err(err).Msg("no space is left to move the log of the store into its file; it is tried again")
		return nil
	}
	return err
}
