package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// How a store that is not trusted any more gets a new file.
//
//  1. publish: VACUUM INTO path.building, from a connection that sees what was answered; fsync; rename to path.rebuilt.
//  2. finishSwap: fsync the directory. From here on path.rebuilt is the store. Remove path-wal, path-shm and
//     path-journal, which belong to the old file and which SQLite would replay into the new one; fsync the directory;
//     rename path.rebuilt to path; fsync the directory.
//
// A crash before the first fsync of the directory may leave the old file with its log, where a change whose answer
// was "unknown" may be there, whole. After it the next Open goes on with 2. A program that has the old file open
// keeps reading the old one.
const (
	building = ".building"
	rebuilt  = ".rebuilt"
)

// The retries of a recovery that failed.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
)

// current returns the file that holds the state of the store at path: path itself, unless a recovery was interrupted.
func current(path string) string {
	if _, err := os.Stat(path + rebuilt); err == nil {
		return path + rebuilt
	}
	return path
}

// distrust ends the use of the file and starts the recovery. Until that is done all changes answer ErrUnavailable.
func (s *SQLite) distrust(cause error) {
	s.log.Error().Err(cause).Msg("the storage failed under the store: writing all of it to a new file")
	s.broken, s.backoff = true, firstBackoff
	s.observer.Trusted(false)
	s.recover()
}

// recover makes the store usable again, or sets the time of the next attempt.
func (s *SQLite) recover() {
	err := s.rebuild()
	if err == nil {
		s.broken, s.retry = false, nil
		s.observer.Trusted(true)
		s.log.Warn().Msg("the store was written to a new file and is used again")
		return
	}
	s.log.Error().Err(err).Dur("again", s.backoff).Msg("writing the store to a new file failed; free space or repair the storage")
	s.retry = time.After(s.backoff)
	s.backoff = min(2*s.backoff, lastBackoff)
}

// rebuild makes both steps. While the old file is still open it starts from the beginning.
func (s *SQLite) rebuild() error {
	if s.w != nil {
		if err := s.publish(); err != nil {
			return err
		}
		if err := s.closeFile(); err != nil {
			s.log.Error().Err(err).Msg("the old file of the store could not be closed in order; it is not used any more")
		}
	}
	return s.openFile()
}

// publish makes step 1.
func (s *SQLite) publish() error {
	to := s.path + building
	if err := s.removeBuilding(); err != nil {
		return err
	}
	if err := s.disk.create(to); err != nil {
		return err
	}
	// A connection of its own: the writer's was in a transaction that failed, the reader's is left to the readers.
	// Those two stay open, and with them the shared index of the log; SQLite does not read the log anew.
	conn, err := s.connect(sqlite3.OPEN_READONLY, readerCache)
	if err != nil {
		return fmt.Errorf("opening the old file: %w", err)
	}
	err = conn.Exec("VACUUM INTO " + sqlite3.Quote(to))
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("copying to %s: %w", to, err)
	}
	if err := s.disk.sync(to); err != nil {
		return err
	}
	return s.disk.rename(to, s.path+rebuilt)
}

// finishSwap makes step 2 if step 1 was made to its end, and removes what it left otherwise.
func (s *SQLite) finishSwap() error {
	if err := s.removeBuilding(); err != nil {
		return err
	}
	if _, err := os.Stat(s.path + rebuilt); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	if err := s.disk.sync(dir); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := s.disk.remove(s.path + suffix); err != nil {
			return err
		}
	}
	if err := s.disk.sync(dir); err != nil {
		return err
	}
	if err := s.disk.rename(s.path+rebuilt, s.path); err != nil {
		return err
	}
	return s.disk.sync(dir)
}

func (s *SQLite) removeBuilding() error {
	return errors.Join(s.disk.remove(s.path+building), s.disk.remove(s.path+building+"-journal"))
}

// closeFile closes both connections.
func (s *SQLite) closeFile() error {
	s.mu.Lock()
	r := s.r
	s.r = nil
	s.mu.Unlock()
	err := errors.Join(r.close(), s.w.close())
	s.w = nil
	return err
}

// settle puts the log that a former process left on stable storage before anything is built on it. If that process
// died after a failed sync, part of the log may be in the page cache only, marked clean: SQLite would take it as
// recorded, new changes would follow it in the log, and a power cut would then cut them off with it. The bytes are
// written over themselves under SQLite's write lock, so no other program appends meanwhile. Open reads the log after
// that.
func (s *SQLite) settle() (err error) {
	if sizeOf(s.path+"-wal") == 0 {
		return nil
	}
	conn, err := s.connect(sqlite3.OPEN_READWRITE, readerCache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	have, err := schemaOf(conn)
	if err != nil {
		return err
	}
	if have > len(s.steps) {
		return newer(s.path, have, len(s.steps))
	}
	tx, err := conn.BeginImmediate()
	if err != nil {
		return err
	}
	// SQLite has removed it if the file is from before its log: the power failed while it was made.
	if sizeOf(s.path+"-wal") > 0 {
		err = s.disk.resync(s.path + "-wal")
	}
	return errors.Join(err, tx.Rollback())
}
