package store

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ncruces/go-sqlite3"
)

// BenchmarkCommit compares the store with one synced transaction per change on a connection of the same kind behind a
// mutex. One operation is one change, answered.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("grouped/writers=%d", writers), func(b *testing.B) {
			s := mustOpen(b, filepath.Join(b.TempDir(), "tasks.db"), Options{})
			defer mustClose(b, s)
			commitBy(b, writers, s.Commit)
		})
		b.Run(fmt.Sprintf("alone/writers=%d", writers), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "tasks.db")
			mustClose(b, mustOpen(b, path, Options{}))
			conn, err := sqlite3.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			if err := conn.Exec("PRAGMA synchronous = FULL"); err != nil {
				b.Fatal(err)
			}
			w, err := newWriter(conn)
			if err != nil {
				b.Fatal(err)
			}
			defer w.close()
			var mu sync.Mutex
			commitBy(b, writers, func(c Change) error {
				mu.Lock()
				defer mu.Unlock()
				if err := w.begin.Exec(); err != nil {
					return err
				}
				if err := w.apply(c); err != nil {
					return err
				}
				return w.commit.Exec()
			})
		})
	}
}

// commitBy has so many goroutines make b.N changes of one task each.
func commitBy(b *testing.B, writers int, commit func(Change) error) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				r := numbered(int(n))
				if err := commit(Change{Put: []Record{r}, Log: []Entry{{Task: r.ID, At: r.Created, Who: "agent", What: "queued"}}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}

// BenchmarkLive walks 100,000 live tasks of 1.2 KiB.
func BenchmarkLive(b *testing.B) {
	path := filepath.Join(b.TempDir(), "tasks.db")
	filled(b, path, 100_000)
	s := mustOpen(b, path, Options{})
	defer mustClose(b, s)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := s.Live(func(Record) error { n++; return nil }); err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
	}
}
