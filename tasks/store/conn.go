package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
)

// reportLockAfter is how long a lock of another program is waited for before a line is logged. Shorter waits are
// everyday: the two connections of the store itself meet at a checkpoint.
const reportLockAfter = 100 * time.Millisecond

// waiter is called again and again while a lock is held by somebody else, with the number of calls so far; false
// gives up.
type waiter func(ctx context.Context, count int) bool

// immutable is the URI parameter by which SQLite takes no locks, makes no files, and takes a log for absent.
const immutable = "immutable=1"

// connect opens one connection to the store's file, which must exist. params are those of SQLite's URIs. cache is in
// KiB. Each connection has a memory of its own (a third of a MiB, and then what its cache needs), which is why caches
// are small; SQLite's reads come from the page cache of the kernel anyhow.
func connect(path, params string, mode sqlite3.OpenFlag, cache int, wait waiter) (*sqlite3.Conn, error) {
	// modeof: a log gets the mode of the file, whatever the umask.
	uri := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "modeof=" + url.QueryEscape(path)}
	if params != "" {
		uri.RawQuery += "&" + params
	}
	conn, err := sqlite3.OpenFlags(uri.String(), mode|sqlite3.OPEN_URI)
	if err != nil {
		return nil, err
	}
	err = conn.BusyHandler(wait)
	if err == nil {
		// Without checkpoints at close: they are ours to make, where an error of one is seen.
		_, err = conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
	}
	if err == nil {
		err = conn.Exec(fmt.Sprintf(`PRAGMA cache_size = -%d; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;
			PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF`, cache))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// lockWaiter returns a busy handler that waits up to limit for a lock of another program, and says so.
func lockWaiter(log zerolog.Logger, limit time.Duration) waiter {
	var since time.Time
	var reported bool
	return func(_ context.Context, count int) bool {
		if count == 0 {
			since, reported = time.Now(), false
		}
		waited := time.Since(since)
		if waited >= limit {
			return false
		}
		if waited >= reportLockAfter && !reported {
			reported = true
			log.Warn().Dur("limit", limit).Msg("the store is locked by another program, waiting: is a transaction " +
				"open in an administrator's sqlite3?")
		}
		time.Sleep(min(time.Duration(count+1)*time.Millisecond, 50*time.Millisecond, limit-waited))
		return true
	}
}

// prepare compiles one statement that is used again and again.
func prepare(conn *sqlite3.Conn, sql string) (*sqlite3.Stmt, error) {
	st, _, err := conn.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT)
	return st, err
}

// closeConn finishes the statements and closes the connection, which rolls back what it had open.
func closeConn(conn *sqlite3.Conn, stmts ...*sqlite3.Stmt) error {
	for _, st := range stmts {
		_ = st.Close() // answers the error of the statement's last run again
	}
	return conn.Close()
}

// bind binds the arguments from the left: string, []byte (never NULL), int, int64, bool, time.Time (microseconds).
func bind(st *sqlite3.Stmt, args ...any) error {
	for i, arg := range args {
		var err error
		switch v := arg.(type) {
		case string:
			err = st.BindText(i+1, v)
		case []byte:
			if v == nil {
				v = []byte{}
			}
			err = st.BindBlob(i+1, v)
		case int:
			err = st.BindInt(i+1, v)
		case int64:
			err = st.BindInt64(i+1, v)
		case bool:
			err = st.BindBool(i+1, v)
		case time.Time:
			err = st.BindInt64(i+1, v.UnixMicro())
		default:
			panic(fmt.Sprintf("store: cannot bind a %T", arg))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// execute runs a statement that answers no rows.
func execute(st *sqlite3.Stmt, args ...any) error {
	if err := bind(st, args...); err != nil {
		return err
	}
	return st.Exec()
}

// query runs a statement and calls row for each row. An error of row ends it and is returned.
func query(st *sqlite3.Stmt, row func() error, args ...any) (err error) {
	if err := bind(st, args...); err != nil {
		return err
	}
	for st.Step() {
		if err := row(); err != nil {
			_ = st.Reset() // nothing went wrong in the statement
			return err
		}
	}
	err = st.Err()
	_ = st.Reset() // answers err once more
	return err
}

// queryAll is query for a statement that is used once.
func queryAll(conn *sqlite3.Conn, sql string, row func(st *sqlite3.Stmt) error) error {
	st, _, err := conn.Prepare(sql)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // as in closeConn
	return query(st, func() error { return row(st) })
}

// queryInt returns the only value of a statement.
func queryInt(conn *sqlite3.Conn, sql string) (n int, err error) {
	err = queryAll(conn, sql, func(st *sqlite3.Stmt) error { n = st.ColumnInt(0); return nil })
	return n, err
}

// damaged says whether err means that the file's content is wrong, not that the storage fails.
func damaged(err error) bool {
	return errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB)
}

// unread says whether what a check finds is not damage but that the storage answered an error to a read.
func unread(problem string) bool {
	_, text, found := strings.Cut(problem, "unable to get the page. error code=")
	n, err := strconv.Atoi(strings.TrimSpace(text))
	return found && err == nil && sqlite3.ErrorCode(n&0xff) == sqlite3.IOERR
}

// failedSync returns err if it is that of a sync, else nil.
func failedSync(err error) error {
	if errors.Is(err, sqlite3.IOERR_FSYNC) || errors.Is(err, sqlite3.IOERR_DIR_FSYNC) {
		return err
	}
	return nil
}

// full says whether err means that there is no space. The VFS reports it in several ways.
func full(err error) bool {
	return errors.Is(err, sqlite3.FULL) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// unavailable makes the answer to a change of which nothing was written because of err.
func unavailable(path string, err error) error {
	switch {
	case full(err):
		return code.Errorf(code.TaskPersist, "no space is left for %s; free some and try again: %w", path, ErrUnavailable)
	case errors.Is(err, sqlite3.BUSY):
		return code.Errorf(code.TaskPersist, "%s is locked by another program; close the sqlite3 that looks into it "+
			"and try again: %w", path, ErrUnavailable)
	case damaged(err):
		return code.Errorf(code.TaskPersist, "%s is damaged (%v); look with \"vdsm-agentctl store check\": %w",
			path, err, ErrUnavailable)
	}
	return code.Errorf(code.TaskPersist, "writing %s failed (%v); try again: %w", path, err, ErrUnavailable)
}
