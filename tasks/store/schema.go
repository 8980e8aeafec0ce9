package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ncruces/go-sqlite3"

	"vdsm-agent/internal/code"
)

// applicationID marks a SQLite file as a store of this program ("vdsa" in the header of the file).
const applicationID = 0x76647361

// steps bring a file from schema version i to i+1. A step that was released is never changed; a new one is put behind
// it. Times are microseconds since 1970 UTC. The CHECKs stand for a STRICT table, which the sqlite3 command of
// Enterprise Linux 8 and 9 (before 3.37) could not open.
var steps = []string{
	`PRAGMA application_id = 0x76647361;
	CREATE TABLE migration (
		version INTEGER PRIMARY KEY NOT NULL,
		at      INTEGER NOT NULL
	);
	CREATE TABLE task (
		id      TEXT    NOT NULL PRIMARY KEY CHECK (typeof(id) = 'text' AND id <> ''),
		version INTEGER NOT NULL CHECK (typeof(version) = 'integer' AND version > 0),
		verb    TEXT    NOT NULL CHECK (typeof(verb) = 'text'),
		tag     TEXT    NOT NULL CHECK (typeof(tag) = 'text'),
		flow    TEXT    NOT NULL CHECK (typeof(flow) = 'text'),
		state   TEXT    NOT NULL CHECK (typeof(state) = 'text'),
		cleared INTEGER NOT NULL CHECK (cleared IN (0, 1)),
		created INTEGER NOT NULL CHECK (typeof(created) = 'integer'),
		updated INTEGER NOT NULL CHECK (typeof(updated) = 'integer'),
		body    BLOB    NOT NULL CHECK (typeof(body) = 'blob' AND length(body) <= 1048576)
	);
	CREATE INDEX task_live ON task (created, id) WHERE cleared = 0;
	CREATE TABLE log (
		seq  INTEGER PRIMARY KEY NOT NULL,
		task TEXT    NOT NULL,
		at   INTEGER NOT NULL,
		who  TEXT    NOT NULL,
		what TEXT    NOT NULL
	);
	CREATE INDEX log_task ON log (task, seq);
	CREATE TABLE fence (
		flow    TEXT    NOT NULL PRIMARY KEY,
		at      INTEGER NOT NULL,
		"until" INTEGER NOT NULL,
		who     TEXT    NOT NULL
	);
	CREATE TABLE aside (
		id     TEXT    NOT NULL PRIMARY KEY,
		reason TEXT    NOT NULL,
		at     INTEGER NOT NULL
	);`,
	`CREATE INDEX task_cleared ON task (updated, id) WHERE cleared = 1;`,
}

// migrate runs the steps that the file behind conn has not seen, each in a transaction of its own, and moves the
// result out of the write-ahead log, so that the version can be read from the header of the file alone.
func migrate(conn *sqlite3.Conn, steps []string) error {
	have, err := schemaOf(conn)
	if err != nil {
		return err
	}
	if have > len(steps) {
		return newer(conn.Filename("").String(), have, len(steps))
	}
	for v := have; v < len(steps); v++ {
		sql := fmt.Sprintf(`BEGIN IMMEDIATE; %s;
			INSERT INTO migration VALUES (%d, CAST(strftime('%%s', 'now') AS INTEGER) * 1000000);
			PRAGMA user_version = %d; COMMIT`, steps[v], v+1, v+1)
		if err := conn.Exec(sql); err != nil {
			if !conn.GetAutocommit() {
				err = errors.Join(err, conn.Exec("ROLLBACK"))
			}
			return fmt.Errorf("bringing it from schema version %d to %d: %w", v, v+1, err)
		}
	}
	if have == len(steps) {
		return nil
	}
	_, _, err = conn.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
	return err
}

// schemaOf returns the schema version that SQLite sees, which may still be in the write-ahead log: 0 for an empty
// database. ErrCorrupt if it is not a store.
func schemaOf(conn *sqlite3.Conn) (int, error) {
	var n [3]int
	for i, sql := range []string{"PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema"} {
		v, err := queryInt(conn, sql)
		if err != nil {
			return 0, err
		}
		n[i] = v
	}
	if n[0] != applicationID && (n[1] != 0 || n[2] != 0) {
		return 0, notAStore(conn.Filename("").String())
	}
	return n[1], nil
}

// header is what can be learnt of a store without opening it as a database, so without leaving a trace.
type header struct {
	size    int64 // of the file, in bytes; 0 = nothing in it yet
	pages   int64 // that the file should have, 0 = not said
	perPage int64 // bytes
	schema  int
	app     uint32
}

// readHeader reads the header of the store's main file. Errors: fs.ErrNotExist, ErrCorrupt, and those of the file
// system.
func readHeader(path string) (header, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return header{}, err
	}
	h := header{size: st.Size()}
	if h.size == 0 {
		return h, nil
	}
	var b [100]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return header{}, err
	}
	if string(b[:16]) != "SQLite format 3\x00" {
		return header{}, notAStore(path)
	}
	h.perPage = int64(binary.BigEndian.Uint16(b[16:]))
	if h.perPage == 1 {
		h.perPage = 1 << 16
	}
	if binary.BigEndian.Uint32(b[24:]) == binary.BigEndian.Uint32(b[92:]) {
		h.pages = int64(binary.BigEndian.Uint32(b[28:]))
	}
	h.schema = int(binary.BigEndian.Uint32(b[60:]))
	h.app = binary.BigEndian.Uint32(b[68:])
	return h, nil
}

// examine says whether the files at path may be opened as a store by a program that knows the schema up to version.
// It changes nothing. A missing or empty file is fine (it will be created), unless a write-ahead log is there: the
// log alone is not a store, and SQLite would delete it. With a rollback journal, which is there while a new file is
// made, SQLite puts back what the file held before, so only the version counts.
func examine(path string, version int) error {
	h, err := readHeader(path)
	log, journal := sizeOf(path+"-wal"), sizeOf(path+"-journal")
	if journal > 0 && (err == nil || errors.Is(err, ErrCorrupt)) && (h.app != applicationID || h.schema <= version) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case h.size == 0 && log > 0:
		return corrupt(path, "its write-ahead log is there, but the file itself is missing or empty")
	case h.size == 0:
		return nil
	case h.app != applicationID && (h.schema != 0 || h.pages > 1):
		return notAStore(path)
	case h.schema > version:
		return newer(path, h.schema, version)
	case log == 0 && h.pages*h.perPage > h.size:
		return corrupt(path, fmt.Sprintf("it has %d bytes and should have %d", h.size, h.pages*h.perPage))
	}
	return nil
}

// sizeOf returns the size of a file in bytes, 0 if there is none.
func sizeOf(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func newer(path string, have, known int) error {
	return code.Errorf(code.TaskPersist, "%s has schema version %d, this program knows %d; nothing was changed: "+
		"install the version that wrote it, or restore a backup: %w", path, have, known, ErrNewer)
}

func corrupt(path, what string) error {
	return code.Errorf(code.TaskPersist, "%s: %s; nothing was changed: keep a copy, look with \"vdsm-agentctl store "+
		"check\", and restore a backup or move the file away: %w", path, what, ErrCorrupt)
}

func notAStore(path string) error {
	return corrupt(path, "this is not a task store")
}
