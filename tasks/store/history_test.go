package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/rs/zerolog"
)

func cleared(i int) Record {
	r := numbered(i)
	r.State, r.Cleared = "cleared", true
	return r
}

// old makes a file as the first released schema had it: n live tasks and n in the history, two entries each.
func old(t testing.TB, path string, n int) {
	t.Helper()
	conn, err := connect(path, "", sqlite3.OPEN_READWRITE|sqlite3.OPEN_CREATE, writerCache, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Exec("PRAGMA journal_mode = WAL"), migrate(conn, steps[:1])); err != nil {
		t.Fatal(err)
	}
	row := `(%s, 1, 'Volume.copy', 'spm', '', 'queued', %d, %d, %d, x'7b7d')`
	for i := range 2 * n {
		r := numbered(i)
		sql := fmt.Sprintf("INSERT INTO task VALUES "+row+"; INSERT INTO log (task, at, who, what) VALUES (%[1]s, 1, 'a', 'b'), (%[1]s, 2, 'a', 'c')",
			sqlite3.Quote(r.ID), i/n, i, i)
		if err := conn.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// A step that was released is never changed: files that it made are out there.
func TestReleasedSteps(t *testing.T) {
	for i, want := range []string{"d4dd8f81ad6e21bc93ef2a3997ed7ac423760ae3c3a9068d296b564fafcbf3a4"} {
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(steps[i]))); sum != want {
			t.Errorf("step %d was changed: %s", i, sum)
		}
	}
}

func TestVersion1BecomesCurrent(t *testing.T) {
	path := newPath(t)
	old(t, path, 20)
	if report, err := Check(path); err != nil || report.Schema != 1 || report.History != 20 || len(report.Problems) != 0 {
		t.Fatalf("the check of an old file answers %+v (%v)", report, err)
	}
	s := mustOpen(t, path, Options{})
	page, err := s.History(Place{}, 100)
	if err != nil || len(page) != 20 || page[0].ID != "task-000039" || page[19].ID != "task-000020" {
		t.Fatal(page, err)
	}
	if live, err := s.Count(); err != nil || live != 20 {
		t.Fatal(live, err)
	}
	if removed, err := s.Prune(time.UnixMicro(25), 10); err != nil || removed != 10 {
		t.Fatal(removed, err)
	}
	mustCommit(t, s, Change{Put: []Record{cleared(100)}})
	mustClose(t, s)
	if report, err := Check(path); err != nil || report.Schema != len(steps) || report.History != 11 || report.Live != 20 ||
		len(report.Problems) != 0 {
		t.Fatalf("the check answers %+v (%v)", report, err)
	}
}

// A history of 100,000 is as large as it gets, so no statement may read more of it than it needs.
func TestHistoryUsesItsIndex(t *testing.T) {
	s := mustOpen(t, newPath(t), Options{})
	mustCommit(t, s, Change{Put: []Record{cleared(1)}})
	for _, st := range []*sqlite3.Stmt{s.r.history.keys, s.r.history.rows, s.r.live.keys, s.r.live.rows, s.w.old, s.r.oldest, s.r.count} {
		var plan []string
		err := queryAll(s.r.conn, "EXPLAIN QUERY PLAN "+st.SQL(), func(st *sqlite3.Stmt) error {
			plan = append(plan, st.ColumnText(3))
			return nil
		})
		text := strings.Join(plan, "\n")
		ranged := st == s.r.oldest || st == s.r.count || strings.Contains(text, "SEARCH")
		if err != nil || !ranged || !strings.Contains(text, "USING COVERING INDEX task_") || strings.Contains(text, "TEMP B-TREE") {
			t.Errorf("%s\nis done so (%v):\n%s", st.SQL(), err, text)
		}
	}
}

// A step of Prune ends at each of its bounds, and goes on behind.
func TestPruneSteps(t *testing.T) {
	for name, test := range map[string]struct {
		bytes, entries int // of each record
		step           int // records
	}{
		"records": {0, 1, pruneRecords},
		"entries": {0, 100, pruneEntries / 100},
		"bytes":   {pruneBytes / 8, 0, 8},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, newPath(t), Options{})
			n := 2*test.step + 1
			for i := range n {
				c := Change{Put: []Record{cleared(i)}, Log: make([]Entry, test.entries)}
				c.Put[0].Body = make([]byte, test.bytes)
				for j := range c.Log {
					c.Log[j].Task = c.Put[0].ID
				}
				mustCommit(t, s, c)
			}
			var steps []int
			for at, end := (place{at: -1}), false; !end; {
				err := s.send(0, func(w *writer) error {
					p, err := w.prune(at, place{at: int64(n)}, pruneRecords)
					steps, at, end = append(steps, p.records), p.at, p.end
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if want := []int{test.step, test.step, 1}; !slices.Equal(steps, want) {
				t.Errorf("the steps remove %v records, want %v", steps, want)
			}
		})
	}
}

// A page of the history that is zeros costs the records in it only, and if they are removed those in the pages beside
// it, which SQLite would have to join with it.
func TestDamagedHistory(t *testing.T) {
	const tasks = 12000 // more than quickCheckUpTo
	for _, prune := range []bool{false, true} {
		t.Run(fmt.Sprintf("pruned at once %v", prune), func(t *testing.T) {
			path := newPath(t)
			s := mustOpen(t, path, Options{})
			var c Change
			for i := range tasks {
				c.Put = append(c.Put, cleared(i))
			}
			mustCommit(t, s, c)
			mustClose(t, s)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(b, []byte("task-006000Volume.copy"))
			if at < 0 {
				t.Fatal("the row is not found in the file")
			}
			clear(b[at&^4095:][:4096])
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s = mustOpen(t, path, Options{Log: zerolog.New(&log)})
			seen := 0
			if !prune {
				for at := (Place{}); ; {
					page, err := s.History(at, 1000)
					if err != nil {
						t.Fatal(err)
					}
					if len(page) == 0 {
						break
					}
					seen += len(page)
					at = Place{page[len(page)-1].Updated, page[len(page)-1].ID}
				}
				if seen < tasks-10 || seen > tasks-2 {
					t.Fatalf("%d of %d records are seen", seen, tasks)
				}
			}
			removed, err := s.Prune(time.Now(), 0)
			if err != nil || removed < tasks-20 || removed > tasks-2 || !prune && removed > seen {
				t.Fatalf("%d of %d records are removed, %d were seen: %v", removed, tasks, seen, err)
			}
			if n := strings.Count(log.String(), "is set aside"); n != tasks-removed {
				t.Errorf("%d records are left, %d lines tell of it", tasks-removed, n)
			}
			if removed, err := s.Prune(time.Now(), 0); err != nil || removed != 0 {
				t.Errorf("%d more records are removed: %v", removed, err)
			}
			mustCommit(t, s, Change{Put: []Record{cleared(tasks)}})
		})
	}
}
