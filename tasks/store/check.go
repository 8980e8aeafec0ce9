package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
	"github.com/rs/zerolog"
)

// maxProblems bounds Report.Problems of each kind: a damaged page makes hundreds.
const maxProblems = 100

// Check is Store's: it reads every page and every row of the store while it is used.
func (s *SQLite) Check() (Report, error) {
	if err := s.read(func(*reader) error { return nil }); err != nil {
		return Report{}, err
	}
	report, err := checkFile(s.path, s.disk.params(), sqlite3.OPEN_READONLY, lockWaiter(s.log, s.busy))
	report.Path = s.path
	return report, err
}

// Check reads every page and every row of the store at path and changes nothing of it, whether or not a process uses
// it, and leaves no files behind. Damage is in Report.Problems and is no error.
//
// If a process uses the store, it is read as a second reader. If none does and the store was closed in order, the
// file is read as it is. If none does but there is a log, as after a crash, a copy in the directory for temporary
// files is checked, because SQLite would have to write to join the two.
//
// Errors: ErrNewer (Report.Schema says which version), fs.ErrNotExist, those of the file system.
func Check(path string) (Report, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Report{}, err
	}
	for {
		before, err := stamp(path)
		if err != nil {
			return Report{Path: path}, err
		}
		report, err := checkOnce(before)
		report.Path = path
		after, serr := stamp(path)
		if serr != nil {
			return report, serr
		}
		// A process that began or ended to use the store meanwhile moved pages under the eyes of a check that takes
		// no locks.
		if before == after || before.used {
			return report, err
		}
	}
}

// state is what tells two moments of a store's files apart.
type state struct {
	file      string // the one that holds the state
	used      bool
	size, log int64 // log: both kinds
	modified  int64 // nanoseconds
}

func stamp(path string) (state, error) {
	used, err := locked(path)
	if err != nil {
		return state{}, err
	}
	st := state{file: current(path), used: used}
	fi, err := os.Stat(st.file)
	if err != nil {
		return state{}, err
	}
	st.size, st.log, st.modified = fi.Size(), sizeOf(st.file+"-wal")+sizeOf(st.file+"-journal"), fi.ModTime().UnixNano()
	return st, nil
}

func checkOnce(st state) (Report, error) {
	h, _ := readHeader(st.file) // examine answers its error
	report := Report{Schema: h.schema}
	err := examine(st.file, len(steps))
	if errors.Is(err, ErrCorrupt) {
		report.Problems = []string{err.Error()}
		return report, nil
	}
	if err != nil {
		return report, err
	}
	wait := lockWaiter(zerolog.Nop(), defaultBusy)
	switch {
	case st.used:
		return checkFile(st.file, "", sqlite3.OPEN_READONLY, wait)
	case st.log > 0:
		dir, err := os.MkdirTemp("", "store-check-")
		if err != nil {
			return report, err
		}
		defer os.RemoveAll(dir)
		to := filepath.Join(dir, "store")
		for _, suffix := range []string{"", "-wal", "-journal"} {
			if err := copyFile(st.file+suffix, to+suffix); err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
				return report, fmt.Errorf("copying the store to %s: %w", dir, err)
			}
		}
		return checkFile(to, "", sqlite3.OPEN_READWRITE, wait)
	}
	return checkFile(st.file, immutable, sqlite3.OPEN_READONLY, wait)
}

// checkFile opens a file and checks it.
func checkFile(path, params string, mode sqlite3.OpenFlag, wait waiter) (report Report, err error) {
	conn, err := connect(path, params, mode, readerCache, wait)
	if err == nil {
		defer func() { err = errors.Join(err, conn.Close()) }()
		err = report.fill(conn)
	}
	if err != nil && (damaged(err) || errors.Is(err, ErrCorrupt)) {
		report.Problems = append(report.Problems, err.Error())
		err = nil
	}
	return report, err
}

// fill does the work of a check.
func (report *Report) fill(conn *sqlite3.Conn) (err error) {
	report.States, report.SetAside, report.Problems = map[string]int{}, []SetAside{}, []string{}
	if report.Schema, err = schemaOf(conn); err != nil {
		return err
	}
	if report.Schema > len(steps) {
		return newer(conn.Filename("").String(), report.Schema, len(steps))
	}
	if report.Schema == 0 {
		return nil // created, and never used
	}
	// Damage that ends one part of the work does not end the others.
	part := func(err error) error {
		if err == nil || !damaged(err) {
			return err
		}
		report.Problems = append(report.Problems, err.Error())
		return nil
	}
	report.Problems, err = checkPages(conn, fmt.Sprintf("integrity_check(%d)", maxProblems))
	return errors.Join(part(err), part(report.readAside(conn)), part(report.readTasks(conn)),
		part(readRows(conn, "log")), part(readRows(conn, "fence")), part(readRows(conn, "migration")))
}

// readAside lists what was set aside.
func (report *Report) readAside(conn *sqlite3.Conn) error {
	return queryAll(conn, `SELECT id, reason, at FROM aside ORDER BY at, id`, func(st *sqlite3.Stmt) error {
		report.SetAside = append(report.SetAside, SetAside{ID: st.ColumnText(0), Reason: st.ColumnText(1), At: timeOf(st, 2)})
		return nil
	})
}

// readTasks reads and counts all records but those that were set aside.
func (report *Report) readTasks(conn *sqlite3.Conn) error {
	aside := map[string]bool{}
	for _, a := range report.SetAside {
		aside[a.ID] = true
	}
	unreadable := 0
	return queryAll(conn, `SELECT `+recordColumns+` FROM task NOT INDEXED`, func(st *sqlite3.Stmt) error {
		rec, err := record(st)
		switch {
		case aside[st.ColumnText(0)]:
		case err != nil:
			if unreadable++; unreadable <= maxProblems {
				report.Problems = append(report.Problems, fmt.Sprintf("task %s: %v", st.ColumnText(0), err))
			}
		case rec.Cleared:
			report.History++
		default:
			report.Live++
			report.States[rec.State]++
		}
		return nil
	})
}

// readRows reads every row of a table and forgets it.
func readRows(conn *sqlite3.Conn, table string) error {
	return queryAll(conn, `SELECT * FROM `+table+` NOT INDEXED`, func(*sqlite3.Stmt) error { return nil })
}

// checkPages runs one of SQLite's checks and returns what it finds.
func checkPages(conn *sqlite3.Conn, pragma string) ([]string, error) {
	problems := []string{}
	err := queryAll(conn, "PRAGMA "+pragma, func(st *sqlite3.Stmt) error {
		if text := st.ColumnText(0); text != "ok" {
			problems = append(problems, text)
		}
		return nil
	})
	return problems, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
