package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/rs/zerolog"
)

func mustOpen(t testing.TB, path string, o Options) *SQLite {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // for tests that fail; twice is fine
	return s
}

func mustCommit(t testing.TB, s *SQLite, c Change) {
	t.Helper()
	if err := s.Commit(c); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, s *SQLite) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "tasks.db") }

func numbered(i int) Record {
	at := time.UnixMicro(int64(i)).UTC()
	return Record{ID: fmt.Sprintf("task-%06d", i), Version: 1, Verb: "Volume.copy", State: "queued", Created: at, Updated: at,
		Body: bytes.Repeat([]byte("x"), 1200)}
}

// filled makes a store with n tasks and closes it.
func filled(t testing.TB, path string, n int) {
	t.Helper()
	s := mustOpen(t, path, Options{})
	var c Change
	for i := range n {
		c.Put = append(c.Put, numbered(i))
	}
	mustCommit(t, s, c)
	mustClose(t, s)
}

// withSQL runs SQL on a store that is closed, as somebody else would.
func withSQL(t testing.TB, path, sql string) {
	t.Helper()
	conn, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Exec(sql), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// snapshot returns the content and mode of all files of the directory of a store.
func snapshot(t testing.TB, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = fmt.Sprintf("%x %d", sha256.Sum256(content), len(content))
	}
	return files
}

func unchanged(t testing.TB, path string, before map[string]string) {
	t.Helper()
	after := snapshot(t, path)
	delete(after, filepath.Base(path)+".lock")
	delete(before, filepath.Base(path)+".lock")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the files changed:\n%v\n%v", before, after)
	}
}

func TestFilesArePrivate(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, Options{})
	mustCommit(t, s, Change{Put: []Record{numbered(1)}})
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		st, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", st.Name(), st.Mode())
		}
	}
	mustClose(t, s)
	if names := snapshot(t, path); len(names) != 2 { // the file and its lock
		t.Errorf("after Close there are %v", names)
	}
}

func TestOneWriter(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, Options{})
	_, err := Open(path, Options{})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("a second writer was answered %v", err)
	}
	mustCommit(t, s, Change{Put: []Record{numbered(1)}})
	mustClose(t, s)
	mustClose(t, mustOpen(t, path, Options{}))
}

func TestMigration(t *testing.T) {
	path := newPath(t)
	filled(t, path, 10)
	next := append(slices.Clone(steps), `ALTER TABLE task ADD COLUMN extra TEXT NOT NULL DEFAULT 'none';
		UPDATE task SET extra = verb`)
	broken := append(slices.Clone(next), `UPDATE task SET extra = 'half'; SELECT * FROM nowhere`)

	if _, err := Open(path, Options{steps: broken}); err == nil {
		t.Fatal("a step that fails was taken")
	}
	s := mustOpen(t, path, Options{steps: next}) // the good step was kept, the bad one undone
	if r, err := s.Get("task-000003"); err != nil || r.Verb != "Volume.copy" {
		t.Fatal(r, err)
	}
	mustCommit(t, s, Change{Put: []Record{numbered(10)}})
	mustClose(t, s)
	h, err := readHeader(path)
	if err != nil || h.schema != len(next) {
		t.Fatalf("the header says %+v (%v)", h, err)
	}
	conn, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]int{
		"SELECT count(*) FROM task WHERE extra = 'Volume.copy'":      10,
		"SELECT count(*) FROM task WHERE extra = 'none'":             1,
		"SELECT count(*) FROM migration WHERE at > 1700000000000000": len(next),
	} {
		if n, err := queryInt(conn, sql); err != nil || n != want {
			t.Errorf("%s: %d (%v), want %d", sql, n, err, want)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}

	// To the program with one step less, this file is newer.
	before := snapshot(t, path)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), path) {
		t.Fatalf("a newer store was answered %v", err)
	}
	if report, err := Check(path); !errors.Is(err, ErrNewer) || report.Schema != len(next) {
		t.Fatalf("the check of a newer store answers %+v, %v", report, err)
	}
	unchanged(t, path, before)
}

// The newer version shows in the log only: its process died before it moved the log into the file.
func TestNewerInTheLog(t *testing.T) {
	path := newPath(t)
	filled(t, path, 3)
	conn, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec("PRAGMA wal_autocheckpoint = 0; PRAGMA user_version = 77"); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(t.TempDir(), "tasks.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(path+suffix, dead+suffix); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dead)
	if report, err := Check(dead); !errors.Is(err, ErrNewer) || report.Schema != 77 {
		t.Fatalf("the check answers %+v, %v", report, err)
	}
	unchanged(t, dead, before)
	if _, err := Open(dead, Options{}); !errors.Is(err, ErrNewer) {
		t.Fatalf("a newer store was answered %v", err)
	}
	after := snapshot(t, dead)
	if after["tasks.db"] != before["tasks.db"] || after["tasks.db-wal"] != before["tasks.db-wal"] {
		t.Errorf("the files changed:\n%v\n%v", before, after)
	}
}

func TestBrokenFiles(t *testing.T) {
	for _, test := range []struct {
		name   string
		tasks  int
		damage func(b []byte) []byte
		opens  bool // the damage is too far in for Open to see
	}{
		{"random bytes", 10, func(b []byte) []byte {
			for i := range b {
				b[i] = byte(i*i*31 + i)
			}
			return b
		}, false},
		{"short text", 1, func([]byte) []byte { return []byte("hello\n") }, false},
		{"truncated", 200, func(b []byte) []byte { return b[:len(b)/2] }, false},
		{"truncated within the header", 1, func(b []byte) []byte { return b[:60] }, false},
		{"a zeroed page in the middle", 200, func(b []byte) []byte { clear(b[len(b)/2&^4095:][:4096]); return b }, false},
		{"a zeroed first page", 200, func(b []byte) []byte { clear(b[:4096]); return b }, false},
		{"a zeroed page of a large file", 12000, func(b []byte) []byte { clear(b[len(b)/2&^4095:][:4096]); return b }, true},
		{"truncated large file", 12000, func(b []byte) []byte { return b[:len(b)-4096] }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := newPath(t)
			filled(t, path, test.tasks)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, path)
			report, err := Check(path)
			if err != nil || len(report.Problems) == 0 {
				t.Errorf("the check finds %v (%v)", report.Problems, err)
			}
			unchanged(t, path, before)
			s, err := Open(path, Options{})
			if test.opens {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Fatalf("Open answers %v, %v", s, err)
			}
			if after := snapshot(t, path); after["tasks.db"] != before["tasks.db"] {
				t.Errorf("Open changed the file: %v, %v", before, after)
			}
		})
	}
}

func TestNotOurs(t *testing.T) {
	path := newPath(t)
	withSQL(t, path, "CREATE TABLE somebody (elses TEXT)")
	before := snapshot(t, path)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	unchanged(t, path, before)

	orphan := newPath(t)
	if err := os.WriteFile(orphan+"-wal", []byte("a log"), 0o600); err != nil {
		t.Fatal(err)
	}
	before = snapshot(t, orphan)
	if _, err := Open(orphan, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	unchanged(t, orphan, before)

	if _, err := Check(newPath(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// A record that was written over by somebody, and pages of bodies that are zeros, cost these records only.
func TestLiveSetsAsideWhatItCannotRead(t *testing.T) {
	const tasks = 12000 // more than quickCheckUpTo
	path := newPath(t)
	filled(t, path, tasks)
	withSQL(t, path, `PRAGMA ignore_check_constraints = ON; UPDATE task SET body = 'text' WHERE id = 'task-000007'`)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("task-006000Volume.copy")) // the id follows the header of the row in a page of the table
	if at < 0 {
		t.Fatal("the row is not found in the file")
	}
	clear(b[at&^4095:][:4096])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}

	var log bytes.Buffer
	s := mustOpen(t, path, Options{Log: zerolog.New(&log)})
	seen := map[string]bool{}
	walk := func() int {
		clear(seen)
		if err := s.Live(func(r Record) error { seen[r.ID] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		return len(seen)
	}
	n := walk()
	lost := tasks - n
	if lost < 2 || lost > 10 || seen["task-000007"] || seen["task-006000"] || !seen["task-000008"] {
		t.Fatalf("%d of %d records are seen", n, tasks)
	}
	if walk() != n {
		t.Fatal("the second walk sees others")
	}
	if got := strings.Count(log.String(), "is set aside"); got != lost {
		t.Errorf("%d records are missing, %d lines tell of it", lost, got)
	}
	report, err := s.Check()
	if err != nil || len(report.SetAside) != lost || len(report.Problems) == 0 {
		t.Errorf("the check finds %d set aside, problems %v (%v)", len(report.SetAside), report.Problems, err)
	}
	mustCommit(t, s, Change{Put: []Record{numbered(tasks)}}) // the rest of the store works
}

// An administrator's open transaction is waited for, reported, and then answered as unavailable; reading goes on.
func TestForeignLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait costs no time
		path := newPath(t)
		var log bytes.Buffer
		s := mustOpen(t, path, Options{Log: zerolog.New(&log)})
		mustCommit(t, s, Change{Put: []Record{numbered(1)}})
		foreign, err := sqlite3.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer foreign.Close()
		tx, err := foreign.BeginImmediate()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(Change{Put: []Record{numbered(2)}}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("behind a foreign lock a change was answered %v", err)
		}
		if !strings.Contains(log.String(), "locked by another program") {
			t.Errorf("the log does not tell of the lock: %s", &log)
		}
		if _, err := s.Get("task-000001"); err != nil {
			t.Error(err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, Change{Put: []Record{numbered(2)}})
		mustClose(t, s)
	})
}

// The sqlite3 command of the host reads the store while it is written, and changes nothing by that.
func TestAdministratorReads(t *testing.T) {
	command, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Fatal("the sqlite3 command is needed: apt-get install sqlite3")
	}
	path := newPath(t)
	s := mustOpen(t, path, Options{checkpoint: 20})
	for i := range 30 {
		mustCommit(t, s, Change{Put: []Record{numbered(i)}})
		out, err := exec.Command(command, "-readonly", path, "SELECT count(*), datetime(max(created) / 1000000, 'unixepoch') FROM task").CombinedOutput()
		if want := fmt.Sprintf("%d|1970-01-01 00:00:00\n", i+1); err != nil || string(out) != want {
			t.Fatalf("after %d changes sqlite3 says %q (%v)", i+1, out, err)
		}
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	if out, err := exec.Command(command, path, "VACUUM INTO '"+backup+"'").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	mustClose(t, s)
	restored := mustOpen(t, backup, Options{})
	if _, err := restored.Get("task-000029"); err != nil {
		t.Error(err)
	}
	mustClose(t, restored)
}

func TestCheckChangesNothing(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, Options{})
	for i := range 20 {
		mustCommit(t, s, Change{Put: []Record{numbered(i)}})
	}
	sound := func(when, path string) {
		t.Helper()
		report, err := Check(path)
		if err != nil || len(report.Problems) != 0 || report.Live != 20 || report.Schema != len(steps) || report.Path != path {
			t.Errorf("%s the check answers %+v (%v)", when, report, err)
		}
	}
	before := snapshot(t, path)
	sound("while it is used", path)
	after := snapshot(t, path)
	if after["tasks.db"] != before["tasks.db"] || after["tasks.db-wal"] != before["tasks.db-wal"] || len(after) != len(before) {
		t.Errorf("the files changed:\n%v\n%v", before, after)
	}

	crashed := filepath.Join(t.TempDir(), "tasks.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(path+suffix, crashed+suffix); err != nil {
			t.Fatal(err)
		}
	}
	before = snapshot(t, crashed)
	sound("after a crash", crashed)
	unchanged(t, crashed, before)

	mustClose(t, s)
	before = snapshot(t, path)
	sound("when it is closed", path)
	unchanged(t, path, before)

	if err := os.Rename(path, path+rebuilt); err != nil {
		t.Fatal(err)
	}
	before = snapshot(t, path)
	sound("in the middle of a recovery", path)
	unchanged(t, path, before)
	mustClose(t, mustOpen(t, path, Options{}))
	sound("after that recovery", path)
}

// An index that names a record that is gone, or another one, costs that record only.
func TestLiveSeesAWrongIndex(t *testing.T) {
	path := newPath(t)
	filled(t, path, 1000)
	withSQL(t, path, `PRAGMA writable_schema = ON; CREATE TABLE saved AS SELECT * FROM sqlite_schema WHERE name = 'task_live';
		DELETE FROM sqlite_schema WHERE name = 'task_live'`)
	withSQL(t, path, `DELETE FROM task WHERE id = 'task-000300'; UPDATE task SET id = 'other' WHERE id = 'task-000600'`)
	withSQL(t, path, `PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM saved`)
	withSQL(t, path, `DROP TABLE saved`)
	var log bytes.Buffer
	s := mustOpen(t, path, Options{Log: zerolog.New(&log)})
	i := 0
	err := s.Live(func(r Record) error {
		if i == 300 || i == 600 {
			i++
		}
		if want := numbered(i); r.ID != want.ID || !bytes.Equal(r.Body, want.Body) {
			return fmt.Errorf("record %d is %s", i, r.ID)
		}
		i++
		return nil
	})
	if err != nil || i != 1000 {
		t.Fatalf("%d records are seen: %v", i, err)
	}
	for _, id := range []string{"task-000300", "task-000600"} {
		if !strings.Contains(log.String(), id) {
			t.Errorf("%s is not told of: %s", id, &log)
		}
	}
	if _, err := s.Get("other"); err != nil {
		t.Error(err)
	}
}
