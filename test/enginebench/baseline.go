package main

import (
	"errors"
	"os"
	"sync"
	"time"

	"vdsm-agent/tasks/store"

	"github.com/google/uuid"
	"github.com/ncruces/go-sqlite3"
)

// baseline is what a plain program would do: for each request one synced transaction with the same two rows, on one
// connection behind a mutex, in a file with the store's own schema.
type baseline struct {
	mu                         sync.Mutex
	conn                       *sqlite3.Conn
	begin, task, entry, commit *sqlite3.Stmt
	row                        store.Record // what is written for each request, with another id
}

// openBaseline makes the file at path.
func openBaseline(path string) (*baseline, error) {
	row, err := submitted(path + ".sample")
	if err != nil {
		return nil, err
	}
	s, err := store.Open(path, store.Options{}) // makes the schema
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	conn, err := sqlite3.Open(path)
	if err != nil {
		return nil, err
	}
	b := &baseline{conn: conn, row: row}
	err = conn.Exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 4194304")
	for _, s := range []struct {
		to  **sqlite3.Stmt
		sql string
	}{
		{&b.begin, "BEGIN IMMEDIATE"},
		{&b.task, "INSERT INTO task (id, version, verb, tag, flow, state, cleared, created, updated, body) VALUES (?, 1, ?, ?, ?, ?, 0, ?, ?, ?)"},
		{&b.entry, "INSERT INTO log (task, at, who, what) VALUES (?, ?, ?, ?)"},
		{&b.commit, "COMMIT"},
	} {
		if err == nil {
			*s.to, _, err = conn.PrepareFlags(s.sql, sqlite3.PREPARE_PERSISTENT)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return b, nil
}

// submitted is the row that an engine writes at a submit.
func submitted(dir string) (row store.Record, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return row, err
	}
	e, err := openEngine(dir)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if _, err := e.submit(0, holder); err != nil {
		return row, err
	}
	id, err := e.submit(0, held)
	if err != nil {
		return row, err
	}
	return e.store.Get(id)
}

func (b *baseline) close() error {
	for _, st := range []*sqlite3.Stmt{b.begin, b.task, b.entry, b.commit} {
		_ = st.Close() // answers the error of its last run again
	}
	return b.conn.Close()
}

// request is one request.
func (b *baseline) request(int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, now := uuid.NewString(), time.Now().UnixMicro()
	err := errors.Join(
		b.task.BindText(1, id), b.task.BindText(2, b.row.Verb), b.task.BindText(3, b.row.Tag), b.task.BindText(4, b.row.Flow),
		b.task.BindText(5, b.row.State), b.task.BindInt64(6, now), b.task.BindInt64(7, now), b.task.BindBlob(8, b.row.Body),
		b.entry.BindText(1, id), b.entry.BindInt64(2, now), b.entry.BindText(3, who), b.entry.BindText(4, "submitted"),
	)
	for _, st := range []*sqlite3.Stmt{b.begin, b.task, b.entry, b.commit} {
		if err == nil {
			err = st.Exec()
		}
	}
	return err
}
